"""How near right backends come to a false alarm: worst margins over seeds, models and threads."""

from __future__ import annotations

import contextlib
import json as json_format
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from measuring.fresh import run
from measuring.machine import Noise
from measuring.targets import Results, Target
from mixer_spec.commands.output import Json, console, table

BACKENDS = "torch,jax,onnxruntime"
MOST = 0.5
"""The worst margin that is wanted; 1 would be a false alarm."""


@contextlib.contextmanager
def limited_to(threads: int) -> Iterator[None]:
    """New processes compute with so many threads, on as many cores."""
    cores, before = os.sched_getaffinity(0), os.environ.get("OMP_NUM_THREADS")
    os.sched_setaffinity(0, sorted(cores)[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def audit(threads: int, seeds: int, scales: str) -> dict[str, Any]:
    """What ``mixer-spec conformance audit --seeds`` says, and the processor time that it took."""
    arguments = ["-m", "mixer_spec", "conformance", "audit", "--seeds", str(seeds)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with limited_to(threads):
        done = run(
            [*arguments, "--backends", BACKENDS, "--scales", scales, "--json"], accepted=(0, 1)
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found: dict[str, Any] = json_format.loads(done.stdout)
    return found | {"threads": threads, "seconds": done.seconds, "cpu_seconds": used}


def print_margins(out: Console, audits: Sequence[Mapping[str, Any]], seeds: int) -> None:
    """Print one row for each backend, family of cases and number of threads."""
    out.print(
        f"{seeds} seeds at each number of threads; the largest error of any run as a fraction of "
        "its tolerance, and where",
        soft_wrap=True,
    )
    right = ("threads", "runs", "alarms", "worst", "seed")
    columns = ("backend", "family", "threads", "runs", "alarms", "worst", "model", "seed")
    made = table(*columns, right=right)
    for found in audits:
        for worst in found["worst"]:
            made.add_row(
                worst["backend"],
                worst["case"],
                str(found["threads"]),
                str(worst["runs"]),
                str(worst["alarms"]),
                f"{float(worst['margin'] or 'inf'):.2f}",
                worst["model"],
                str(worst["seed"]),
            )
    out.print(made)


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Of weights and inputs.")] = 200,
    scales: Annotated[str, typer.Option(help="Models or groups of the zoo.")] = "Z0,Z1,Z2,Z3",
    threads: Annotated[str, typer.Option(help="Numbers of threads.")] = "1,2",
    json: Json = False,
) -> None:
    """Look for false alarms of the suite on the backends that are right; 200 seeds take hours."""
    load, noise = os.getloadavg()[0], Noise()
    audits = [audit(int(number), seeds, scales) for number in threads.split(",")]
    each = [worst for found in audits for worst in found["worst"]]
    alarms = sum(found["false_alarms"] for found in audits)
    runs = sum(found["runs"] for found in audits)
    largest = max(float(worst["margin"] or "inf") for worst in each)
    used = sum(found["cpu_seconds"] for found in audits)
    targets = [
        Target(
            f"false alarms in {runs} runs, {used:.0f} s of CPU time", "0", str(alarms), not alarms
        ),
        Target("worst margin", f"<= {MOST}", f"{largest:.2f}", largest <= MOST),
    ]
    results = Results({"seeds": seeds, "audits": audits}, targets, load, noise.cores)
    if json:
        results.print_json()
        return
    out = console()
    print_margins(out, audits, seeds)
    results.print_end(out)


if __name__ == "__main__":
    typer.run(main)
