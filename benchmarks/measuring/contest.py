"""Ours beside a rival: what their processes measured, compared."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .targets import Target

MOST_DIFFERENCE = 1e-3  # of a logit, which is of the size of one

Logits = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Timings:
    """What the processes of one contender measured, one after the other.

    Args:
        gflop: of one forward pass.
        forward: seconds, by process.
    """

    gflop: float
    forward: Sequence[Sequence[float]]

    @property
    def medians(self) -> list[float]:
        """Seconds of a forward pass, by process."""
        return [statistics.median(times) for times in self.forward]

    @property
    def best(self) -> float:
        """The fewest seconds that a forward pass took."""
        return min(itertools.chain(*self.forward))

    def to_data(self) -> dict[str, Any]:
        """The figures as plain data."""
        return {
            "median_seconds": statistics.median(self.medians),
            "best_seconds": self.best,
            "gflops": self.gflop / statistics.median(self.medians),
            "forward_seconds": self.forward,
        }


def speedups(ours: Timings, rival: Timings) -> dict[str, Any]:
    """How many times as fast as the rival ours is: by medians, by the best, and by round."""
    return {
        "of_medians": statistics.median(rival.medians) / statistics.median(ours.medians),
        "of_best": rival.best / ours.best,
        "by_round": [b / a for a, b in zip(ours.medians, rival.medians, strict=True)],
    }


def as_fast(ours: str, rival: str, found: dict[str, Any]) -> Target:
    """That ours is at least as fast as the rival, from their :func:`speedups`."""
    least, most = min(found["by_round"]), max(found["by_round"])
    return Target(
        f"{ours}: as fast as {rival}",
        ">= 1.00 x",
        f"{found['of_medians']:.2f} x by medians, {found['of_best']:.2f} x by the best, "
        f"{least:.2f} to {most:.2f} x by round",
        round(found["of_medians"], 2) >= 1,
    )


def check_same_answer(ours: str, rival: str, mine: Logits, other: Logits) -> None:
    """Refuse to compare models that compute different functions.

    Raises:
        RuntimeError: if a logit differs by more than float32 explains.
    """
    difference = np.abs(np.subtract(mine, other)).max()
    if not difference < MOST_DIFFERENCE:
        raise RuntimeError(
            f"{ours} and {rival} compute different functions; expected logits within "
            f"{MOST_DIFFERENCE:g}, got a difference of {difference:.1e}"
        )
