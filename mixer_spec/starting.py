"""The weights before the first step: new ones, or a file's at another resolution or with a new head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from .errors import InputError
from .layers import Initial
from .model import ModelSpec
from .recipe import FromFile, NewWeights, Recipe
from .shapes import Image
from .surgery import interpolate_resolution, raise_resolution
from .weights import Weights, initial

_HEAD = ("head.kernel", "head.bias")


def new_weights(
    spec: ModelSpec, recipe: Recipe, overrides: Mapping[str, Initial] | None = None
) -> Weights:
    """The paper's initial values by the recipe's seed, and its bias of the head.

    Args:
        spec: the architecture.
        recipe: whose ``init`` says ``new_weights``.
        overrides: distributions by the end of the weight's name, as ``Variant.initial`` has them.

    Raises:
        InputError: if the recipe begins with a file.
    """
    if not isinstance(recipe.init, NewWeights):
        raise InputError(
            "recipe.init",
            "begins with the weights of a file; expected new_weights; do `mixer-spec finetune`",
        )
    weights = initial(spec, seed=recipe.seed, overrides=overrides)
    bias = np.full_like(weights["head.bias"], recipe.init.head_bias)
    return {**weights, "head.bias": bias}


def weights_from(
    spec: ModelSpec, weights: Weights, recipe: Recipe, *, classes: int
) -> tuple[ModelSpec, Weights]:
    """A trained model at the recipe's resolution, for as many classes as the data has.

    Args:
        spec: of the trained model.
        weights: of the trained model.
        recipe: whose ``init`` says ``from_file``.
        classes: of the data.

    Raises:
        InputError: if the recipe begins with new weights, or keeps a head of other classes.
        SpecError: if there are no exact weights for the resolution.
    """
    init = recipe.init
    if not isinstance(init, FromFile):
        raise InputError(
            "recipe.init", "begins with new weights; expected from_file; do `mixer-spec train`"
        )
    if init.head == "kept" and classes != spec.classes:
        raise InputError(
            "recipe.init.head",
            f"keeps a head of other classes; expected {classes} as the data has, got "
            f"{spec.classes}; do `--set init.head=new`",
        )
    change = raise_resolution if init.resolution == "exact" else interpolate_resolution
    size = recipe.data.image_size
    if isinstance(spec.input, Image) and (spec.input.height, spec.input.width) != size:
        spec, weights = change(spec, weights, image_size=size, where="recipe.data.image_size")
    if init.head == "kept":
        return spec, weights
    spec = dataclasses.replace(spec, head=dataclasses.replace(spec.head, classes=classes))
    shapes = spec.parameters()
    head = zip(_HEAD, (0.0, init.head_bias), strict=True)
    return spec, {
        **weights,
        **{name: np.full(shapes[name].shape, value, np.float32) for name, value in head},
    }


def check_image_size(spec: ModelSpec, recipe: Recipe) -> None:
    """Refuse a model of another image size than the recipe's.

    Raises:
        InputError: with both.
    """
    given, size = spec.input, recipe.data.image_size
    if not isinstance(given, Image) or (given.height, given.width, given.channels) != (*size, 3):
        raise InputError(
            "model",
            f"takes other images than the recipe makes; expected {size[0]} x {size[1]} RGB, got "
            f"{given}; do another `--set data.image_size=[h,w]`",
        )
