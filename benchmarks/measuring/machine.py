"""The machine in words, and how quiet it was while something was measured."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

T = TypeVar("T")

Tries = Annotated[
    int, typer.Option(min=1, help="Rounds at most, where other processes disturb some of them.")
]
"""The option of a benchmark that measures in rounds."""

BUSY = 0.1
"""Cores that others may use before a figure is doubtful."""

_PACKAGES = ("numpy", "torch", "jax", "flax", "onnxruntime", "onnx", "safetensors")


def describe() -> dict[str, Any]:
    """Processor, cores, memory and versions; nothing that names the machine."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = [line.partition(": ")[2] for line in cpu.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
    }


class Noise:
    """A clock that knows how many cores other processes used since it was made.

    Counts the processor time of all processes, less that of this one and of its children that
    have ended.
    """

    def __init__(self) -> None:
        self._start = _clocks()

    @property
    def cores(self) -> float:
        """The cores that others used, on average."""
        seconds, everyone, own = (
            now - before for now, before in zip(_clocks(), self._start, strict=True)
        )
        return max(0.0, everyone - own) / seconds


def _clocks() -> tuple[float, float, float]:
    """Wall time, the processor time of everyone, and our own, in seconds."""
    user, nice, system, _, _, irq, soft, steal, *_ = map(
        int, Path("/proc/stat").read_text(encoding="utf-8").partition("\n")[0].split()[1:]
    )
    everyone = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    usages = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return time.perf_counter(), everyone, own


def quietest(once: Callable[[], T], rounds: int, tries: int) -> tuple[list[T], float]:
    """The results of the quietest rounds, and the cores that others used in the noisiest of them.

    While fewer than ``rounds`` were quiet, another is measured, up to ``tries`` in all. Which are
    kept depends on the noise alone, never on a result.
    """
    found: list[tuple[float, T]] = []
    while sum(cores <= BUSY for cores, _ in found) < rounds and len(found) < max(rounds, tries):
        noise = Noise()
        result = once()
        found.append((noise.cores, result))
    kept = sorted(found, key=lambda pair: pair[0])[:rounds]
    return [result for _, result in kept], kept[-1][0]


def print_machine(out: Console, load: float, noise: float) -> None:
    """Print the machine, and a warning where it was not ours alone.

    Args:
        out: where to.
        load: the load average before.
        noise: cores that other processes used.
    """
    found = describe()
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    out.print(
        f"{found['cores']} cores of {found['cpu']}, {found['memory_gib']} GiB, {found['system']}, "
        f"Python {found['python']}, {versions}",
        soft_wrap=True,
    )
    out.print(f"load average {load:.2f} before; other processes used {noise:.2f} cores meanwhile")
    if noise > BUSY:
        out.print("[bold yellow]BUSY[/]  the machine was not quiet; measure again")
