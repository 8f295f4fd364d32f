"""The file that ``export_onnx`` writes beside those of ``torch.onnx``: its size, and time to load."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from measuring.fresh import run
from measuring.machine import Tries, quietest
from measuring.targets import Results, Target
from measuring.with_onnx import DYNAMO, DYNAMO_INLINE, EXTERNAL, OURS, TORCHSCRIPT
from mixer_spec.commands.output import Json, console, table

FILES = {
    "export_onnx": OURS,
    "torch.onnx, TorchScript": TORCHSCRIPT,
    "torch.onnx, dynamo, inline": DYNAMO_INLINE,
    "export_onnx, external weights": EXTERNAL,
    "torch.onnx, dynamo, external weights": DYNAMO,
}
PAIRS = (
    ("export_onnx", "torch.onnx, TorchScript"),
    ("export_onnx", "torch.onnx, dynamo, inline"),
    ("export_onnx, external weights", "torch.onnx, dynamo, external weights"),
)
"""Ours and the rival: first with the weights in the graph's file, then in one beside it."""


def size_of(folder: Path, name: str) -> int:
    """Bytes of a graph, and of weights in a file beside it."""
    return sum(path.stat().st_size for path in folder.glob(f"{Path(name).stem}*"))


def summary(rounds: list[dict[str, float]], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Of each file: its size, and the seconds until it is ready."""
    found = {}
    for label in FILES:
        own = [each[label] for each in rounds]
        found[label] = {
            "bytes": sizes[label],
            "median_seconds": statistics.median(own),
            "best_seconds": min(own),
            "seconds": own,
        }
    return found


def targets_of(files: Mapping[str, Mapping[str, Any]]) -> Iterator[Target]:
    """That ours is no larger than its rival, and loads no slower."""
    for ours, rival in PAIRS:
        mine, other = files[ours], files[rival]
        size = mine["bytes"] / other["bytes"]
        seconds = mine["median_seconds"] / other["median_seconds"]
        best = mine["best_seconds"] / other["best_seconds"]
        yield Target(
            f"{ours}: size beside {rival}", "<= 1.000 x", f"{size:.3f} x", round(size, 3) <= 1
        )
        yield Target(
            f"{ours}: time to load beside {rival}",
            "<= 1.00 x",
            f"{seconds:.2f} x by medians, {best:.2f} x by the best",
            round(seconds, 2) <= 1,
        )


def print_files(out: Console, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one row for each file."""
    right = ("MiB", "KiB beside ours", "median s", "best s")
    made = table("file", *right, right=right)
    mine = next(iter(files.values()))
    for label, found in files.items():
        made.add_row(
            label,
            f"{found['bytes'] / 2**20:.1f}",
            f"{(found['bytes'] - mine['bytes']) / 2**10:+.1f}",
            f"{found['median_seconds']:.3f}",
            f"{found['best_seconds']:.3f}",
        )
    out.print(made)


def main(
    variant_name: Annotated[str, typer.Option("--variant", help="Which Mixer.")] = "mixer_b16",
    rounds: Annotated[int, typer.Option(min=1, help="Processes of each file.")] = 9,
    tries: Tries = 27,
    json: Json = False,
) -> None:
    """Measure the size of an exported ONNX file and how long ONNX Runtime takes to load it."""
    load, threads = os.getloadavg()[0], len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(["-m", "measuring.with_onnx", variant_name, name])
        sizes = {label: size_of(folder, file) for label, file in FILES.items()}

        def once() -> dict[str, float]:
            return {
                label: run(
                    ["-m", "measuring.onnx_load", str(folder / file), str(threads)]
                ).last_line
                for label, file in FILES.items()
            }

        once()  # so that every file is in the page cache
        found, noise = quietest(once, rounds, tries)
    files = summary(found, sizes)
    figures = {"variant": variant_name, "threads": threads, "rounds": rounds, "files": files}
    results = Results(figures, list(targets_of(files)), load, noise)
    if json:
        results.print_json()
        return
    out = console()
    out.print(
        f"[bold]ONNX files of {variant_name}[/] in float32, and how long ONNX Runtime takes to load "
        f"them with {threads} threads, from the page cache; {rounds} fresh processes each",
        soft_wrap=True,
    )
    print_files(out, files)
    results.print_end(out)


if __name__ == "__main__":
    typer.run(main)
