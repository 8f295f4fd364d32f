"""Recipes of our own for small images and small models, which a CPU trains in minutes."""

from __future__ import annotations

import dataclasses
from typing import Literal

from mixer_spec.families import mixer
from mixer_spec.preprocess import AsIs, FloatResample, Preprocessing, ResizeAndCrop
from mixer_spec.recipe import (
    ClipByGlobalNorm,
    Data,
    FromFile,
    MovingAverage,
    NewWeights,
    NoAverage,
    NoStochasticDepth,
    Recipe,
)
from mixer_spec.recipe_parts import AsEvaluated, Mixup, NoAugmentation, NoMixup, Shift
from mixer_spec.schedule import Cosine, Schedule
from mixer_spec.training import AdamW, CrossEntropy

from .named import NamedRecipe

_OWN = "mixer_spec: chosen on this data by us"


def _small(
    *,
    size: int,
    evaluation: Preprocessing,
    crop: AsEvaluated | Shift,
    flip: Literal["none", "left_right"],
    learning_rate: float,
    batch: int,
    steps: int,
    warm_up: int,
    mixup: Mixup | NoMixup,
) -> Recipe:
    """Small images and a small model, on a CPU."""
    return Recipe(
        seed=0,
        data=Data(
            image_size=(size, size),
            crop=crop,
            flip=flip,
            unreadable="stop",
            evaluation=evaluation,
        ),
        augment=NoAugmentation(),
        mixup=mixup,
        stochastic_depth=NoStochasticDepth(),
        loss=CrossEntropy(label_smoothing=0.0),
        optimiser=AdamW(
            learning_rate=learning_rate,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-8,
            weight_decay=0.1,
            decayed=("kernel",),
        ),
        decay_scaling="learning_rate",
        clip=ClipByGlobalNorm(norm=1.0),
        average=NoAverage(),
        schedule=Schedule(warm_up=warm_up, decay=Cosine(end=0.0, end_is="absolute")),
        batch=batch,
        steps=steps,
        accumulation=1,
        compute="float32",
        rematerialise="none",
        init=NewWeights(head_bias=0.0),
    )


def _as_is(source: str) -> Preprocessing:
    return Preprocessing(
        orientation="stored",
        geometry=AsIs(),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        source=source,
    )


_DOUBLED = Preprocessing(
    orientation="stored",
    geometry=ResizeAndCrop(
        crop_fraction=1.0,
        long_side="half_even",
        offset="floor",
        resample=FloatResample(filter="bilinear", antialias="off", values="kept"),
    ),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    source="Fashion-MNIST at twice its resolution",
)

_DIGITS = mixer(
    image_size=8, patch=2, channels=64, depth=2, token_hidden=32, channel_hidden=256, classes=10
)
_FASHION = mixer(
    image_size=28, patch=4, channels=96, depth=4, token_hidden=64, channel_hidden=384, classes=10
)

SMALL: dict[str, NamedRecipe] = {
    "digits": NamedRecipe(
        recipe=_small(
            size=8,
            evaluation=_as_is("scikit-learn's digits, grey values times 255 / 16"),
            crop=AsEvaluated(),
            flip="none",
            learning_rate=3e-3,
            batch=64,
            steps=1000,
            warm_up=50,
            mixup=Mixup(strength=0.5, share="drawn", partner="opposite"),
        ),
        model=_DIGITS,
        source=_OWN,
    ),
    "fashion_mnist": NamedRecipe(
        recipe=_small(
            size=28,
            evaluation=_as_is("Fashion-MNIST, grey values as they are"),
            crop=Shift(pixels=2),
            flip="left_right",
            learning_rate=2e-3,
            batch=128,
            steps=8_000,
            warm_up=400,
            mixup=NoMixup(),
        ),
        model=_FASHION,
        source=_OWN,
    ),
    # The model was trained at one scale: to it, the quarters of an image, which the paper's exact
    # form begins with, are no clothes at all.
    "fashion_mnist_finetune": NamedRecipe(
        recipe=dataclasses.replace(
            _small(
                size=56,
                evaluation=_DOUBLED,
                crop=AsEvaluated(),
                flip="left_right",
                learning_rate=1e-3,
                batch=128,
                steps=1000,
                warm_up=100,
                mixup=NoMixup(),
            ),
            average=MovingAverage(decay=0.99),
            init=FromFile(head="kept", head_bias=0.0, resolution="interpolated"),
        ),
        model=None,
        source=_OWN,
    ),
}
"""By name."""
