"""The learning rate of every step: schedules as data, and what they are in plain Python floats."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from ._fields import Checked, Count, Index, NotNegative, PositiveFloat


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant(Checked):
    """The peak, to the end."""

    kind: ClassVar[str] = "constant"


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear(Checked):
    """Evenly from the peak behind the warm-up to ``end`` behind the last step.

    Args:
        end: where it ends.
        end_is: ``"relative"``, a part of the peak (big_vision), or ``"absolute"``.
    """

    kind: ClassVar[str] = "linear"
    end: NotNegative
    end_is: Literal["relative", "absolute"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine(Checked):
    """Half a wave of the cosine from the peak behind the warm-up to ``end`` behind the last step.

    Args:
        end: where it ends.
        end_is: ``"relative"``, a part of the peak, or ``"absolute"``.
    """

    kind: ClassVar[str] = "cosine"
    end: NotNegative
    end_is: Literal["relative", "absolute"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stairs(Checked):
    """The peak, times ``factor`` for every boundary that has been passed.

    Args:
        boundaries: steps; in the step behind a boundary the rate is another, not in itself.
        factor: of each stair.

    Source:
        google-research/big_transfer, bit_hyperrule.py, which compares with ``<``.
    """

    kind: ClassVar[str] = "stairs"
    boundaries: tuple[Count, ...]
    factor: PositiveFloat

    def broken_rules(self) -> Iterator[str]:
        """The boundaries are in order."""
        if list(self.boundaries) != sorted(set(self.boundaries)):
            yield f"boundaries must grow, got {list(self.boundaries)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule(Checked):
    """Warm-up, then a decay.

    Args:
        warm_up: steps in which the rate of the decay is multiplied by ``step / warm_up``. Steps
            count from 0, so that the first update of a warm-up is none.
        decay: what follows. Its progress is counted from the end of the warm-up.
    """

    kind: ClassVar[str] = "schedule"
    warm_up: Index
    decay: Constant | Linear | Cosine | Stairs


def learning_rate(schedule: Schedule, step: int, *, steps: int, peak: float) -> float:
    """The learning rate of one step, in float64: what every backend must use.

    Args:
        schedule: warm-up and decay.
        step: from 0.
        steps: of the whole training.
        peak: behind the warm-up.

    Source:
        google-research/big_vision, utils.py, ``create_learning_rate_schedule``.

    Example:
        >>> schedule = Schedule(warm_up=2, decay=Linear(end=0.0, end_is="absolute"))
        >>> [learning_rate(schedule, step, steps=6, peak=1.0) for step in range(6)]
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]
    """
    warm_up = min(1.0, step / schedule.warm_up) if schedule.warm_up else 1.0
    length = steps - schedule.warm_up
    progress = min(1.0, max(0.0, (step - schedule.warm_up) / length)) if length > 0 else 1.0
    match schedule.decay:
        case Constant():
            rate = peak
        case Linear() as decay:
            end = _end(decay, peak)
            rate = end + (peak - end) * (1.0 - progress)
        case Cosine() as decay:
            end = _end(decay, peak)
            rate = end + (peak - end) * 0.5 * (1.0 + math.cos(math.pi * progress))
        case Stairs(boundaries=boundaries, factor=factor):
            rate = peak * factor ** bisect.bisect_left(boundaries, step)
    return rate * warm_up


def _end(decay: Linear | Cosine, peak: float) -> float:
    return decay.end * peak if decay.end_is == "relative" else decay.end
