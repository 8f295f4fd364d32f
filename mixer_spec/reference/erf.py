"""The error function of whole arrays, which NumPy lacks and the C library has for one number."""

from __future__ import annotations

import functools
import math

import numpy as np

from .arithmetic import Array

_STEPS = 512  # points in a unit: a power of two, so that each is exact
_LARGEST = 6.0  # erf of anything larger rounds to 1

# Values made at a time: 128 KiB each for a handful of arrays, which stay in the cache.
_CHUNK = 1 << 14


def erf(x: Array) -> Array:
    """``2 / sqrt(pi)`` times the integral of ``exp(-t^2)`` from 0 to ``x``, within 2 units of float64.

    Taylor's series around the nearest 512th ``c``, of which the C library gave erf. With
    ``d = x - c``, ``s = c d`` and ``q = d^2`` its first five terms are
    ``erf(c) + erf'(c) d (1 - s + (2 s^2 - q) / 3 - (2 s^3 - 3 s q) / 6 + (4 s^4 - 12 s^2 q + 3 q^2)
    / 30)``: ``(-1)^n H_n(c) d^n / (n + 1)!`` of Hermite's polynomials. The next is below 1e-17.

    Args:
        x: any axes, of a floating dtype, which the result has too.

    Source:
        Abramowitz and Stegun, equation 7.1.19.

    Example:
        >>> erf(np.array([0.0, 1.0, -np.inf])).tolist()
        [0.0, 0.8427007929497149, -1.0]
    """
    values, found = x.reshape(-1), np.empty(x.size, x.dtype)
    for start in range(0, values.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        found[part] = _erf(values[part].astype(np.float64))
    return found.reshape(x.shape)


def _erf(x: Array) -> Array:
    values, slopes = _tables()
    size = np.minimum(np.abs(x), _LARGEST)
    with np.errstate(invalid="ignore"):  # a NaN has no index; it comes back through d
        index = np.rint(size * _STEPS).astype(np.intp)
    c = index / _STEPS
    d = size - c
    s, q = c * d, d * d
    s2 = s * s
    series = (s2 * (4.0 * s2 - 12.0 * q) + 3.0 * q * q) / 30.0
    series -= s * (2.0 * s2 - 3.0 * q) / 6.0
    series += (2.0 * s2 - q) / 3.0
    series -= s
    series += 1.0
    series *= d * slopes.take(index, mode="clip")
    series += values.take(index, mode="clip")
    signed: Array = np.copysign(series, x)
    return signed


@functools.cache
def _tables() -> tuple[Array, Array]:
    """erf and its derivative at every 512th."""
    points = np.arange(int(_LARGEST * _STEPS) + 1) / _STEPS
    values = np.array([math.erf(point) for point in points])
    return values, 2.0 / math.sqrt(math.pi) * np.exp(-points * points)
