"""The named recipes: a literal table of the paper's settings and of small ones that run anywhere."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from .errors import UnknownNameError
from .families import mixer
from .model import ModelSpec
from .preprocess import PIPELINES, AsIs, FloatResample, Preprocessing, ResizeAndCrop
from .recipe import (
    ClipByGlobalNorm,
    Data,
    FromFile,
    MovingAverage,
    NewWeights,
    NoAverage,
    NoClip,
    NoStochasticDepth,
    Recipe,
    SigmoidCrossEntropy,
    StochasticDepth,
)
from .recipe_parts import (
    AsEvaluated,
    InceptionCrop,
    Mixup,
    NoAugmentation,
    NoMixup,
    RandAugment,
    ResizeThenCrop,
    Shift,
)
from .schedule import Cosine, Linear, Schedule, Stairs
from .training import AdamW, CrossEntropy, Momentum


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedRecipe:
    """A recipe under its name.

    Args:
        recipe: the settings.
        model: the variant that they were published for, or a small architecture itself; ``None``
            for fine-tuning, where the file says it.
        source: where the settings come from.
    """

    recipe: Recipe
    model: str | ModelSpec | None
    source: str


_TABLE_4 = "arXiv:2105.01601v4, table 4 and appendix B; google-research/big_vision, configs"
_FINE_TUNING = "arXiv:2105.01601v4, appendix C; arXiv:2010.11929, table 4; warm-up of 500 steps"
_HYPERRULE = "arXiv:1912.11370, section 3.3; google-research/big_transfer, bit_hyperrule.py"
_OWN = "mixer_spec: chosen on this data by us"

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


def _imagenet(**row: float) -> Recipe:
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
    row = _imagenet(randaugment=15, mixup=0.5, depth=0.1)
    assert isinstance(row.optimiser, AdamW)
    return dataclasses.replace(
        row,
        stochastic_depth=StochasticDepth(rate=0.1, grows="per_block", rescale="none"),
        optimiser=dataclasses.replace(row.optimiser, weight_decay=1e-4),
        decay_scaling="schedule",
    )


def _fine_tuning(*, steps: int, warm_up: int, learning_rate: float, size: int = 224) -> Recipe:
    """SGD with momentum and a cosine; the head begins at zero."""
    return dataclasses.replace(
        _imagenet(),
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
    tuned = _fine_tuning(steps=steps, warm_up=warm_up, learning_rate=0.003, size=size)
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


_DIGITS = mixer(
    image_size=8, patch=2, channels=64, depth=2, token_hidden=32, channel_hidden=256, classes=10
)
_FASHION = mixer(
    image_size=28, patch=4, channels=96, depth=4, token_hidden=64, channel_hidden=384, classes=10
)


def _named(model: str | None, recipe: Recipe, source: str) -> NamedRecipe:
    return NamedRecipe(recipe=recipe, model=model, source=source)


RECIPES: Mapping[str, NamedRecipe] = MappingProxyType(
    {
        "mixer_b_i1k": _named(
            "mixer_b16", _imagenet(randaugment=15, mixup=0.5, depth=0.1), _TABLE_4
        ),
        "mixer_l_i1k": _named(
            "mixer_l16", _imagenet(randaugment=15, mixup=0.5, depth=0.1), _TABLE_4
        ),
        "mixer_b_i21k": _named(
            "mixer_b16", _imagenet_21k(randaugment=10, mixup=0.2, depth=0.1), _TABLE_4
        ),
        "mixer_l_i21k": _named(
            "mixer_l16", _imagenet_21k(randaugment=20, mixup=0.5, depth=0.1), _TABLE_4
        ),
        "mixer_s_jft": _named("mixer_s16", _jft(epochs=5, learning_rate=3e-3), _TABLE_4),
        "mixer_b_jft": _named("mixer_b16", _jft(epochs=7, learning_rate=3e-3), _TABLE_4),
        "mixer_l_jft_7": _named("mixer_l16", _jft(epochs=7, learning_rate=1e-3), _TABLE_4),
        "mixer_l_jft_14": _named("mixer_l16", _jft(epochs=14, learning_rate=1e-3), _TABLE_4),
        "mixer_h_jft": _named("mixer_h14", _jft(epochs=14, learning_rate=1e-3), _TABLE_4),
        "big_vision_i1k": _named(
            "mixer_b16",
            _as_big_vision(),
            "google-research/big_vision, configs/mlp_mixer_i1k.py",
        ),
        "finetune_imagenet": _named(
            None, _fine_tuning(steps=20_000, warm_up=500, learning_rate=0.03), _FINE_TUNING
        ),
        "finetune_cifar": _named(
            None, _fine_tuning(steps=10_000, warm_up=500, learning_rate=0.03), _FINE_TUNING
        ),
        "finetune_small": _named(
            None, _fine_tuning(steps=500, warm_up=100, learning_rate=0.03), _FINE_TUNING
        ),
        "bit_small": _named(None, bit_hyperrule(examples=1_000, pixels=224 * 224), _HYPERRULE),
        "bit_medium": _named(None, bit_hyperrule(examples=50_000, pixels=224 * 224), _HYPERRULE),
        "bit_large": _named(None, bit_hyperrule(examples=1_000_000, pixels=224 * 224), _HYPERRULE),
        "vtab": _named(None, _vtab(resize=256, size=224), f"{_HYPERRULE}; {_FINE_TUNING}"),
        "vtab_448": _named(None, _vtab(resize=512, size=448), f"{_HYPERRULE}; {_FINE_TUNING}"),
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
        "fashion_mnist_finetune": NamedRecipe(
            recipe=dataclasses.replace(
                _fine_tuning(steps=400, warm_up=40, learning_rate=0.01, size=56),
                data=Data(
                    image_size=(56, 56),
                    crop=AsEvaluated(),
                    flip="left_right",
                    unreadable="stop",
                    evaluation=Preprocessing(
                        orientation="stored",
                        geometry=ResizeAndCrop(
                            crop_fraction=1.0,
                            long_side="half_even",
                            offset="floor",
                            resample=FloatResample(
                                filter="bilinear", antialias="off", values="kept"
                            ),
                        ),
                        mean=(0.5, 0.5, 0.5),
                        std=(0.5, 0.5, 0.5),
                        source="Fashion-MNIST at twice its resolution",
                    ),
                ),
                batch=128,
                compute="float32",
                average=MovingAverage(decay=0.99),
                init=FromFile(head="kept", head_bias=0.0, resolution="exact"),
            ),
            model=None,
            source=_OWN,
        ),
    }
)
"""The named recipes; the first nine are the rows of the paper's table 4."""


def recipe(name: str) -> Recipe:
    """The settings of the recipe called ``name``.

    Raises:
        UnknownNameError: if there is none; the message lists the nearest names.

    Example:
        >>> recipe("mixer_b_i1k").steps  # 300 epochs
        92897
    """
    return named_recipe(name).recipe


def named_recipe(name: str) -> NamedRecipe:
    """The recipe called ``name``, with its model and source.

    Raises:
        UnknownNameError: if there is none; the message lists the nearest names.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4) or list(RECIPES)
        raise UnknownNameError(
            f"recipe {name!r}", f"there is none of that name; expected one like {', '.join(near)}"
        )
    return RECIPES[name]
