"""Separable resizing in float64 with half-pixel centres: what the filters' names mean.

Pixel ``i`` covers ``[i, i + 1]`` and its centre lies at ``i + 1/2``. An output pixel is a weighted
sum of source pixels along each axis; weights beyond the border are dropped and the rest scaled to
a sum of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data import FloatResample

_Array = NDArray[Any]


def _triangle(distance: _Array) -> _Array:
    return np.maximum(0.0, 1.0 - distance)


def _keys(distance: _Array) -> _Array:
    """Keys' cubic with a = -1/2, third-order exact."""
    near = (1.5 * distance - 2.5) * distance * distance + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


def _lanczos3(distance: _Array) -> _Array:
    return np.where(distance < 3, np.sinc(distance) * np.sinc(distance / 3), 0.0)


_KERNELS: Mapping[str, tuple[Callable[[_Array], _Array], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_keys, 2.0),
    "lanczos3": (_lanczos3, 3.0),
}
"""The value at a distance in pixels, and the radius outside which it is zero."""


def resample(image: _Array, height: int, width: int, how: FloatResample) -> NDArray[np.float64]:
    """``image`` with ``height`` rows and ``width`` columns.

    Args:
        image: ``[height, width, rgb]``.
        height: rows of the result.
        width: columns of the result.
        how: filter, antialias, and what becomes of the values.

    Source:
        The definitions of tf.image.resize (version 2) and jax.image.resize.

    Example:
        >>> how = FloatResample(filter="bilinear", antialias="off", values="kept")
        >>> resample(np.array([[[0.0], [8.0]]]), 1, 4, how).ravel().tolist()
        [0.0, 2.0, 6.0, 8.0]
    """
    for axis, size in enumerate((height, width)):
        if image.shape[axis] != size:
            image = _along(image, axis, *_taps(image.shape[axis], size, how))
    # The frameworks have the sums in float32, where 99.99999999 is 100 before it is truncated.
    values = image.astype(np.float32)
    if how.values == "truncated":
        values = np.trunc(np.clip(values, 0, 255))
    return values.astype(np.float64)


def _along(image: _Array, axis: int, sources: _Array, weights: _Array) -> _Array:
    """The weighted sum of the source pixels along one axis, one tap at a time."""
    shape = [1] * image.ndim
    shape[axis] = -1
    total = np.zeros(())
    for source, weight in zip(sources.T, weights.T, strict=True):
        total = total + np.take(image, source, axis) * weight.reshape(shape)
    return total


def _taps(old: int, new: int, how: FloatResample) -> tuple[_Array, _Array]:
    """Source pixels and their weights for each output pixel, both ``[new, tap]``."""
    step = old / new
    if how.filter == "nearest":
        sources = np.floor((np.arange(new) + 0.5) * step).astype(int)
        return np.minimum(sources, old - 1)[:, None], np.ones((new, 1))
    if how.filter == "area":
        left = np.arange(new)[:, None] * step
        sources = np.floor(left).astype(int) + np.arange(int(np.ceil(step)) + 1)
        covered = np.minimum(sources + 1, left + step) - np.maximum(sources, left)
        weights = np.maximum(0.0, covered)
    else:
        kernel, radius = _KERNELS[how.filter]
        widening = max(step, 1.0) if how.antialias == "on" else 1.0
        reach = radius * widening
        centres = (np.arange(new)[:, None] + 0.5) * step
        sources = np.floor(centres - reach).astype(int) + np.arange(2 * int(np.ceil(reach)) + 1)
        weights = kernel(np.abs(sources + 0.5 - centres) / widening)
    inside = (sources >= 0) & (sources < old)
    weights = np.where(inside, weights, 0.0)
    return sources.clip(0, old - 1), weights / weights.sum(axis=1, keepdims=True)
