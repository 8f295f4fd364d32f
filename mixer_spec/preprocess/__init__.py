"""Photo to pixels: preprocessing as data, the official pipelines, and one function that runs them.

Example:
    >>> import numpy as np
    >>> from mixer_spec.preprocess import PIPELINES, preprocess
    >>> photo = np.full((300, 400, 3), 255, np.uint8)
    >>> pixels = preprocess(photo, PIPELINES["big_vision"], image_size=224)
    >>> pixels.shape, pixels.dtype, float(pixels.max())
    ((224, 224, 3), dtype('float32'), 1.0)
"""

from .data import (
    AsIs,
    FloatResample,
    PillowResample,
    Preprocessing,
    ResizeAndCrop,
    Squash,
)
from .pipelines import PIPELINES, pipeline
from .pixels import Photo, preprocess

__all__ = [
    "PIPELINES",
    "AsIs",
    "FloatResample",
    "Photo",
    "PillowResample",
    "Preprocessing",
    "ResizeAndCrop",
    "Squash",
    "pipeline",
    "preprocess",
]
