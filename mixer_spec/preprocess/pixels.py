"""The one function that turns a photo into the float32 pixels that a model takes."""

from __future__ import annotations

import math
import operator
import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixer_spec.errors import InputError
from mixer_spec.shapes import ImageSize

from .data import AsIs, PillowResample, Preprocessing, Resample, ResizeAndCrop, Squash
from .decode import decode
from .resample import resample

if TYPE_CHECKING:
    from PIL.Image import Image

    Photo = str | os.PathLike[str] | Image | NDArray[Any]
else:
    Photo = object
Size = tuple[int, int]
"""``(height, width)``."""


def preprocess(
    photo: Photo, preprocessing: Preprocessing, image_size: ImageSize
) -> NDArray[np.float32]:
    """What a model takes, of a photo.

    Args:
        photo: a file in any format that Pillow reads, a Pillow image, or a uint8 array
            ``[height, width, rgb]``.
        preprocessing: one of :data:`PIPELINES`, or your own.
        image_size: the model's pixels of a side, or ``(height, width)``.

    Returns:
        ``[height, width, rgb]``, computed in float64 and rounded to float32 once.

    Raises:
        FileError: if the file is missing, no image, truncated, or a decompression bomb.
        InputError: if the array, the image's mode or the size breaks the contract.
    """
    return normalise(fit(photo, preprocessing, image_size), preprocessing)


def fit(photo: Photo, preprocessing: Preprocessing, image_size: ImageSize) -> NDArray[Any]:
    """The first half of :func:`preprocess`: values from 0 to 255, whole or not, of the right size.

    Returns:
        ``[height, width, rgb]``.

    Raises:
        FileError, InputError: as :func:`preprocess`.
    """
    size = _checked_size(image_size)
    image = decode(photo, preprocessing.orientation)
    match preprocessing.geometry:
        case AsIs():
            return _as_is(image, size)
        case Squash(resample=how):
            return resize(image, size, how)
        case ResizeAndCrop() as geometry:
            covering = _covering((image.height, image.width), size, geometry)
            return _central(resize(image, covering, geometry.resample), size, geometry.offset)


def normalise(pixels: NDArray[Any], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """The second half: ``(pixel / 255 - mean) / std`` of ``[..., rgb]``, rounded to float32 once."""
    mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
    normalised: NDArray[np.float64] = (pixels / 255.0 - mean) / std
    return normalised.astype(np.float32)


def _checked_size(image_size: ImageSize) -> Size:
    pair = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    try:
        height, width = map(operator.index, pair)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise InputError(
            "image_size",
            f"must be a positive whole number or (height, width) of such, got {image_size!r}",
        )
    return height, width


def _as_is(image: Image, size: Size) -> NDArray[Any]:
    if (image.height, image.width) != size:
        raise InputError(
            "image",
            f"wrong size; expected height x width {size[0]} x {size[1]}, which this preprocessing "
            f"does not change, got {image.height} x {image.width}",
        )
    return np.asarray(image)


def resize(image: Image, size: Size, how: Resample) -> NDArray[Any]:
    """The image as ``[height, width, rgb]`` of another size.

    Raises:
        InputError: if that takes more pixels than Pillow would decode.
    """
    from PIL.Image import MAX_IMAGE_PIXELS, Resampling

    height, width = size
    # A strip of one row and a million columns would need gigabytes to become 256 rows high.
    if MAX_IMAGE_PIXELS is not None and height * width > 2 * MAX_IMAGE_PIXELS:
        raise InputError(
            "image",
            f"is too long for its width; expected at most {2 * MAX_IMAGE_PIXELS} pixels once "
            f"resized, got {height} x {width} from {image.height} x {image.width}",
        )
    if isinstance(how, PillowResample):
        return np.asarray(image.resize((width, height), Resampling[how.filter.upper()]))
    return resample(np.asarray(image), height, width, how)


def _covering(old: Size, crop: Size, geometry: ResizeAndCrop) -> Size:
    """The size in proportion to ``old`` that just covers the target of ``geometry``."""
    target = [math.floor(side / geometry.crop_fraction) for side in crop]
    # The axis that needs the larger factor is met exactly; with a square target, the short one.
    exact = 0 if target[0] * old[1] >= target[1] * old[0] else 1
    other = 1 - exact
    sides = list(target)
    if geometry.long_side == "floor":
        sides[other] = int(target[exact] * old[other] / old[exact])
    else:
        factor = np.float32(target[exact]) / np.float32(old[exact])
        sides[other] = int(np.rint(np.float32(old[other]) * factor))
    return sides[0], sides[1]


def _central(
    pixels: NDArray[Any], size: Size, offset: Literal["floor", "half_even"]
) -> NDArray[Any]:
    rounded = math.floor if offset == "floor" else round
    top, left = (
        rounded((have - want) / 2) for have, want in zip(pixels.shape[:2], size, strict=True)
    )
    return pixels[top : top + size[0], left : left + size[1]]
