"""``mixer-spec verify``: judge installed backends on published variants or spec files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mixer_spec import VARIANTS, Backend, MissingExtraError, backend_names, load_backend
from mixer_spec.commands.architecture import find_architecture
from mixer_spec.commands.output import Json, console, print_json
from mixer_spec.errors import InputError

if TYPE_CHECKING:
    from .report import Report

_NOT_CONFORMANT, _CRASHED, _NOTHING_EXECUTED = 1, 3, 4


def verify(
    variant: Annotated[
        list[str] | None, typer.Argument(help="Variants' names or spec files (.json).")
    ] = None,
    backends: Annotated[
        str | None,
        typer.Option(
            help="Names separated by commas, or package.module:Class. "
            "Default: every backend whose extra is installed, without the reference."
        ),
    ] = None,
    every_variant: Annotated[
        bool, typer.Option("--all", help="Verify every published variant.")
    ] = False,
    image_size: Annotated[
        str | None, typer.Option(help="Pixels of a side, or HxW. Default: 224.")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Number of logits. Default: 1000.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Number of inputs. Default: 2; 1 for a huge model.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and inputs.")] = 0,
    full_table: Annotated[
        bool, typer.Option("--full-table", help="A row for every tap, not the worst of each kind.")
    ] = False,
    json: Json = False,
) -> None:
    """Verify that backends compute what the spec says, tap by tap, in float32.

    Exit codes: 0 all conformant, 1 not conformant, 2 bad input or a missing extra, 3 a backend
    crashed, 4 nothing was executed.
    """
    names = [*(variant or ()), *(VARIANTS if every_variant else ())]
    if not names:
        raise InputError(
            "verify", "nothing to verify; expected a variant, as in `verify mixer_s32`, or --all"
        )
    architectures = [find_architecture(n, image_size=image_size, classes=classes) for n in names]
    chosen = _installed() if backends is None else _named(backends)
    reports: list[Report] = []
    if chosen:
        from .verify import verify as judge

        with progress() as show:
            for name, (spec, published) in zip(names, architectures, strict=True):
                label = published.name if published else name

                def tell(activity: str, label: str = label) -> None:
                    show(f"{label}: {activity}")

                report = judge(spec, chosen, seed=seed, batch=batch, name=label, progress=tell)
                reports.append(report)
                if not json:
                    _print(report, every_tap=full_table)
    if json:
        data = [report.to_data() for report in reports]
        print_json({"conformant": _exit_code(reports) == 0, "reports": data})
    elif reports:
        _print_legend()
    else:
        console().print(
            "Nothing was executed: no backend is installed; "
            'do `pip install "mixer-spec\\[torch]"`, or name one with --backends.'
        )
    raise typer.Exit(_exit_code(reports))


def _installed() -> list[Backend]:
    """Every registered backend whose extra is installed, but the judge itself."""
    found = []
    for name in backend_names():
        if name != "reference":
            with contextlib.suppress(MissingExtraError):
                found.append(load_backend(name))
    return found


def _named(text: str) -> list[Backend]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InputError(
            "--backends", f"an empty name; expected names like jax,torch,onnxruntime, got {text!r}"
        )
    return [load_backend(name) for name in names]


def _exit_code(reports: Sequence[Report]) -> int:
    backends = [backend for report in reports for backend in report.backends]
    if not backends:
        return _NOTHING_EXECUTED
    if any(backend.crash is not None for backend in backends):
        return _CRASHED
    return 0 if all(backend.conformant for backend in backends) else _NOT_CONFORMANT


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is being done; silent where stderr is no terminal."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status.update


def _print(report: Report, *, every_tap: bool) -> None:
    from .render import print_report

    print_report(console(), report, every_tap=every_tap)


def _print_legend() -> None:
    from .render import print_legend

    print_legend(console())
