"""How near right backends come to a false alarm: worst margins over seeds, models and threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from measuring.campaign import Run, measure
from measuring.machine import Noise
from measuring.targets import Results, Target
from mixer_conformance.cases import chosen
from mixer_spec.commands.output import Json, console, progress, table

BACKENDS = "torch,jax,onnxruntime"
MOST = 0.5
"""The worst margin that is wanted; 1 would be a false alarm."""


def margin(worst: dict[str, Any]) -> float:
    """A result's margin; infinite where it says so or measured nothing."""
    found = worst["margin"]
    return float(found) if isinstance(found, float) else float("inf")


def summed_up(threads: int, measured: Sequence[Run]) -> dict[str, Any]:
    """One number of threads: runs, alarms, and the worst of each backend and family."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    each = [
        worst | {name: run[name] for name in ("backend", "model", "seed")}
        for run in measured
        for worst in run["worst"]
    ]
    for worst in each:
        key = worst["backend"], worst["case"]
        row = rows.get(key, worst | {"runs": 0, "alarms": 0})
        counts = {name: row[name] + worst[name] for name in ("runs", "alarms")}
        rows[key] = max(row, worst, key=lambda one: (one["status"] != "pass", margin(one))) | counts
    found = [rows[key] for key in sorted(rows)]
    return {
        "threads": threads,
        "runs": sum(row["runs"] for row in found),
        "false_alarms": sum(row["alarms"] for row in found),
        "cpu_seconds": sum(run["cpu_seconds"] for run in measured),
        "worst": found,
    }


def print_margins(
    out: Console, audits: Sequence[dict[str, Any]], seeds: int, models: Sequence[str]
) -> None:
    """Print one row for each backend, family of cases and number of threads."""
    out.print(
        f"{seeds} seeds of {len(models)} models; the largest error of any run as a fraction of its "
        "tolerance, and where",
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
                f"{margin(worst):.2f}",
                worst["model"],
                str(worst["seed"]),
            )
    out.print(made)


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Of weights and inputs.")] = 200,
    scales: Annotated[str, typer.Option(help="Models or groups of the zoo.")] = "Z0,Z1,Z2,Z3",
    threads: Annotated[str, typer.Option(help="Numbers of threads.")] = "1,2",
    backends: Annotated[str, typer.Option(help="The backends that are right.")] = BACKENDS,
    record: Annotated[
        Path | None,
        typer.Option(help="Add each run to this file, and go on from there."),
    ] = None,
    json: Json = False,
) -> None:
    """Look for false alarms of the suite on the backends that are right; 200 seeds take hours."""
    load, noise = os.getloadavg()[0], Noise()
    models = chosen("quick", tuple(scales.split(",")))
    names, numbers = backends.split(","), [int(number) for number in threads.split(",")]
    measured: dict[int, list[Run]] = {number: [] for number in numbers}
    with progress() as show:
        for number in numbers:
            for run in measure(names, models, range(seeds), number, record):
                measured[number].append(run)
                show(f"threads: {number}: seed {run['seed']}, {run['model']}, {run['backend']}")
    audits = [summed_up(number, runs) for number, runs in measured.items()]
    alarms = sum(found["false_alarms"] for found in audits)
    runs = sum(found["runs"] for found in audits)
    used = sum(found["cpu_seconds"] for found in audits)
    largest = max(margin(worst) for found in audits for worst in found["worst"])
    targets = [
        Target(
            f"false alarms in {runs} runs, {used:.0f} s of CPU time", "0", str(alarms), not alarms
        ),
        Target("worst margin", f"<= {MOST}", f"{largest:.2f}", largest <= MOST),
    ]
    results = Results(
        {"seeds": seeds, "models": models, "audits": audits}, targets, load, noise.cores
    )
    if json:
        results.print_json()
        return
    out = console()
    print_margins(out, audits, seeds, models)
    results.print_end(out)


if __name__ == "__main__":
    typer.run(main)
