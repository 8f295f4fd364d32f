"""The profiles: what each arithmetic rounds, and the noisy NumPy runs that show how much it errs.

A profile is emulated where it differs from float32: the operands of matrix products are rounded
before they are multiplied, and what flows from tap to tap is rounded when it is stored. Sums are
taken in float32, in shuffled orders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from mixer_spec.backend import Profile
from mixer_spec.reference import Shuffled

from .floors import UNIT_ROUNDOFF
from .measure import Array

Rounding = Callable[[Array, int], Array]
"""An array and the axis that a product sums over, to the array that a profile multiplies."""


def _as_it_is(x: Array, axis: int) -> Array:
    return x


def to_tf32(x: Array, axis: int = -1) -> Array:
    """11 bits, ties to even, with float32's exponents.

    Example:
        >>> to_tf32(np.array([1 + 2**-10, 1 + 2**-12], np.float32)).tolist()
        [1.0009765625, 1.0]
    """
    bits = np.ascontiguousarray(x).view(np.uint32)
    ties = (bits >> np.uint32(13)) & np.uint32(1)
    return ((bits + np.uint32(0xFFF) + ties) & np.uint32(0xFFFFE000)).view(np.float32)


def to_bfloat16(x: Array, axis: int = -1) -> Array:
    """8 bits, with float32's exponents."""
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def to_float16(x: Array, axis: int = -1) -> Array:
    """11 bits; above 65504 it is infinite."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def to_int8(x: Array, axis: int) -> Array:
    """The nearest of 255 equal steps, as wide as the largest along ``axis`` needs them.

    Example:
        >>> to_int8(np.array([[127.0, 0.4, -3.6]], np.float32), -1).tolist()
        [[127.0, 0.0, -4.0]]
    """
    largest = np.abs(x).max(axis=axis, keepdims=True)
    step = np.where(largest > 0, largest, 1) / np.float32(127)
    return np.rint(x / step) * step


class Rounded(Shuffled):
    """Sums in shuffled orders, of products whose operands are rounded first.

    Args:
        seed: of the orders.
        dtype: of everything else.
        rounding: of the operands.
    """

    def __init__(self, seed: int, dtype: type[np.floating[Any]], rounding: Rounding) -> None:
        super().__init__(seed, dtype)
        self._rounding = rounding

    def matmul(self, left: Array, right: Array) -> Array:
        return super().matmul(self._rounding(left, -1), self._rounding(right, -2))


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """One profile's arithmetic.

    Args:
        profile: its name.
        dtype: of the inputs and of the results.
        unit: half the distance from 1 to the next number of the sums.
        operand: that of a product's operands.
        stored: that of what is kept at a tap; 0 where the results are kept as they are.
        rounding: of a product's operands.
        storage: of what is kept at a tap.
    """

    profile: Profile
    dtype: type[np.floating[Any]] = np.float32
    unit: float = UNIT_ROUNDOFF
    operand: float = UNIT_ROUNDOFF
    stored: float = 0.0
    rounding: Rounding = _as_it_is
    storage: Rounding = _as_it_is

    @property
    def exact_operands(self) -> int:
        """How many bits of an operand a product sees."""
        return round(-math.log2(self.operand))

    def shuffled(self, seed: int) -> Shuffled:
        """A noisy run's arithmetic."""
        return Rounded(seed, self.dtype, self.rounding)

    def store(self, x: Array) -> Array:
        """What is left of a tap."""
        return self.storage(x, -1)

    def floor(self, float32: float) -> float:
        """A step's a-priori floor in this arithmetic, from float32's."""
        return math.hypot(float32 * self.unit / UNIT_ROUNDOFF, self.stored)


STRICT = Precision(profile="f32-strict")

PRECISIONS: Mapping[Profile, Precision] = {
    precision.profile: precision
    for precision in (
        Precision(profile="f64", dtype=np.float64, unit=2.0**-53, operand=2.0**-53),
        STRICT,
        Precision(profile="f32-tf32", operand=2.0**-11, rounding=to_tf32),
        Precision(profile="f32-bf16mm", operand=2.0**-8, rounding=to_bfloat16),
        Precision(
            profile="bf16",
            operand=2.0**-8,
            stored=2.0**-8,
            rounding=to_bfloat16,
            storage=to_bfloat16,
        ),
        Precision(
            profile="fp16",
            operand=2.0**-11,
            stored=2.0**-11,
            rounding=to_float16,
            storage=to_float16,
        ),
        Precision(profile="int8", operand=2.0**-7, rounding=to_int8),
    )
}
"""Every profile, the most exact first."""
