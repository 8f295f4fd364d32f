"""How a training image gets its size: a random part, a random place, a shift; and the flip."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixer_spec.preprocess import FloatResample
from mixer_spec.preprocess.data import Resample
from mixer_spec.preprocess.decode import decode
from mixer_spec.preprocess.pixels import resize
from mixer_spec.preprocess.resample import resample

from .colour import Pixels

_ATTEMPTS = 100
_PROPORTIONS = (0.75, 1.33)  # width over height, uniform between


def inception_crop(
    image: Pixels,
    generator: np.random.Generator,
    *,
    size: tuple[int, int],
    area: tuple[float, float],
    antialias: Literal["on", "off"],
) -> Pixels:
    """A random part of the image, resized by bilinear interpolation, the fraction cut off.

    Args:
        image: ``[height, width, rgb]``.
        generator: what everything random is drawn from.
        size: height and width of the result.
        area: least and greatest part of the image's area.
        antialias: ``off`` is what Google's code does: it skips pixels where it reduces.

    Source:
        arXiv:1409.4842, section 6; google-research/big_vision, pp/ops_image.py.
    """
    top, left, height, width = crop_box(image.shape[:2], generator, area)
    how = FloatResample(filter="bilinear", antialias=antialias, values="truncated")
    part = image[top : top + height, left : left + width]
    return resample(part, *size, how).astype(np.uint8)


def crop_box(
    size: tuple[int, ...], generator: np.random.Generator, area: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part; the whole if none is found in 100 attempts.

    The proportions are drawn first, then the height, uniformly between those of the least and the
    greatest area that fit, then the place.

    Source:
        tensorflow, core/kernels/image/sample_distorted_bounding_box_op.cc.

    Example:
        >>> crop_box((200, 100), np.random.default_rng(0), (0.05, 1.0))
        (37, 10, 60, 67)
    """
    rows, columns = size
    least, most = (part * rows * columns for part in area)
    for _ in range(_ATTEMPTS):
        proportions = generator.uniform(*_PROPORTIONS)
        tallest = min(rows, _tallest(columns, most, proportions))
        lowest = min(tallest, round(math.sqrt(least / proportions)))
        height = int(generator.integers(lowest, tallest + 1))
        width = round(height * proportions)
        # Rounding may leave the limits by a little: one row more, or one less.
        if width * height < least:
            height += 1
        if round(height * proportions) * height > most:
            height -= 1
        width = round(height * proportions)
        if 0 < height <= rows and 0 < width <= columns and least <= width * height <= most:
            return _place(rows, height, generator), _place(columns, width, generator), height, width
    return 0, 0, rows, columns


def _tallest(columns: int, most: float, proportions: float) -> int:
    """The height of the greatest area, or the greatest height that is not too wide."""
    height = round(math.sqrt(most / proportions))
    if round(height * proportions) > columns:
        height = int((columns + 0.5 - 1e-7) / proportions)
        height -= round(height * proportions) > columns
    return height


def _place(whole: int, part: int, generator: np.random.Generator) -> int:
    """Where a part begins; the last possible place is left out, as in TensorFlow."""
    return int(generator.integers(whole - part)) if part < whole else 0


def resize_then_crop(
    image: Pixels,
    generator: np.random.Generator,
    *,
    size: tuple[int, int],
    side: int,
    how: Resample,
) -> NDArray[Any]:
    """The image squashed to ``side x side``, and a random part of ``size`` of that.

    Args:
        image: ``[height, width, rgb]`` of any size.
        generator: draws the place.
        size: height and width of what is left.
        side: of the square.
        how: it is resized.

    Source:
        google-research/big_transfer, input_pipeline_tf2_or_jax.py.
    """
    squashed = resize(decode(image, "stored"), (side, side), how)
    if isinstance(how, FloatResample) and how.values == "truncated":
        squashed = squashed.astype(np.uint8)
    top, left = (int(generator.integers(side - part + 1)) for part in size)
    return squashed[top : top + size[0], left : left + size[1]]


def shift(image: Pixels, generator: np.random.Generator, most: int) -> Pixels:
    """The image ``[height, width, rgb]`` moved by up to ``most`` pixels each way; zeros move in."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((most, most), (most, most), (0, 0)))
    top, left = (int(place) for place in generator.integers(2 * most + 1, size=2))
    return padded[top : top + height, left : left + width]


def flip(image: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    """Left and right of ``[height, width, rgb]`` exchanged, half of the time."""
    return image[:, ::-1] if generator.integers(2) else image
