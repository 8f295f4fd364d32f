"""What a recipe does to one training image: crop, flip, RandAugment, in this order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_spec.errors import InputError
from mixer_spec.preprocess.pixels import fit
from mixer_spec.recipe import Data
from mixer_spec.recipe_parts import (
    AsEvaluated,
    Augmentation,
    InceptionCrop,
    RandAugment,
    ResizeThenCrop,
    Shift,
)

from .colour import Pixels
from .crop import flip, inception_crop, resize_then_crop, shift
from .randaugment import randaugment


def augment(
    image: Pixels, data: Data, augmentation: Augmentation, generator: np.random.Generator
) -> NDArray[Any]:
    """One training image, with everything random in it drawn from ``generator``.

    RandAugment is of whole numbers: fractions that a resize has kept are cut off before it.

    Args:
        image: ``[height, width, rgb]`` of any size.
        data: how it gets its size.
        augmentation: what else happens to it.
        generator: nothing else is random.

    Returns:
        ``[height, width, rgb]``, from 0 to 255.

    Raises:
        InputError: if the image has the wrong size, and the recipe does not change it.
    """
    pixels = _cropped(image, data, generator)
    if data.flip == "left_right":
        pixels = flip(pixels, generator)
    if isinstance(augmentation, RandAugment):
        pixels = randaugment(
            pixels.astype(np.uint8),
            generator,
            layers=augmentation.layers,
            magnitude=augmentation.magnitude,
            flavour=augmentation.flavour,
        )
    return pixels


def _cropped(image: Pixels, data: Data, generator: np.random.Generator) -> NDArray[Any]:
    size = data.image_size
    match data.crop:
        case AsEvaluated():
            return fit(image, data.evaluation, size)
        case InceptionCrop(area=area, antialias=antialias):
            return inception_crop(image, generator, size=size, area=area, antialias=antialias)
        case ResizeThenCrop(resize=side, resample=how):
            return resize_then_crop(image, generator, size=size, side=side, how=how)
        case Shift(pixels=most):
            if image.shape[:2] != size:
                raise InputError(
                    "image",
                    f"has the wrong size to be shifted; expected height x width {size[0]} x "
                    f"{size[1]}, got {image.shape[0]} x {image.shape[1]}; do another crop",
                )
            return shift(image, generator, most)
