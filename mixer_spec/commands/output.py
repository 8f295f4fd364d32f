"""How every command prints and ends: one JSON document, or tables that a pipe does not fold."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table

from mixer_spec.errors import MixerSpecError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
"""The option that every command has."""

CRASHED = 3
"""The exit code of a command in which a backend crashed."""

_WIDE = 240  # columns for a file or a pipe, which has no edge to fold at
_BETWEEN = 2  # columns between two columns of a table
_FOLDED = 16  # columns that a folding column keeps, so that it does not become a thread


def print_json(data: Any) -> None:
    """Print ``data`` as the one JSON document of a command."""
    print(json.dumps(data, indent=2))


class _Uncut(Console):
    """A console that leaves the end of a long line to the terminal, which wraps it."""

    def print(self, *objects: Any, crop: bool = False, **options: Any) -> None:
        """Print as rich does, but for what is cut off."""
        super().print(*objects, crop=crop, **options)


def console(*, stderr: bool = False) -> Console:
    """The console of a command: as wide as the terminal, or wide enough for any table."""
    found = _Uncut(highlight=False, stderr=stderr)
    return found if found.is_terminal else _Uncut(highlight=False, stderr=stderr, width=_WIDE)


class _Whole(Table):
    """A table that becomes wider than the terminal before it cuts a name or a number."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich makes of it: within the terminal, or on as many columns as nothing folds at."""
        whole = least = 0
        for column in self.columns:
            cells = [cell for cell in (column.header, *column.cells) if isinstance(cell, str)]
            widest = max((console.render_str(cell).cell_len for cell in cells), default=0)
            column.min_width = widest if column.no_wrap else min(widest, _FOLDED)
            whole += widest + _BETWEEN
            least += column.min_width + _BETWEEN
        width = options.max_width if least <= options.max_width else whole
        return super().__rich_console__(console, options.update_width(width))


def table(*columns: str, right: tuple[str, ...] = (), folding: tuple[str, ...] = ()) -> Table:
    """An empty table.

    Args:
        columns: the headings.
        right: those of numbers, set to the right.
        folding: those that may fold when the terminal is too narrow.
    """
    made = _Whole(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column not in folding,
            overflow="fold",
        )
    return made


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is being done; silent where stderr is no terminal."""
    with Console(stderr=True).status("starting") as status:
        yield lambda activity: status.update(escape(activity))


@contextlib.contextmanager
def backend_crashes() -> Iterator[None]:
    """End the command with :data:`CRASHED` if a backend raises what is no error of ours.

    Raises:
        typer.Exit: then, behind the traceback on stderr.
    """
    try:
        yield
    except MixerSpecError:
        raise
    except Exception:  # noqa: BLE001 - whatever a backend raises is its own fault
        traceback.print_exc()
        raise typer.Exit(CRASHED) from None
