"""``mixer-spec compare``: architectures side by side: cost, speed here, and the paper's figures."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from mixer_spec import published
from mixer_spec.errors import InputError
from mixer_spec.model import ModelSpec
from mixer_spec.throughput import WARM_UP, Measured, Throughput, measure
from mixer_spec.variants import Variant

from .architecture import find_architecture
from .options import Classes, ImageSize
from .output import CRASHED, Json, console, print_json, progress, table

_ROUNDS = 5
_MIB = 2**20

Architecture = tuple[str, ModelSpec, Variant | None]
"""A name to show, the spec, and its variant unless it is a file."""


def compare(
    variant: Annotated[list[str], typer.Argument(help="Variants' names or spec files (.json).")],
    image_size: ImageSize = None,
    classes: Classes = None,
    backends: Annotated[
        str | None,
        typer.Option(
            help="Names separated by commas, or package.module:Class; none to measure nothing. "
            "Default: every backend whose extra is installed, without the reference."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Inputs in a forward pass.")] = 8,
    json: Json = False,
) -> None:
    """Compare architectures: parameters, GFLOPs, memory, measured speed and published results.

    Exit codes: 0 good, 2 bad input or a missing extra, 3 a backend crashed.
    """
    architectures = [_find(name, image_size, classes) for name in variant]
    names = _names(backends)
    measured: list[Measured] = []
    if names != []:
        with progress() as tell:
            specs = [spec for _, spec, _ in architectures]
            measured = measure(specs, names, batch=batch, rounds=_ROUNDS, progress=tell)
    if json:
        print_json(_describe(architectures, measured, batch))
    else:
        _print(console(), architectures, measured, batch)
    if any(found.crash for found in measured):
        raise typer.Exit(CRASHED)


def _find(name: str, image_size: str | None, classes: int | None) -> Architecture:
    spec, found = find_architecture(name, image_size=image_size, classes=classes)
    return (found.name if found else name), spec, found


def _names(backends: str | None) -> list[str] | None:
    """The backends to measure; ``None`` is all that are installed."""
    if backends is None:
        return None
    if backends == "none":
        return []
    names = [name.strip() for name in backends.split(",")]
    if not all(names):
        raise InputError(
            "--backends",
            f"an empty name; expected names like jax,torch,onnxruntime or none, got {backends!r}",
        )
    return names


def _of_the_paper(spec: ModelSpec, found: Variant | None) -> bool:
    """Whether the paper's sizes at 224 pixels are those of ``spec``; it counts without the head."""
    return found is not None and spec.input.shape == (224, 224, 3)


# --- for programs ---------------------------------------------------------------------------


def _describe(
    architectures: Sequence[Architecture], measured: Sequence[Measured], batch: int
) -> dict[str, Any]:
    return {
        "batch": batch,
        "rounds": _ROUNDS,
        "warm_up": WARM_UP,
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "backends": {
            found.backend: {
                "versions": dict(found.versions),
                "device": found.device,
                "crash": found.crash,
            }
            for found in measured
        },
        "architectures": [
            {
                "name": name,
                "fingerprint": spec.fingerprint,
                "input": list(spec.input.shape),
                "classes": spec.classes,
                "parameters": spec.parameter_count,
                "parameters_without_head": spec.parameter_count_without_head,
                "multiply_adds": spec.multiply_adds,
                "gflops": 2e-9 * spec.multiply_adds,
                "activation_bytes": spec.activation_bytes,
                "inputs_per_second": {
                    found.backend: dataclasses.asdict(found.throughput[number])
                    for found in measured
                    if not found.crash
                },
                "published": _describe_published(name) if variant else None,
            }
            for number, (name, spec, variant) in enumerate(architectures)
        ],
    }


def _describe_published(name: str) -> dict[str, Any]:
    specification = published.SPECIFICATIONS.get(name)
    return {
        "source": published.SOURCE,
        "specification": dataclasses.asdict(specification) if specification else None,
        "results": [dataclasses.asdict(row) for row in published.results(name)],
    }


