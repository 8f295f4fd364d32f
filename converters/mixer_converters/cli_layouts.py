"""The commands on files of any layout: ``convert``, ``inspect``, ``map``, ``diff`` and ``digest``."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from mixer_spec.commands.architecture import parse_image_size
from mixer_spec.commands.options import Pipeline
from mixer_spec.commands.output import Json, console, print_json, table
from mixer_spec.errors import InputError

from .cli import Labels, read_labels, status

if TYPE_CHECKING:
    from rich.table import Table

    from .inspection import Tensor

File = Annotated[Path, typer.Argument(help="A file or folder of weights, of any layout.")]
Gelu = Annotated[
    Literal["tanh", "none"] | None,
    typer.Option(help="The GELU that the weights were trained with: tanh, or none for erf."),
]
Epsilon = Annotated[
    float | None, typer.Option(help="The LayerNorms' epsilon that they were trained with.")
]


def convert(
    source: Annotated[Path, typer.Argument(help="A file or folder of weights, of any layout.")],
    target: Annotated[Path, typer.Argument(help="Where to; the ending says the kind of file.")],
    to: Annotated[
        str | None, typer.Option("--to", help="The layout: canonical, google, timm, deit, ...")
    ] = None,
    gelu: Gelu = None,
    epsilon: Epsilon = None,
    dtype: Annotated[
        Literal["float64", "float32", "float16", "bfloat16"] | None,
        typer.Option(help="Round the weights to it. Default: as they are."),
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(help="Of the source: pixels of a side, or HxW.")
    ] = None,
    resolution: Annotated[
        str | None, typer.Option(help="Of the target: a whole multiple of the source's.")
    ] = None,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="To any --resolution, but approximately.")
    ] = False,
    heads: Annotated[int | None, typer.Option(help="Of a ViT of unpublished size.")] = None,
    preprocessing: Pipeline = None,
    labels: Labels = None,
    mapping: Annotated[
        bool, typer.Option("--mapping", help="Print where every tensor went.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if it is there already.")
    ] = False,
    json: Json = False,
) -> None:
    """Turn weights of any layout into any other, bit for bit."""
    from mixer_spec.preprocess import pipeline

    from .checkpoint import at_resolution, described, load
    from .convert import convert as convert_file

    size = None if image_size is None else parse_image_size(image_size)
    checkpoint = load(source, gelu=gelu, epsilon=epsilon, image_size=size, heads=heads)
    checkpoint = described(
        checkpoint,
        preprocessing=None if preprocessing is None else pipeline(preprocessing),
        labels=None if labels is None else read_labels(labels),
    )
    if resolution is not None:
        new_size = parse_image_size(resolution, "--resolution")
        checkpoint = at_resolution(
            checkpoint, new_size, interpolate=interpolate, where="--resolution"
        )
    elif interpolate:
        raise InputError("--interpolate", "goes with --resolution, as in `--resolution 384`")
    with _progress(f"writing {target}", checkpoint.nbytes) as advance:
        done = convert_file(
            checkpoint, target, to=to, dtype=dtype, overwrite=force, progress=advance
        )
    notes = [*checkpoint.notes, *done.notes]
    rows = [(e.foreign, ", ".join(e.canonical), e.how) for e in done.entries]
    summary = {
        "source": {"path": str(source), "layout": checkpoint.layout, "kind": checkpoint.container},
        "target": {"path": str(target), "layout": done.layout, "kind": done.container},
        "variant": checkpoint.variant,
        "classes": checkpoint.spec.classes,
        "input": list(checkpoint.spec.input.shape),
        "parameters": checkpoint.spec.parameter_count,
        "fingerprint": checkpoint.spec.fingerprint,
        "notes": notes,
    }
    if json:
        listed = [dict(zip(("foreign", "canonical", "how"), row, strict=True)) for row in rows]
        print_json(summary | ({"mapping": listed} if mapping else {}))
        return
    out = console()
    if mapping:
        shown = table(f"in {done.layout}", "canonical", "axes", folding=("axes",))
        for row in rows:
            shown.add_row(*map(escape, row))
        out.print(shown, "")
    out.print(
        f"{escape(str(source))}: {checkpoint.layout} ({checkpoint.container}) -> "
        f"{escape(str(target))}: {done.layout} ({done.container})"
    )
    variant = checkpoint.variant or "sizes of its own"
    out.print(f"{variant}, {checkpoint.spec.parameter_count:,} parameters")
    _print_notes(notes)


def inspect(file: File, json: Json = False) -> None:
    """Show what a file of weights is: layout, variant, tensors, statistics."""
    from .inspection import inspect as inspect_file

    with status(f"reading {file}"):
        found = inspect_file(file)
    checkpoint = found.checkpoint
    facts: dict[str, Any] = {
        "path": str(file),
        "kind": found.container,
        "layout": checkpoint.layout if checkpoint else None,
        "variant": checkpoint.variant if checkpoint else None,
        "input": list(checkpoint.spec.input.shape) if checkpoint else None,
        "classes": checkpoint.spec.classes if checkpoint else None,
        "blocks": checkpoint.spec.depth if checkpoint else None,
        "values": sum(math.prod(tensor.shape) for tensor in found.tensors),
        "problem": found.problem,
        "notes": list(checkpoint.notes) if checkpoint else [],
        "provenance": dict(checkpoint.provenance) if checkpoint else {},
    }
    if json:
        print_json(facts | {"tensors": [dataclasses.asdict(tensor) for tensor in found.tensors]})
        return
    out = console()
    out.print(_tensors(found.tensors), "")
    for key, value in facts.items():
        if key not in ("notes", "problem", "provenance") and value is not None:
            text = f"{value:,}" if isinstance(value, int) else str(value)
            out.print(f"{key:<12} {escape(text)}", soft_wrap=True)
    for key, value in facts["provenance"].items():
        out.print(f"{key:<12} {escape(value)}", soft_wrap=True)
    _print_notes([*facts["notes"], *([found.problem] if found.problem else [])])


def _tensors(tensors: Sequence[Tensor]) -> Table:
    """A row for each; what would be the same or nothing in every row is left out."""
    renamed = any(tensor.canonical != (tensor.name,) for tensor in tensors)
    odd = any(tensor.odd for tensor in tensors)
    numbers = ("min", "max", "mean", "deviation", *(["not finite"] if odd else []))
    names = ("tensor", *(["canonical"] if renamed else []))
    shown = table(*names, "shape", "dtype", *numbers, right=numbers)
    for tensor in tensors:
        values = (tensor.minimum, tensor.maximum, tensor.mean, tensor.deviation)
        shown.add_row(
            escape(tensor.name),
            *([", ".join(tensor.canonical)] if renamed else []),
            "x".join(map(str, tensor.shape)),
            tensor.dtype,
            *("" if value is None else f"{value:.4g}" for value in values),
            *([str(tensor.odd or "")] if odd else []),
        )
    return shown


def map_(
    name: Annotated[str, typer.Argument(help="A tensor's name in any layout.")],
    json: Json = False,
) -> None:
    """Show one tensor's name in every layout."""
    from .inspection import map_name

    found = map_name(name)
    if json:
        print_json([dataclasses.asdict(one) for one in found])
        return
    shown = table("layout", "holds", "name", "canonical", "axes", folding=("axes",))
    for one in found:
        shown.add_row(
            one.layout,
            "/".join(one.families),
            escape(one.foreign),
            escape(", ".join(one.canonical)),
            escape(one.how),
        )
    console().print(shown)


