"""Time, memory and margins of ``mixer-spec verify`` on all seven scales of the Mixer."""

from __future__ import annotations

import json as json_format
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from measuring.fresh import Finished, run
from measuring.machine import Noise
from measuring.targets import Results, Target
from mixer_spec.commands.output import Json, console, table

SCALES = tuple(f"mixer_{name}" for name in ("s32", "s16", "b32", "b16", "l32", "l16", "h14"))
BACKENDS = ("jax", "torch", "onnxruntime")

MOST_SECONDS, MOST_GB = 300, 12
MOST_SECONDS_OF_ONE = 15


def verify(names: Sequence[str]) -> tuple[Finished, Mapping[str, Any]]:
    """Run the command in a process of its own, as a user does; a negative verdict counts too."""
    backends = ",".join(BACKENDS)
    arguments = ["-m", "mixer_spec", "verify", *names, "--backends", backends, "--json"]
    done = run(arguments, accepted=(0, 1, 3))
    return done, json_format.loads(done.stdout)


def cost(done: Finished) -> dict[str, float]:
    """Seconds and peak memory in GB (10^9 bytes) of a process."""
    return {"seconds": done.seconds, "peak_gb": done.peak_bytes / 1e9}


def scale_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a report that is printed: seconds, and the worst margin of each backend."""
    return {
        "seconds": report["seconds"],
        "batch": report["batch"],
        "taps": len(report["backends"][0]["taps"]),
        "margins": {
            backend["name"]: {
                "conformant": backend["conformant"],
                "margin": backend["margin"],
                "worst_tap": backend["worst_tap"],
            }
            for backend in report["backends"]
        },
    }


def targets_of(every: Finished, one: Finished, conformant: bool, small: str) -> list[Target]:
    """Time, memory, and a verdict of conformant everywhere."""
    gb = every.peak_bytes / 1e9
    return [
        Target(
            "all scales, three backends: time",
            f"< {MOST_SECONDS} s",
            f"{every.seconds:.0f} s",
            every.seconds < MOST_SECONDS,
        ),
        Target(
            "all scales, three backends: peak memory",
            f"< {MOST_GB} GB",
            f"{gb:.1f} GB",
            gb < MOST_GB,
        ),
        Target(
            "every tap of every scale within its tolerance",
            "all",
            "all" if conformant else "not all",
            conformant,
        ),
        Target(
            f"{small} alone, imports included",
            f"< {MOST_SECONDS_OF_ONE} s",
            f"{one.seconds:.1f} s",
            one.seconds < MOST_SECONDS_OF_ONE,
        ),
    ]


def print_scales(out: Console, scales: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one row for each scale."""
    out.print(
        "[bold]mixer-spec verify[/] of every tap against float64; the worst error of each backend "
        "as a fraction of its tolerance, and where",
        soft_wrap=True,
    )
    made = table("scale", "taps", "images", "s", *BACKENDS, right=("taps", "images", "s"))
    for name, scale in scales.items():
        cells = (
            "[red]not judged[/]"
            if margin["margin"] is None
            else f"{margin['margin']:.2f} {margin['worst_tap']}"
            for margin in scale["margins"].values()
        )
        numbers = (f"{scale['taps']}", f"{scale['batch']}", f"{scale['seconds']:.1f}")
        made.add_row(name, *numbers, *cells)
    out.print(made)


def main(
    scale: Annotated[
        list[str] | None, typer.Option(help="Which to verify. Default: all seven.")
    ] = None,
    small: Annotated[str, typer.Option(help="Which to verify alone.")] = SCALES[0],
    json: Json = False,
) -> None:
    """Measure `mixer-spec verify` on all seven scales, and on a small one alone."""
    load, noise = os.getloadavg()[0], Noise()
    one, _ = verify([small])
    every, document = verify(scale or SCALES)
    scales = {report["name"]: scale_of(report) for report in document["reports"]}
    figures = {"all": cost(every), "small": {"name": small} | cost(one), "scales": scales}
    targets = targets_of(every, one, document["conformant"], small)
    results = Results(figures, targets, load, noise.cores)
    if json:
        results.print_json()
        return
    out = console()
    print_scales(out, scales)
    results.print_end(out)


if __name__ == "__main__":
    typer.run(main)