# --- for people -----------------------------------------------------------------------------


def _print(
    out: Console, architectures: Sequence[Architecture], measured: Sequence[Measured], batch: int
) -> None:
    names = [escape(name) for name, _, _ in architectures]
    made = table("", *names, right=tuple(names), folding=tuple(names))
    for label, cells in _rows(architectures, measured):
        made.add_row(label, *cells)
    out.print(made)
    out.print(
        "\nGFLOPs: 2 x multiply-adds of the matrix products, one input. MiB: every layer's output "
        "for one input in float32.\n"
        + _how_measured(measured, batch)
        + f"TPUv3 images/s: of one core, as {published.SOURCE} gives them.",
        soft_wrap=True,
        style="dim",
    )
    _print_published(out, [name for name, _, found in architectures if found])
    for one in measured:
        if one.crash:
            out.print(f"\n[bold red]{escape(one.backend)} crashed[/]\n{escape(one.crash)}")


def _rows(
    architectures: Sequence[Architecture], measured: Sequence[Measured]
) -> Iterator[tuple[str, list[str]]]:
    """Each measure with its value for every architecture."""
    specs = [spec for _, spec, _ in architectures]
    yield "input", ["x".join(map(str, spec.input.shape)) for spec in specs]
    yield "parameters", [f"{spec.parameter_count:,}" for spec in specs]
    yield "without head", [f"{spec.parameter_count_without_head:,}" for spec in specs]
    yield "GFLOPs", [f"{2e-9 * spec.multiply_adds:.2f}" for spec in specs]
    yield "MiB", [f"{spec.activation_bytes / _MIB:.1f}" for spec in specs]
    for one in measured:
        speeds = ["crashed"] * len(specs) if one.crash else map(_speed, one.throughput)
        yield f"{escape(one.backend)} inputs/s", [*speeds]
    papers = [
        published.tpu_throughput(name) if _of_the_paper(spec, found) else None
        for name, spec, found in architectures
    ]
    yield "TPUv3 images/s", [_number(paper, ",d") for paper in papers]


def _speed(throughput: Throughput) -> str:
    """The median, and how far the rounds went from it."""
    median = throughput.median
    spread = max(throughput.highest - median, median - throughput.lowest) / median
    return f"{median:,.4g} ±{spread:.0%}"


def _how_measured(measured: Sequence[Measured], batch: int) -> str:
    if not measured:
        return ""
    devices = ", ".join(f"{found.backend} on {found.device}" for found in measured)
    return (
        f"{devices}: inputs a second in batches of {batch}, float32, NumPy in and out: the median "
        f"of {_ROUNDS} alternating rounds, ± the one farthest from it.\n"
    )


def _print_published(out: Console, names: Sequence[str]) -> None:
    """The paper's results of these variants, if it has any."""
    rows = [row for name in dict.fromkeys(names) for row in published.results(name)]
    if not rows:
        return
    right = ("px", "ep", "top-1", "ReaL", "avg 5", "VTAB", "img/s", "days")
    made = table("published", "pre-training", *right, right=right)
    for row in rows:
        made.add_row(
            row.system,
            row.data,
            *(_number(n, "d") for n in (row.image_size, row.epochs)),
            *(_number(n, ".2f") for n in (row.imagenet, row.real, row.average_5, row.vtab)),
            _number(row.throughput, ",d"),
            f"{'~' if row.extrapolated else ''}{row.core_days:,}",
        )
    out.print("", made)
    out.print(
        f"\n{published.SOURCE}, tables 2 and 3: ep epochs of pre-training, then fine-tuned at px "
        "pixels; percent of top-1 on ImageNet, ReaL, five tasks, VTAB-1k; images a second on one "
        "TPUv3 core, and days of one to pre-train, ~ where extrapolated.",
        soft_wrap=True,
        style="dim",
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
