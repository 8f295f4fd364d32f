"""Loading a large model into PyTorch: time and memory of the canonical file and of others."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from measuring.fresh import run
from measuring.machine import Tries, quietest
from measuring.targets import Results, Target
from mixer_spec.commands.output import Json, console, table

WAYS = {
    "canonical file, mixer_torch.build": "canonical",
    "safetensors.torch.load_file": "safetensors_file",
    "torch.load(mmap=True)": "torch_mapped",
    "torch.load": "torch_file",
}

MOST_COPIED = 0.05
"""Anonymous memory as a share of the weights: what a framework keeps beside them is small."""


def print_ways(out: Console, ways: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one row for each way to load."""
    right = ("load s", "read all s", "anonymous MiB", "copies", "peak MiB")
    made = table("way", *right, right=right)
    for label, found in ways.items():
        made.add_row(
            label,
            f"{found['load_seconds']:.3f}",
            f"{found['read_seconds']:.2f}",
            f"{found['anonymous_bytes'] / 2**20:,.0f}",
            f"{found['copies']:.2f}",
            f"{found['peak_bytes'] / 2**20:,.0f}",
        )
    out.print(made)


def main(
    variant_name: Annotated[str, typer.Option("--variant", help="Which model.")] = "mixer_h14",
    rounds: Annotated[int, typer.Option(min=1, help="Processes of each; the fastest counts.")] = 3,
    tries: Tries = 9,
    json: Json = False,
) -> None:
    """Measure how PyTorch gets a large model: time, anonymous memory, peak memory."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        total = run(["-m", "measuring.load", "write", variant_name, folder]).last_line

        def once() -> dict[str, Any]:
            return {
                label: run(["-m", "measuring.load", way, variant_name, folder]).last_line
                for label, way in WAYS.items()
            }

        once()  # so that both files are in the page cache
        found, noise = quietest(once, rounds, tries)
        size = Path(folder, "canonical.safetensors").stat().st_size
    ways = {}
    for label in WAYS:
        own = [each[label] for each in found]
        ways[label] = min(own, key=lambda each: each["load_seconds"] + each["read_seconds"])
        ways[label]["copies"] = ways[label]["anonymous_bytes"] / total
    ours = next(iter(ways.values()))
    targets = [
        Target(
            "canonical file into torch: anonymous memory",
            f"< {MOST_COPIED:.0%} of the weights",
            f"{ours['copies']:.1%}",
            ours["copies"] < MOST_COPIED,
        )
    ]
    figures = {"variant": variant_name, "bytes": size, "rounds": rounds, "ways": ways}
    results = Results(figures, targets, load, noise)
    if json:
        results.print_json()
        return
    out = console()
    out.print(
        f"[bold]Loading {variant_name}[/], a file of {size / 2**30:.2f} GiB that is in the page "
        f"cache, the best of {rounds} processes; then every weight is read once",
        soft_wrap=True,
    )
    print_ways(out, ways)
    out.print(
        "anonymous: memory of the process's own, growth after both; copies: the same by the size "
        "of the weights; peak: the most resident at once, pages of the file included, growth",
        soft_wrap=True,
        style="dim",
    )
    results.print_end(out)


if __name__ == "__main__":
    typer.run(main)
