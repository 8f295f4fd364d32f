"""A Mixer trained on Fashion-MNIST, and images of its test set: weights that nobody drew.

Drawn weights are all of one size. Trained ones are not: some channels are large, others dead, and
the norms amplify them.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from mixer_spec import ModelSpec
from mixer_spec.recipes import named_recipe
from mixer_spec.weights import Weights

from .measure import Array
from .precision import Precision
from .problem import Problem

_DATA = Path(__file__).with_name("data")
TRAINED = _DATA / "fashion_mnist.safetensors"
"""The canonical file: what ``mixer-spec train fashion_mnist`` made."""

_BATCH = 4


def trained_spec() -> ModelSpec:
    """The architecture of the recipe ``fashion_mnist``."""
    spec = named_recipe("fashion_mnist").model
    assert isinstance(spec, ModelSpec)
    return spec


@functools.cache
def trained_weights() -> Weights:
    """Canonical name to array, float32."""
    return safetensors.numpy.load_file(TRAINED)


@functools.cache
def trained_examples() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The first 512 images of the test set, grey, ``[image, height, width]``; and their classes."""
    found = safetensors.numpy.load_file(_DATA / "fashion_mnist_test.safetensors")
    return found["images"], found["labels"]


def trained_inputs(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey images as the model takes them, ``[image, height, width, rgb]``, from -1 to 1.

    Args:
        images: ``[image, height, width]``.
    """
    grey = images.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.repeat(grey[..., np.newaxis], 3, axis=-1)


def trained_problem(precision: Precision, *, seed: int = 0) -> Problem:
    """The trained model with four images, others for each of the first seeds."""
    images, _ = trained_examples()
    chosen = np.arange(seed * _BATCH, (seed + 1) * _BATCH) % len(images)
    inputs: Array = trained_inputs(images[chosen])
    return Problem(
        spec=trained_spec(),
        weights=trained_weights(),
        inputs=inputs.astype(precision.dtype),
        precision=precision,
    )
