"""How far a result is from the oracle: relative to the sample's size, and the worst sample wins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Deviation:
    """The distance of a result from the oracle, in units of the oracle's root mean square.

    A sample's errors are never averaged with another's, so that one wrong input in a batch
    stands out.

    Args:
        rms: the worst sample's root mean square of the errors; infinite beside a NaN or infinity.
        max: the largest error of any value; infinite beside a NaN or infinity.
        worst: where the largest error is, the sample first.
        pair: what is expected there and what was found, where that is known.
    """

    rms: float
    max: float
    worst: tuple[int, ...]
    pair: tuple[float, float] | None = field(default=None, compare=False, repr=False)

    @property
    def finite(self) -> bool:
        """Whether every number was finite."""
        return math.isfinite(self.max)


def deviation(found: Array, oracle: Array) -> Deviation:
    """Measure ``found`` against ``oracle``, both ``[sample, ...]`` of one shape.

    Example:
        >>> deviation(np.array([[3.0, 4.25], [0.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 2.0]]))
        Deviation(rms=0.05, max=0.07071067811865475, worst=(0, 1))
    """
    axes = tuple(range(1, oracle.ndim))
    finite = np.isfinite(found) & np.isfinite(oracle)
    if not finite.all():
        return Deviation(math.inf, math.inf, _index(np.argmin(finite), finite.shape))
    errors = np.abs(found.astype(np.float64) - oracle)
    sizes = np.sqrt(np.mean(np.square(oracle), axis=axes, keepdims=True))
    # A sample that is all zero has no size: it must be met exactly.
    units = np.where(sizes > 0, sizes, np.where(errors > 0, np.finfo(np.float64).tiny, 1.0))
    with np.errstate(over="ignore"):
        errors = errors / units
        rms = np.sqrt(np.mean(np.square(errors), axis=axes))
    worst = _index(errors.argmax(), errors.shape)
    pair = float(oracle[worst]), float(found[worst])
    return Deviation(float(rms.max()), float(errors.max()), worst, pair)


def rms(array: Array) -> float:
    """The root mean square of all values."""
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def sample_rms(array: Array) -> Array:
    """The root mean square of each sample, ``[sample]``."""
    axes = tuple(range(1, array.ndim))
    found: Array = np.sqrt(np.mean(np.square(array, dtype=np.float64), axis=axes))
    return found


def _index(flat: np.intp, shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, tuple(shape)))
