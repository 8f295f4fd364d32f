"""Forward throughput of each family in PyTorch beside a plain module, in alternating processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console

from measuring.contest import Timings, as_fast, check_same_answer, speedups
from measuring.fresh import run
from measuring.machine import Tries, quietest
from measuring.targets import Results
from mixer_spec import variant
from mixer_spec.commands.output import Json, console, table

PLAIN = {
    "mixer_s16": "with_torch:plain",
    "resmlp_12": "with_torch:family",
    "gmlp_s16": "with_torch:family",
    "gmixer_12": "with_torch:family",
    "vit_s16": "with_torch:family",
    "ff_ti16": "with_torch:family",
}
"""The variant of each family, and what prepares its plain module."""

CONTENDERS = ("ours", "plain")


def measure(
    name: str, batch: int, threads: int, rounds: int, tries: int, repeats: int
) -> tuple[dict[str, Timings], float]:
    """Let ours and the plain module take turns in fresh processes; and the noise meanwhile."""
    numbers = [str(number) for number in (batch, threads, repeats)]

    def once() -> list[Any]:
        return [
            run(["-m", "measuring.timed", function, name, *numbers, "0", os.devnull]).last_line
            for function in ("with_torch:backend", PLAIN[name])
        ]

    found, noise = quietest(once, rounds, tries)
    for ours, plain in found:
        check_same_answer(f"mixer_torch's {name}", "the plain one", ours["logits"], plain["logits"])
    gflop = 2e-9 * batch * variant(name).spec().multiply_adds
    both = zip(*found, strict=True)
    return {
        contender: Timings(gflop, [each["forward_seconds"] for each in process])
        for contender, process in zip(CONTENDERS, both, strict=True)
    }, noise


def names_of(listed: str) -> list[str]:
    """The variants in a list with commas.

    Raises:
        BadParameter: if there is no plain module for some of them.
    """
    names = listed.split(",")
    if unknown := [name for name in names if name not in PLAIN]:
        raise typer.BadParameter(f"no plain module; expected some of {list(PLAIN)}, got {unknown}")
    return names


def print_timings(out: Console, found: Mapping[str, Mapping[str, Any]], batch: int) -> None:
    """Print one row for each variant."""
    right = ("ours s", "plain s", "images/s", "GFLOP/s", "ours/plain", "of the best", "by round")
    made = table("variant", *right, right=right)
    for name, measured in found.items():
        ours, plain, speedup = measured["ours"], measured["plain"], measured["speedup"]
        made.add_row(
            name,
            f"{ours['median_seconds']:.3f}",
            f"{plain['median_seconds']:.3f}",
            f"{batch / ours['median_seconds']:.1f}",
            f"{ours['gflops']:.0f}",
            f"{speedup['of_medians']:.2f} x",
            f"{speedup['of_best']:.2f} x",
            f"{min(speedup['by_round']):.2f} to {max(speedup['by_round']):.2f} x",
        )
    out.print(made)


def main(
    variants: Annotated[str, typer.Option(help="Which, with commas.")] = ",".join(PLAIN),
    batch: Annotated[int, typer.Option(min=1, help="Number of images.")] = 8,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of PyTorch. Default: every core.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Processes of each contender.")] = 5,
    tries: Tries = 15,
    repeats: Annotated[int, typer.Option(min=1, help="Forward passes of each process.")] = 7,
    json: Json = False,
) -> None:
    """Measure each family's forward throughput beside a plain module of the same architecture."""
    names = names_of(variants)
    threads = threads or len(os.sched_getaffinity(0))
    load, loudest = os.getloadavg()[0], 0.0
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        timings, noise = measure(name, batch, threads, rounds, tries, repeats)
        loudest = max(noise, loudest)
        found[name] = {contender: timing.to_data() for contender, timing in timings.items()}
        found[name]["speedup"] = speedups(timings["ours"], timings["plain"])
    figures = {
        "batch": batch,
        "threads": threads,
        "rounds": rounds,
        "repeats": repeats,
        "variants": found,
    }
    targets = [as_fast(name, "the plain module", each["speedup"]) for name, each in found.items()]
    results = Results(figures, targets, load, loudest)
    if json:
        results.print_json()
        return
    out = console()
    out.print(
        f"[bold]Forward pass in PyTorch[/], batch {batch}, float32, {threads} threads, "
        f"{rounds} rounds of {repeats} passes",
        soft_wrap=True,
    )
    print_timings(out, found, batch)
    results.print_end(out)


if __name__ == "__main__":
    typer.run(main)
