"""``mixer-spec verify``: judge backends on variants, spec files or a model file; or compare two."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixer_spec import (
    VARIANTS,
    Backend,
    MissingExtraError,
    ModelSpec,
    UnknownNameError,
    backend_names,
)
from mixer_spec import variant as find_variant
from mixer_spec.commands.architecture import find_architecture
from mixer_spec.commands.options import Classes, ImageSize
from mixer_spec.commands.output import Json, console, print_json, progress
from mixer_spec.errors import InputError
from mixer_spec.weights import Weights

if TYPE_CHECKING:
    from .compare import Comparison
    from .report import Report

_NOT_CONFORMANT, _CRASHED, _NOTHING_EXECUTED = 1, 3, 4


def verify(
    variant: Annotated[
        list[str] | None,
        typer.Argument(help="Variants' names, spec files (.json), or one or two model files."),
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
    image_size: ImageSize = None,
    classes: Classes = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Number of inputs. Default: 2; 1 for a huge model.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and inputs.")] = 0,
    full_table: Annotated[
        bool, typer.Option("--full-table", help="A row for every tap, not the worst of each kind.")
    ] = False,
    json: Json = False,
) -> None:
    """Verify that backends compute what the spec says, or that two files are the same function.

    Backends run in float32 and are judged tap by tap by float64: on made weights, or on those of a
    model file. Two model files are compared, by the reference in float64 and in every backend.

    Exit codes: 0 all conformant, or the same function; 1 not; 2 bad input or a missing extra, 3 a
    backend crashed, 4 nothing was executed.
    """
    names = [*(variant or ()), *(VARIANTS if every_variant else ())]
    if not names:
        raise InputError(
            "verify", "nothing to verify; expected a variant, as in `verify mixer_s32`, or --all"
        )
    files = [name for name in names if _is_model_file(name)]
    if files:
        _check_files(files, names, image_size=image_size, classes=classes)
    chosen = _installed() if backends is None else _named(backends)
    if len(files) == 2:
        comparison = _compare(files[0], files[1], chosen, seed=seed, batch=batch)
        if json:
            print_json(comparison.to_data())
        else:
            _print_comparison(comparison, every_tap=full_table)
        raise typer.Exit(_CRASHED if comparison.crashed else 0 if comparison.same else 1)
    models = (
        [_open(name) for name in files]
        if files
        else [_of_variant(name, image_size=image_size, classes=classes) for name in names]
    )
    reports: list[Report] = []
    if chosen:
        from .verify import verify as judge

        with progress() as show:
            for label, spec, weights in models:

                def tell(activity: str, label: str = label) -> None:
                    show(f"{label}: {activity}")

                report = judge(
                    spec,
                    chosen,
                    weights=weights,
                    seed=seed,
                    batch=batch,
                    name=label,
                    progress=tell,
                )
                reports.append(report)
                if not json:
                    _print(report, every_tap=full_table)
    if json:
        data = [report.to_data() for report in reports]
        print_json({"conformant": exit_code(reports) == 0, "reports": data})
    elif reports:
        _print_legend()
    else:
        console().print(
            "Nothing was executed: no backend is installed; "
            'do `pip install "mixer-spec\\[torch]"`, or name one with --backends.'
        )
    raise typer.Exit(exit_code(reports))


_Model = tuple[str, ModelSpec, Weights | None]
"""What to call a model, its spec, and its weights unless they are to be made."""


def _of_variant(name: str, *, image_size: str | None, classes: int | None) -> _Model:
    spec, published = find_architecture(name, image_size=image_size, classes=classes)
    return published.name if published else name, spec, None


def _open(name: str) -> _Model:
    from mixer_spec.model_files import read_model

    with progress() as show:
        show(f"reading {name}")
        file = read_model(Path(name))
    return name, file.spec, file.weights


def _is_model_file(name: str) -> bool:
    """Whether ``name`` is meant for a file with weights: no spec, and no variant's name."""
    path = Path(name)
    if path.suffix == ".json":
        return False
    try:
        find_variant(name)
    except UnknownNameError:
        return path.exists() or path.suffix in (".safetensors", ".onnx", ".npz", ".pth", ".h5")
    return False


def _check_files(
    files: Sequence[str], names: Sequence[str], *, image_size: str | None, classes: int | None
) -> None:
    problems = []
    if len(files) < len(names) or len(files) > 2:
        problems.append(
            "a model file is verified by itself or compared with another; expected one or two "
            f"files and nothing else, got {list(names)[:4]}"
        )
    if image_size is not None or classes is not None:
        problems.append(
            "a model file has an image size and classes of its own; "
            "expected neither --image-size nor --classes beside it"
        )
    if problems:
        raise InputError("verify", problems)


def _compare(
    one: str, other: str, backends: Sequence[Backend], *, seed: int, batch: int | None
) -> Comparison:
    from mixer_spec.model_files import read_model

    from .compare import compare

    with progress() as show:
        show(f"reading {one} and {other}")
        first, second = read_model(Path(one)), read_model(Path(other))
        return compare(
            first, second, backends, names=(one, other), seed=seed, batch=batch, progress=show
        )


def _print_comparison(comparison: Comparison, *, every_tap: bool) -> None:
    from .render import print_comparison, print_legend

    print_comparison(console(), comparison, every_tap=every_tap)
    if comparison.report is not None:
        print_legend(console())


def _installed() -> list[Backend]:
    """Every registered backend whose extra is installed, but the judge itself."""
    from .in_process import made, told

    found = []
    for name in backend_names():
        if name != "reference":
            with told(), contextlib.suppress(MissingExtraError):
                found.append(made(name))
    return found


def _named(text: str) -> list[Backend]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InputError(
            "--backends", f"an empty name; expected names like jax,torch,onnxruntime, got {text!r}"
        )
    from .in_process import made, told

    with told():
        return [made(name) for name in names]


def exit_code(reports: Sequence[Report]) -> int:
    """0 all conformant, 1 not, 3 a backend raised or hung, 4 nothing was executed."""
    backends = [backend for report in reports for backend in report.backends]
    if not backends:
        return _NOTHING_EXECUTED
    if any(backend.crash is not None for backend in backends):
        return _CRASHED
    return 0 if all(backend.conformant for backend in backends) else _NOT_CONFORMANT


def _print(report: Report, *, every_tap: bool) -> None:
    from .render import print_report

    print_report(console(), report, every_tap=every_tap)


def _print_legend() -> None:
    from .render import print_legend

    print_legend(console())
