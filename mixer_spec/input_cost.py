"""What it costs a processor to prepare one training image, measured here and now."""

from __future__ import annotations

import io
import time

import numpy as np

from .augment import augment
from .preprocess.decode import decode
from .preprocess.pixels import normalise
from .recipe import Recipe

_HEIGHT, _WIDTH, _QUALITY = 375, 500, 90  # a usual photo of ImageNet


def photo() -> bytes:
    """A JPEG of waves and a little noise, about as large as a photo's."""
    from PIL import Image

    y, x = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    waves = [128 + 60 * np.sin(x / (9 + 7 * n)) + 50 * np.cos(y / (31 - 5 * n)) for n in range(3)]
    noise = np.random.default_rng(0).normal(0, 8, (_HEIGHT, _WIDTH, 3))
    file = io.BytesIO()
    pixels = np.clip(np.stack(waves, 2) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, "jpeg", quality=_QUALITY)
    return file.getvalue()


def measure_input(recipe: Recipe, *, images: int = 40) -> float:
    """Milliseconds of one core for one image: decode, crop, augment, normalise.

    Time of the processor, not of the clock, so that other programs do not count.

    Args:
        recipe: what is done to the image; its crop must take photos of any size.
        images: how many are prepared, each with draws of its own.
    """
    from PIL import Image

    data = photo()

    def prepare(number: int) -> None:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(decode(image, "stored"))
        generator = np.random.Generator(np.random.Philox(number))
        normalise(augment(pixels, recipe.data, recipe.augment, generator), recipe.data.evaluation)

    prepare(0)  # imports and caches
    started = time.process_time()
    for number in range(images):
        prepare(number)
    return 1e3 * (time.process_time() - started) / images