def diff(
    one: Annotated[Path, typer.Argument(help="A file or folder of weights.")],
    other: Annotated[Path, typer.Argument(help="Another, of the same layout or of another.")],
    json: Json = False,
) -> None:
    """Compare the weights of two files, whatever their layouts; 1 if they differ."""
    from .checkpoint import load_weights
    from .inspection import diff as diff_files

    files = [load_weights(path) for path in (one, other)]
    with _progress("comparing", sum(file.nbytes for file in files)) as advance:
        total, found = diff_files(*(file.watched(advance) for file in files))
    if json:
        print_json(
            {
                "weights": total,
                "same": not found,
                "different": [dataclasses.asdict(difference) for difference in found],
            }
        )
    else:
        out = console()
        if found:
            numbers = ("largest difference", "relative")
            shown = table("weight", "differs in", *numbers, right=numbers)
            for d in found:
                values = (d.largest, d.relative)
                shown.add_row(d.name, d.what, *("" if v is None else f"{v:.3g}" for v in values))
            out.print(shown, "")
        same = total - len(found)
        out.print(f"{same} of {total} weights are the same, bit for bit")
    if found:
        raise typer.Exit(1)


def digest(file: File, json: Json = False) -> None:
    """Print the digest of a file's weights, which no layout enters."""
    from .checkpoint import load_weights

    checkpoint = load_weights(file)
    with _progress(f"reading {file}", checkpoint.nbytes) as advance:
        found = checkpoint.watched(advance).weights_digest
    if json:
        print_json({"path": str(file), "weights_digest": found})
    else:
        print(found)


def _print_notes(notes: list[str]) -> None:
    out = console()
    if notes:
        out.print("")
    for note in notes:
        out.print(f"- {escape(note)}", soft_wrap=True)


@contextlib.contextmanager
def _progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal; gives what moves it on."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn(escape(text)), BarColumn(), DownloadColumn())
    err = Console(stderr=True)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(text, total=total)
        yield lambda count: bar.advance(task, count)
