"""The settings that the published Mixers were trained with: the rows of the paper's table 4."""

from __future__ import annotations

import dataclasses

from mixer_spec.preprocess import PIPELINES
from mixer_spec.recipe import (
    ClipByGlobalNorm,
    Data,
    NewWeights,
    NoAverage,
    NoStochasticDepth,
    Recipe,
    SigmoidCrossEntropy,
    StochasticDepth,
)
from mixer_spec.recipe_parts import InceptionCrop, Mixup, NoAugmentation, NoMixup, RandAugment
from mixer_spec.schedule import Linear, Schedule
from mixer_spec.training import AdamW

from .named import NamedRecipe, named

_TABLE_4 = "arXiv:2105.01601v4, table 4 and appendix B; google-research/big_vision, configs"

_IMAGENET = 1_268_355  # 99% of the training images; the rest is kept for choosing
_IMAGENET_21K = 14_197_122
_JFT = 300_000_000  # as the paper rounds it


def _table_4(
    *,
    images: int,
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    head_bias: float,
    randaugment: float | None = None,
    mixup: float | None = None,
    depth: float | None = None,
) -> Recipe:
    """One row of the paper's table; a dash there is ``None`` here. Dropout is 0 in all of them.

    Where the paper is silent, the code that it was trained with decides: the loss, the end of the
    decay, the form of mixup and of the operations, the weights that decay.
    """
    return Recipe(
        seed=0,
        data=Data(
            image_size=(224, 224),
            crop=InceptionCrop(area=(0.05, 1.0), antialias="off"),
            flip="left_right",
            unreadable="stop",
            evaluation=PIPELINES["big_vision"],
        ),
        augment=NoAugmentation()
        if randaugment is None
        else RandAugment(layers=2, magnitude=randaugment, flavour="google"),
        mixup=NoMixup()
        if mixup is None
        else Mixup(strength=mixup, share="larger", partner="previous"),
        stochastic_depth=NoStochasticDepth()
        if depth is None
        else StochasticDepth(rate=depth, grows="per_branch", rescale="none"),
        loss=SigmoidCrossEntropy(),
        optimiser=AdamW(
            learning_rate=learning_rate,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-8,
            weight_decay=weight_decay,
            decayed=("kernel",),
        ),
        decay_scaling="learning_rate",
        clip=ClipByGlobalNorm(norm=1.0),
        average=NoAverage(),
        schedule=Schedule(warm_up=10_000, decay=Linear(end=1e-5, end_is="relative")),
        batch=4096,
        steps=epochs * images // 4096,
        accumulation=1,
        compute="bfloat16",
        rematerialise="none",
        init=NewWeights(head_bias=head_bias),
    )


def imagenet(**row: float) -> Recipe:
    return _table_4(
        images=_IMAGENET, epochs=300, learning_rate=1e-3, weight_decay=0.1, head_bias=-6.9, **row
    )


def _imagenet_21k(**row: float) -> Recipe:
    return _table_4(
        images=_IMAGENET_21K,
        epochs=300,
        learning_rate=1e-3,
        weight_decay=0.1,
        head_bias=-10.0,
        **row,
    )


def _jft(*, epochs: int, learning_rate: float) -> Recipe:
    return _table_4(
        images=_JFT,
        epochs=epochs,
        learning_rate=learning_rate,
        weight_decay=0.03,
        head_bias=-10.0,
    )


def _as_big_vision() -> Recipe:
    """``configs/mlp_mixer_i1k.py``: where the code says other than the paper, the code."""
    row = imagenet(randaugment=15, mixup=0.5, depth=0.1)
    assert isinstance(row.optimiser, AdamW)
    return dataclasses.replace(
        row,
        stochastic_depth=StochasticDepth(rate=0.1, grows="per_block", rescale="none"),
        optimiser=dataclasses.replace(row.optimiser, weight_decay=1e-4),
        decay_scaling="schedule",
    )


PUBLISHED: dict[str, NamedRecipe] = {
    "mixer_b_i1k": named("mixer_b16", imagenet(randaugment=15, mixup=0.5, depth=0.1), _TABLE_4),
    "mixer_l_i1k": named("mixer_l16", imagenet(randaugment=15, mixup=0.5, depth=0.1), _TABLE_4),
    "mixer_b_i21k": named(
        "mixer_b16", _imagenet_21k(randaugment=10, mixup=0.2, depth=0.1), _TABLE_4
    ),
    "mixer_l_i21k": named(
        "mixer_l16", _imagenet_21k(randaugment=20, mixup=0.5, depth=0.1), _TABLE_4
    ),
    "mixer_s_jft": named("mixer_s16", _jft(epochs=5, learning_rate=3e-3), _TABLE_4),
    "mixer_b_jft": named("mixer_b16", _jft(epochs=7, learning_rate=3e-3), _TABLE_4),
    "mixer_l_jft_7": named("mixer_l16", _jft(epochs=7, learning_rate=1e-3), _TABLE_4),
    "mixer_l_jft_14": named("mixer_l16", _jft(epochs=14, learning_rate=1e-3), _TABLE_4),
    "mixer_h_jft": named("mixer_h14", _jft(epochs=14, learning_rate=1e-3), _TABLE_4),
    "big_vision_i1k": named(
        "mixer_b16",
        _as_big_vision(),
        "google-research/big_vision, configs/mlp_mixer_i1k.py",
    ),
}
"""By name; the first nine are the rows of the table."""
