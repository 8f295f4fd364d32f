"""Fine-tuning: the paper's settings, and the one rule of Big Transfer."""

from __future__ import annotations

import dataclasses

from mixer_spec.preprocess import PIPELINES, FloatResample
from mixer_spec.recipe import Data, FromFile, NoClip, Recipe
from mixer_spec.recipe_parts import InceptionCrop, Mixup, NoMixup, ResizeThenCrop
from mixer_spec.schedule import Cosine, Schedule, Stairs
from mixer_spec.training import CrossEntropy, Momentum

from .named import NamedRecipe, named
from .published import imagenet

_FINE_TUNING = "arXiv:2105.01601v4, appendix C; arXiv:2010.11929, table 4; warm-up of 500 steps"
_HYPERRULE = "arXiv:1912.11370, section 3.3; google-research/big_transfer, bit_hyperrule.py"


def fine_tuning(*, steps: int, warm_up: int, learning_rate: float, size: int = 224) -> Recipe:
    """SGD with momentum and a cosine; the head begins at zero."""
    return dataclasses.replace(
        imagenet(),
        data=Data(
            image_size=(size, size),
            crop=InceptionCrop(area=(0.05, 1.0), antialias="off"),
            flip="left_right",
            unreadable="stop",
            evaluation=PIPELINES["big_vision"],
        ),
        loss=CrossEntropy(label_smoothing=0.0),
        optimiser=Momentum(learning_rate=learning_rate, decay=0.9, form="classical"),
        schedule=Schedule(warm_up=warm_up, decay=Cosine(end=0.0, end_is="absolute")),
        batch=512,
        steps=steps,
        init=FromFile(head="new", head_bias=0.0, resolution="exact"),
    )


def bit_hyperrule(*, examples: int, pixels: int) -> Recipe:
    """Fine-tuning by the one rule of Big Transfer: everything follows from two numbers.

    Args:
        examples: in the training set.
        pixels: height times width of a typical image.

    Example:
        >>> rule = bit_hyperrule(examples=50_000, pixels=32 * 32)
        >>> rule.steps, rule.data.image_size, rule.schedule.decay.boundaries
        (10000, (128, 128), (3000, 6000, 9000))
    """
    steps, warm_up = (500, 100) if examples < 20_000 else (10_000, 500)
    stairs: tuple[int, ...] = (200, 300, 400) if examples < 20_000 else (3_000, 6_000, 9_000)
    if examples >= 500_000:
        steps, stairs = 20_000, (6_000, 12_000, 18_000)
    resize, size = (160, 128) if pixels < 96 * 96 else (512, 480)
    mixup = Mixup(strength=0.1, share="drawn", partner="opposite")
    return _hyperrule(
        steps=steps,
        warm_up=warm_up,
        stairs=stairs,
        resize=resize,
        size=size,
        mixup=NoMixup() if examples < 20_000 else mixup,
    )


def _hyperrule(
    *,
    steps: int,
    warm_up: int,
    stairs: tuple[int, ...],
    resize: int,
    size: int,
    mixup: Mixup | NoMixup,
) -> Recipe:
    resample = FloatResample(filter="bilinear", antialias="off", values="truncated")
    tuned = fine_tuning(steps=steps, warm_up=warm_up, learning_rate=0.003, size=size)
    return dataclasses.replace(
        tuned,
        data=dataclasses.replace(tuned.data, crop=ResizeThenCrop(resize=resize, resample=resample)),
        mixup=mixup,
        clip=NoClip(),
        schedule=Schedule(warm_up=warm_up, decay=Stairs(boundaries=stairs, factor=0.1)),
    )


def _vtab(*, resize: int, size: int) -> Recipe:
    """The rule for 1000 examples, with the Mixer paper's resolutions and no mixup."""
    return _hyperrule(
        steps=500, warm_up=100, stairs=(200, 300, 400), resize=resize, size=size, mixup=NoMixup()
    )


FINE_TUNING: dict[str, NamedRecipe] = {
    "finetune_imagenet": named(
        None, fine_tuning(steps=20_000, warm_up=500, learning_rate=0.03), _FINE_TUNING
    ),
    "finetune_cifar": named(
        None, fine_tuning(steps=10_000, warm_up=500, learning_rate=0.03), _FINE_TUNING
    ),
    "finetune_small": named(
        None, fine_tuning(steps=500, warm_up=100, learning_rate=0.03), _FINE_TUNING
    ),
    "bit_small": named(None, bit_hyperrule(examples=1_000, pixels=224 * 224), _HYPERRULE),
    "bit_medium": named(None, bit_hyperrule(examples=50_000, pixels=224 * 224), _HYPERRULE),
    "bit_large": named(None, bit_hyperrule(examples=1_000_000, pixels=224 * 224), _HYPERRULE),
    "vtab": named(None, _vtab(resize=256, size=224), f"{_HYPERRULE}; {_FINE_TUNING}"),
    "vtab_448": named(None, _vtab(resize=512, size=448), f"{_HYPERRULE}; {_FINE_TUNING}"),
}
"""By name; the file to begin with says the model."""
