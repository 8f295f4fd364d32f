"""How long ``import mixer_spec`` and ``mixer-spec list`` take in fresh processes."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from measuring.fresh import run
from measuring.machine import Tries, quietest
from measuring.targets import Results, Target
from mixer_spec.commands.output import Json, console, table

MOST_SECONDS = 0.2

_IMPORT = (
    "import time; started = time.perf_counter(); import mixer_spec; "
    "print(time.perf_counter() - started)"
)
_PROCESSES = {
    "python, nothing else": ("-c", "pass"),
    "python, import mixer_spec": ("-c", "import mixer_spec"),
    "mixer-spec list": ("-m", "mixer_spec", "list"),
}


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Median, least and most."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def once() -> dict[str, float]:
    """Seconds of each, one after the other."""
    within = {"import mixer_spec": run(["-c", _IMPORT]).last_line}
    return within | {name: run(arguments).seconds for name, arguments in _PROCESSES.items()}


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Processes for each figure.")] = 15,
    tries: Tries = 45,
    json: Json = False,
) -> None:
    """Measure the import of mixer_spec and the command `list` in fresh processes."""
    load = os.getloadavg()[0]
    once()  # so that every file is in the cache, and compiled
    found, noise = quietest(once, rounds, tries)
    seconds = {name: summary([each[name] for each in found]) for name in found[0]}
    median = seconds["import mixer_spec"]["median"]
    targets = [
        Target("import mixer_spec", f"< {MOST_SECONDS} s", f"{median:.3f} s", median < MOST_SECONDS)
    ]
    results = Results({"rounds": rounds, "seconds": seconds}, targets, load, noise)
    if json:
        results.print_json()
        return
    out = console()
    out.print(f"[bold]Start-up[/], {rounds} fresh processes each; the first row within its process")
    right = ("median s", "least", "most")
    made = table("what", *right, right=right)
    for name, times in seconds.items():
        made.add_row(name, *(f"{times[key]:.3f}" for key in ("median", "min", "max")))
    out.print(made)
    results.print_end(out)


if __name__ == "__main__":
    typer.run(main)
