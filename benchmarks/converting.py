"""Converting a large file between the canonical layout and timm's, beside copying it."""

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
from mixer_spec.commands.output import Json, console, table

COPY = "copy"
WAYS = {
    COPY: ("copy", "canonical", "copied"),
    "canonical to timm": ("convert", "canonical", "to_timm", "timm"),
    "timm to canonical": ("convert", "timm", "to_canonical", "canonical"),
}
"""What a process does, from which file to which."""

MEMORY = ("peak_files", "anonymous_files")

MOST_COPIES = 3.0
MOST_MEMORY = 1.3


def once(folder: Path) -> dict[str, dict[str, Any]]:
    """Seconds and memory of each way, one after the other; none waits for another's bytes."""
    found = {}
    for label, (what, source, target, *layout) in WAYS.items():
        written = folder / f"{target}.safetensors"
        os.sync()
        done = run(
            ["-m", "measuring.conversion", what, _path(folder, source), str(written), *layout]
        )
        written.unlink()
        found[label] = {"seconds": done.seconds, "peak_bytes": done.peak_bytes}
        found[label] |= done.last_line if layout else {}
    return found


def _path(folder: Path, name: str) -> str:
    return str(folder / f"{name}.safetensors")


def write_sources(variant: str, folder: Path) -> int:
    """The same weights in both layouts; the size of the canonical file."""
    canonical, timm = _path(folder, "canonical"), _path(folder, "timm")
    run(["-m", "measuring.conversion", "write", variant, canonical])
    run(["-m", "measuring.conversion", "convert", canonical, timm, "timm"])
    return Path(canonical).stat().st_size


def summary(rounds: list[dict[str, dict[str, Any]]], size: int) -> dict[str, Any]:
    """Of each way: the median of the seconds and of the copies of its round, the most memory."""
    found = {}
    for label in WAYS:
        own = [each[label] for each in rounds]
        copies = [each[label]["seconds"] / each[COPY]["seconds"] for each in rounds]
        found[label] = {
            "seconds": statistics.median(each["seconds"] for each in own),
            "copies": statistics.median(copies),
            "copies_by_round": copies,
            "peak_files": max(each["peak_bytes"] for each in own) / size,
            "anonymous_files": max(each.get("anonymous_bytes", 0) for each in own) / size,
        }
    return found


def targets_of(ways: Mapping[str, Mapping[str, Any]]) -> Iterator[Target]:
    """That each conversion takes no longer than three copies, and little more than the file."""
    for label, found in ways.items():
        if label != COPY:
            yield Target(
                f"{label}: time, by that of a copy",
                f"<= {MOST_COPIES:.1f} x",
                f"{found['copies']:.1f} x",
                found["copies"] <= MOST_COPIES,
            )
            yield Target(
                f"{label}: peak memory, by the file",
                f"<= {MOST_MEMORY:.1f} x",
                f"{found['peak_files']:.2f} x",
                found["peak_files"] <= MOST_MEMORY,
            )


def print_ways(out: Console, ways: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one row for each way."""
    right = ("median s", "copies", "by round", "peak memory", "anonymous")
    made = table("what", *right, right=right)
    for label, found in ways.items():
        least, most = min(found["copies_by_round"]), max(found["copies_by_round"])
        made.add_row(
            label,
            f"{found['seconds']:.1f}",
            f"{found['copies']:.1f}",
            f"{least:.1f} to {most:.1f}",
            *("" if label == COPY else f"{found[key]:.2f}" for key in MEMORY),
        )
    out.print(made)


def main(
    variant_name: Annotated[str, typer.Option("--variant", help="Which Mixer.")] = "mixer_h14",
    rounds: Annotated[int, typer.Option(min=1, help="Processes of each.")] = 5,
    tries: Tries = 10,
    json: Json = False,
) -> None:
    """Measure what converting a large file costs: time beside a copy, and memory."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_sources(variant_name, folder)
        once(folder)  # so that both sources are in the page cache
        found, noise = quietest(lambda: once(folder), rounds, tries)
    ways = summary(found, size)
    figures = {"variant": variant_name, "bytes": size, "rounds": rounds, "ways": ways}
    results = Results(figures, list(targets_of(ways)), load, noise)
    if json:
        results.print_json()
        return
    out = console()
    out.print(
        f"[bold]Converting {variant_name}[/], a safetensors file of {size / 2**30:.2f} GiB that is "
        f"in the page cache, until the disk has it; {rounds} fresh processes each, imports included",
        soft_wrap=True,
    )
    print_ways(out, ways)
    out.print(
        "copies: time by that of a copy in the same round; peak memory: the most resident at once, "
        "pages of mapped files included, by the size of the file; anonymous: without those pages",
        soft_wrap=True,
        style="dim",
    )
    results.print_end(out)


if __name__ == "__main__":
    typer.run(main)
