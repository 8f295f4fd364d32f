"""The operations of RandAugment that move pixels, and Cutout; what is uncovered becomes grey 128.

Each output pixel takes the nearest input pixel. Coordinates are in float32 as in Google's code,
because a tie between two pixels turns on their last bit.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .colour import Pixels

FILL = 128
"""The grey of uncovered pixels."""

_F32 = np.float32


def _transform(image: Pixels, rows: tuple[tuple[float, float, float], ...]) -> Pixels:
    """Output ``(x, y)`` takes input ``(a x + b y + c, d x + e y + f)``, ties away from zero."""
    height, width = image.shape[:2]
    y, x = np.meshgrid(np.arange(height, dtype=_F32), np.arange(width, dtype=_F32), indexing="ij")
    column, row = (_nearest(_F32(a) * x + _F32(b) * y + _F32(c)) for a, b, c in rows)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    found = image[np.where(inside, row, 0), np.where(inside, column, 0)]
    return np.where(inside[..., None], found, np.uint8(FILL))


def _nearest(position: NDArray[np.float32]) -> NDArray[np.int64]:
    """The nearest whole number, of two the one further from zero, as C's ``round`` has it."""
    whole = np.trunc(position)
    return (whole + np.trunc(2 * (position - whole))).astype(np.int64)


def rotate(image: Pixels, degrees: float) -> Pixels:
    """Turn the image about its middle; the size stays."""
    angle = _F32(degrees * (math.pi / 180))
    cosine, sine = np.cos(angle), np.sin(angle)
    right, bottom = _F32(image.shape[1] - 1), _F32(image.shape[0] - 1)
    across = (right - (cosine * right - sine * bottom)) / _F32(2)
    down = (bottom - (sine * right + cosine * bottom)) / _F32(2)
    return _transform(image, ((cosine, -sine, across), (sine, cosine, down)))


def translate_x(image: Pixels, pixels: float) -> Pixels:
    """Move the image to the left; a negative number moves it to the right."""
    return _transform(image, ((1, 0, pixels), (0, 1, 0)))


def translate_y(image: Pixels, pixels: float) -> Pixels:
    """Move the image up; a negative number moves it down."""
    return _transform(image, ((1, 0, 0), (0, 1, pixels)))


def shear_x(image: Pixels, slope: float) -> Pixels:
    """Move each row to the left by ``slope`` times its number."""
    return _transform(image, ((1, slope, 0), (0, 1, 0)))


def shear_y(image: Pixels, slope: float) -> Pixels:
    """Move each column up by ``slope`` times its number."""
    return _transform(image, ((1, 0, 0), (slope, 1, 0)))


def cutout(image: Pixels, radius: int, row: int, column: int) -> Pixels:
    """Cover the square of ``2 radius`` pixels about a place with grey, as far as it is inside."""
    covered = image.copy()
    top, left = max(0, row - radius), max(0, column - radius)
    covered[top : row + radius, left : column + radius] = FILL
    return covered
