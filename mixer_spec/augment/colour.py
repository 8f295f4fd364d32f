"""The operations of RandAugment on pixel values; every pixel stays at its place.

Sums are in float32 and in the order of Google's code, because what is cut off at the end turns
on their last bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""``[height, width, rgb]``."""

_F32 = np.float32


def blend(first: Pixels, second: Pixels, factor: float) -> Pixels:
    """``first + factor (second - first)``, clipped to 0 to 255, the fraction cut off.

    A factor above 1 goes beyond ``second``.

    Example:
        >>> low, high = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 100, np.uint8)
        >>> [int(blend(low, high, factor)[0, 0, 0]) for factor in (0.0, 0.555, 1.0, 2.8)]
        [0, 55, 100, 255]
    """
    start = first.astype(_F32)
    return _truncated(start + _F32(factor) * (second.astype(_F32) - start))


def _truncated(values: NDArray[np.float32]) -> Pixels:
    whole: Pixels = np.clip(values, 0, 255).astype(np.uint8)
    return whole


def grey(image: Pixels) -> NDArray[np.uint8]:
    """The luminance ``[height, width]`` by ITU-R BT.601, as ``tf.image.rgb_to_grayscale`` has it."""
    red, green, blue = np.moveaxis(image.astype(_F32) * _F32(1 / 255), 2, 0)
    luminance = _F32(0.2989) * red + _F32(0.587) * green + _F32(0.114) * blue
    return _truncated(luminance * _F32(255.5))


def colour(image: Pixels, factor: float) -> Pixels:
    """From its grey form (0) through the image (1) to stronger colours."""
    return blend(np.broadcast_to(grey(image)[..., None], image.shape), image, factor)


def contrast(image: Pixels, factor: float) -> Pixels:
    """From a uniform grey of the image's mean luminance (0) through the image (1) and beyond."""
    return _from_grey(image, grey(image).mean(dtype=np.float64), factor)


def contrast_from_area(image: Pixels, factor: float) -> Pixels:
    """As :func:`contrast`, with the number of pixels / 256 where the mean should be, at most 255.

    The sum of a histogram is the number of pixels, whatever the image shows: always 196 at
    224 x 224. So it was when the published models were trained.

    Source:
        google-research/big_vision#109, tensorflow/tpu#825.
    """
    return _from_grey(image, image.shape[0] * image.shape[1] / 256, factor)


def _from_grey(image: Pixels, level: float, factor: float) -> Pixels:
    return blend(np.full_like(image, min(int(level), 255)), image, factor)


def brightness(image: Pixels, factor: float) -> Pixels:
    """From black (0) through the image (1) to brighter."""
    return blend(np.zeros_like(image), image, factor)


def sharpness(image: Pixels, factor: float) -> Pixels:
    """From a smoothed image (0) through the image (1) to a sharper one; the border is kept.

    The kernel is 5 in the middle and 1 around it, over 13. Products are summed row by row, each
    added before it is rounded, as the processor's fused instruction does it for TensorFlow.
    """
    values = image.astype(np.float64)
    height, width = image.shape[:2]
    smooth = image.copy()
    if height > 2 and width > 2:
        total = np.zeros((height - 2, width - 2, 3), _F32)
        for row in range(3):
            for column in range(3):
                weight = np.float64(_F32(5 if row == column == 1 else 1) / _F32(13))
                part = values[row : height - 2 + row, column : width - 2 + column]
                total = (weight * part + total).astype(_F32)
        smooth[1:-1, 1:-1] = _truncated(total)
    return blend(smooth, image, factor)


def autocontrast(image: Pixels) -> Pixels:
    """Stretch each of red, green and blue over 0 to 255; one that is uniform is kept."""
    low, high = (limit(image, axis=(0, 1)).astype(_F32) for limit in (np.min, np.max))
    uniform = high == low
    scale = _F32(255) / np.where(uniform, _F32(255), high - low)
    return np.where(uniform, image, _truncated(image.astype(_F32) * scale - low * scale))


def equalize(image: Pixels) -> Pixels:
    """Make the histogram of each of red, green and blue as flat as whole numbers can."""
    return np.stack([_equalized(image[..., channel]) for channel in range(3)], axis=2)


def _equalized(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    counts = np.bincount(values.ravel(), minlength=256)
    step = (values.size - counts[values.max()]) // 255
    if not step:
        return values
    below = np.concatenate([[0], np.cumsum(counts)[:-1] + step // 2]) // step
    table: NDArray[np.uint8] = np.clip(below, 0, 255).astype(np.uint8)
    return table[values]


def invert(image: Pixels) -> Pixels:
    """``255 - value``."""
    return ~image


def posterize(image: Pixels, bits: int) -> Pixels:
    """Keep the upper ``bits`` of each value, 1 to 8."""
    return image & np.uint8(256 - (1 << 8 - bits))


def solarize(image: Pixels, threshold: int) -> Pixels:
    """Invert the values from ``threshold`` up; 0 inverts all, 256 none."""
    return np.where(image < threshold, image, invert(image))


def solarize_add(image: Pixels, addition: int) -> Pixels:
    """Add to the values below 128, up to 255."""
    added = np.minimum(image.astype(np.int64) + addition, 255).astype(np.uint8)
    return np.where(image < 128, added, image)
