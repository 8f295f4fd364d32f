"""Arrays held against what they must be, and a backend's wrong ones: what a diagnosis rests on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .findings import Finding, of_rule
from .measure import Array, Deviation, deviation, rms
from .tolerance import K_RMS, Judgement, Tolerance, worst


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What one array must be.

    Args:
        oracle: in float64.
        tolerance: of the errors.
        unit: what they are measured in; nothing asks for the oracle itself. Without one it is the
            oracle's own size, sample by sample.
    """

    oracle: Array
    tolerance: Tolerance
    unit: float | None = None

    @classmethod
    def among(cls, oracle: Array, noisy: Sequence[Array], unit: float, floor: float) -> Held:
        """With the noise of float32 runs for a tolerance."""
        noise = worst([_in_units(run, oracle, unit) for run in noisy])
        return cls(oracle, Tolerance(noise, floor, max(2, oracle.size)), unit)

    @property
    def scale(self) -> float:
        """The root mean square of the errors that are allowed; 1 where none are."""
        unit = rms(self.oracle) if self.unit is None else self.unit
        return unit * self.tolerance.rms or 1.0

    def judgement(self, found: Array, expected: Array | None = None) -> Judgement:
        """What was found, by its distance from the oracle, or from what a mistake makes of it."""
        right = self.oracle if expected is None else expected
        moved = deviation(found, right) if self.unit is None else _in_units(found, right, self.unit)
        return Judgement(moved, self.tolerance)

    def finding(self, what: str, found: Any) -> Finding:
        """What was found, and how its tolerance came about."""
        if not isinstance(found, np.ndarray) or found.shape != self.oracle.shape:
            got = "nothing" if found is None else list(np.shape(found))
            return of_rule(False, f"{what}: expected {list(self.oracle.shape)}, got {got}", what)
        judgement = self.judgement(found)
        allowed = self.tolerance
        return Finding(
            judgement.margin,
            f"{what}: error {judgement.deviation.rms:.1e} of its size, tolerance {allowed.rms:.1e} "
            f"= {K_RMS:g} x max(yardstick {allowed.yardstick.rms:.1e}, floor {allowed.floor:.1e})"
            + ("" if judgement.passed else _told(found, self.oracle)),
            what,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evidence:
    """What a backend gave where it goes wrong.

    Args:
        stage: the tap, weight or argument at fault.
        message: what was seen there.
        found: what the backend gave, by name.
        held: what each must be.
        ask: what another backend gives when it is asked the same.
    """

    stage: str
    message: str
    found: Mapping[str, Array]
    held: Mapping[str, Held]
    ask: Callable[[Any], Mapping[str, Array]]


def _in_units(found: Array, oracle: Array, unit: float) -> Deviation:
    """The error in a unit of its own; where that is nothing, it must be nothing."""
    error = np.abs(np.asarray(found, np.float64) - oracle)
    if not np.isfinite(error).all():
        return Deviation(math.inf, math.inf, ())
    if unit == 0.0:
        unit = 1.0 if not error.any() else float(np.finfo(np.float64).tiny)
    at = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
    with np.errstate(over="ignore"):
        return Deviation(rms(error) / unit, float(error.max()) / unit, at)


def _told(found: Array, oracle: Array) -> str:
    """Both of a single number; of an array that is the oracle times a number, that number.

    Example:
        >>> _told(np.array([1.0, 2.0]), np.array([3.0, 6.0]))  # a mean for a sum
        '; it is 0.33333 times what is right'
    """
    if oracle.size == 1:
        return f"; expected {oracle.item():.9g}, got {found.item():.9g}"
    size = float(np.vdot(oracle, oracle))
    if size == 0.0 or not np.isfinite(found).all():
        return ""
    factor = float(np.vdot(oracle, found.astype(np.float64))) / size
    if rms(found - factor * oracle) > 1e-3 * rms(found - oracle):
        return ""
    return f"; it is {factor:.5g} times what is right"
