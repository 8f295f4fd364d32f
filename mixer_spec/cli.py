"""The command line ``mixer-spec``: the spec's own commands, and those that other packages bring.

Exit codes: 0 good, 1 a negative verdict, 2 bad input or a missing extra, 3 a backend crashed,
4 nothing was executed, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from . import __version__
from .commands.compare import compare
from .commands.doctor import doctor
from .commands.info import info
from .commands.list import list_variants
from .commands.schema import schema
from .errors import MissingExtraError, MixerSpecError
from .extras import load_or_name_extra

GROUP = "mixer_spec.commands"
"""The entry point group: each entry is a function with typer-annotated parameters, or a
``typer.Typer`` with several of them."""


class Commands(TyperGroup):
    """The spec's own commands, then the registered ones, each imported when it is first needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands, in the order of the help."""
        return list(dict.fromkeys([*super().list_commands(ctx), *_registered()]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command called ``cmd_name``, or ``None``."""
        if cmd_name not in self.commands:
            registered = _registered()
            # For a name that nobody has, all are made, so that the nearest can be suggested.
            for name in [cmd_name] if cmd_name in registered else registered:
                if name not in self.commands:
                    self.commands[name] = _make(registered[name])
        return super().get_command(ctx, cmd_name)


def _registered() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP))}


def _make(entry: EntryPoint) -> Any:
    """The command or group of an entry point; if it cannot be imported, one that says why."""
    where = f"command {entry.name}"
    one = typer.Typer(add_completion=False)
    try:
        found = load_or_name_extra(where, entry.load)
        if isinstance(found, typer.Typer):
            group = typer.main.get_command(found)
            group.name = entry.name  # which the help lists it by
            return group
        one.command(entry.name)(found)
    except MissingExtraError as error:
        _add_refusal(one, entry.name, error)
    except (ImportError, AttributeError) as error:
        _add_refusal(one, entry.name, MissingExtraError(where, f"cannot be imported: {error}"))
    return typer.main.get_command(one)


def _add_refusal(one: typer.Typer, name: str, error: MissingExtraError) -> None:
    """Add a command that takes any arguments and answers with ``error``."""

    def refuse() -> None:
        raise error

    one.command(
        name,
        help=escape(f"Not available: {error.problems[0]}"),
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(refuse)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("list")(list_variants)
app.command()(info)
app.command()(compare)
app.command()(schema)
app.command()(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mixer-spec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """One architecture spec for the MLP-Mixer family, run by JAX, PyTorch and ONNX Runtime."""


def main() -> None:
    """Run the command line and exit; an error of mixer_spec becomes one message and code 2."""
    try:
        try:
            app(prog_name="mixer-spec")
        finally:
            sys.stdout.flush()  # now, while a reader that has gone can still be met
    except MixerSpecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)  # as shells say it of whatever Ctrl-C ended
    except BrokenPipeError:
        # The reader has gone (`mixer-spec list | head -1`); keep Python's own last flush quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
