"""The tolerance: one global K times the larger of measured float32 noise and the rounding floor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mixer_spec import ModelSpec

from .measure import Deviation

K_RMS = 4.0
"""How often the noise a root mean square may be. Global: no model and no backend has its own.

Measured before it was fixed: PyTorch, JAX with either variance and ONNX Runtime on seven models came
to 1.06 of the noise at most, and the weakest mistake that inputs do not enlarge (GELU by erf, one
product in TF32) to 180. So 4 leaves right backends a factor of 3.8, and that mistake one of 45.
``docs/conformance.json`` measures both anew.
"""

K_MAX = 8.0
"""How often the noise the largest error may be: the same backends came to 1.46 at most, a factor 5.5."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a tap may deviate, and how that came about.

    Args:
        yardstick: the worst of the float32 reference runs.
        floor: the a-priori root mean square.
        values: numbers in one sample; a larger sample has a larger worst error.
    """

    yardstick: Deviation
    floor: float
    values: int

    @property
    def rms(self) -> float:
        """The largest root mean square that passes."""
        return K_RMS * max(self.yardstick.rms, self.floor)

    @property
    def max(self) -> float:
        """The largest single error that passes."""
        # The largest of n normal errors is about sqrt(2 ln n) of their root mean squares; of one, 1.
        spread = max(1.0, math.sqrt(2.0 * math.log(self.values)))
        return K_MAX * max(self.yardstick.max, self.floor * spread)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A deviation held against its tolerance."""

    deviation: Deviation
    tolerance: Tolerance

    @property
    def margin(self) -> float:
        """The deviation as a fraction of the tolerance, the worse of both metrics; 1 just passes."""
        return max(
            _fraction(self.deviation.rms, self.tolerance.rms),
            _fraction(self.deviation.max, self.tolerance.max),
        )

    @property
    def passed(self) -> bool:
        """Whether the deviation is within the tolerance."""
        return self.margin <= 1.0

    @property
    def bits(self) -> float:
        """Effective bits: 24 for float32's own noise, 11 to 15 for TF32, 8 to 12 for bfloat16.

        Infinite where the result is exact. The floor does not enter: bits say what was measured.
        Longer sums are noisier in float32, so that a weaker product loses fewer bits to them.
        """
        fraction = _fraction(self.deviation.rms, self.tolerance.yardstick.rms)
        return 24.0 - math.log2(fraction) if fraction else math.inf


def _fraction(part: float, whole: float) -> float:
    """``part / whole``; infinite where the whole is nothing or is itself infinite."""
    if part == 0.0:
        return 0.0
    return part / whole if 0.0 < whole < math.inf else math.inf


def worst(deviations: Iterable[Deviation]) -> Deviation:
    """The larger of each metric over several runs."""
    runs = list(deviations)
    largest = max(runs, key=lambda run: run.max)
    return Deviation(max(run.rms for run in runs), largest.max, largest.worst)


def yardstick_runs(spec: ModelSpec) -> int:
    """How many float32 runs make a yardstick: eight for a small model, one for a huge one.

    A single run can be lucky by a factor of 2.8 in a small model (measured: the pooled features of a
    model with 8 channels, over 12 runs); in a large one the average over many values leaves little
    to luck. The number is a choice of time: 5e10 multiply-adds in all, what B/16 needs for four images.
    """
    return max(1, min(8, 50_000_000_000 // max(1, spec.multiply_adds)))


def carried_runs(spec: ModelSpec) -> int:
    """How many runs tell how errors grow: eight for a small model, none for a huge one.

    They are for where a few values decide; each costs a run in float64. A choice of time as well:
    4e9 multiply-adds in all, what S/16 needs for one image; the standard error of a root mean square
    over eight runs is a quarter of it, which K leaves room for.
    """
    return min(8, 4_000_000_000 // max(1, spec.multiply_adds))


def default_batch(spec: ModelSpec) -> int:
    """Two inputs, so that samples can be mixed up; one where an input is over 1e11 products, as H/14."""
    return 2 if spec.multiply_adds <= 100_000_000_000 else 1
