"""The models that the suite judges with, as data: small ones that hide nothing, then the real ones.

Z0 is degenerate: a length of one somewhere, or no block. Z1 has a small model of every family in
which every size differs, so that nothing fits by accident. Z2 has equal sizes, so that every
transpose fits, and a model for exact probes. Z3 is deeper. Z4 and Z5 are published variants. Z6 has
trained weights and real images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from mixer_conformance.trained import trained_spec
from mixer_spec import VARIANTS, InputError, ModelSpec, ablations, families, variant
from mixer_spec.blocks import NORM
from mixer_spec.shapes import TokenIds, Vectors

Effort = Literal["quick", "full", "nightly"]
"""How much of the suite is run: seconds, minutes, hours."""

PROBE = "probe"
"""A Mixer with eight tokens, a power of two, so that their mean is exact."""

WITH_WEIGHTS = "Z6"
"""The group of models that come with trained weights, and images for them."""

EFFORTS: tuple[Effort, ...] = ("quick", "full", "nightly")


@dataclass(frozen=True, slots=True)
class ZooModel:
    """One model.

    Args:
        name: what ``--scales`` and results call it.
        group: ``Z0`` to ``Z6``.
        effort: from which effort on it is run.
        build: makes the spec.
    """

    name: str
    group: str
    effort: Effort
    build: Callable[[], ModelSpec]


def _mixer(
    image: tuple[int, int] = (8, 12),
    *,
    channels: int = 8,
    depth: int = 2,
    token_hidden: int = 5,
    channel_hidden: int = 12,
    classes: int = 7,
) -> Callable[[], ModelSpec]:
    return lambda: families.mixer(
        image_size=image,
        patch=4,
        channels=channels,
        depth=depth,
        token_hidden=token_hidden,
        channel_hidden=channel_hidden,
        classes=classes,
    )


def _sequence(entering: TokenIds | Vectors) -> Callable[[], ModelSpec]:
    return lambda: families.sequence_mixer(
        input=entering, channels=8, depth=2, token_hidden=5, channel_hidden=12, classes=7
    )


def _vit(pool: Literal["class_token", "mean"]) -> Callable[[], ModelSpec]:
    return lambda: families.vit(
        image_size=(8, 12),
        patch=4,
        channels=12,
        depth=2,
        heads=3,
        channel_hidden=20,
        classes=7,
        pool=pool,
    )


def _grouped(*, views: bool) -> Callable[[], ModelSpec]:
    return lambda: ablations.mixer_grouped(
        image_size=(8, 12),
        patch=4,
        channels=8,
        depth=2,
        token_hidden=5,
        channel_hidden=14,
        groups=2,
        views=views,
        classes=7,
    )


def _resmlp_ablation(mixing: Literal["mlp", "separable_conv"]) -> Callable[[], ModelSpec]:
    return lambda: ablations.resmlp_ablation(
        image_size=(12, 16), patch=4, channels=8, depth=2, mixing=mixing, norm=NORM, classes=7
    )


_SMALL: tuple[tuple[str, str, Effort, Callable[[], ModelSpec]], ...] = (
    ("no_block", "Z0", "quick", _mixer(depth=0)),
    ("one_block", "Z0", "full", _mixer(depth=1)),
    ("one_token", "Z0", "full", _mixer((4, 4))),
    ("one_channel", "Z0", "quick", _mixer(channels=1)),
    ("one_class", "Z0", "full", _mixer(classes=1)),
    ("one_hidden", "Z0", "full", _mixer(token_hidden=1, channel_hidden=1)),
    ("mixer", "Z1", "quick", _mixer()),
    (
        "resmlp",
        "Z1",
        "quick",
        lambda: families.resmlp(image_size=(8, 12), patch=4, channels=8, depth=2, classes=7),
    ),
    (
        "gmlp",
        "Z1",
        "quick",
        lambda: families.gmlp(image_size=(8, 12), patch=4, channels=8, depth=2, classes=7),
    ),
    (
        "gmixer",
        "Z1",
        "full",
        lambda: families.gmixer(
            image_size=(8, 12),
            patch=4,
            channels=8,
            depth=2,
            token_hidden=10,
            channel_hidden=24,
            classes=7,
        ),
    ),
    ("vit", "Z1", "quick", _vit("class_token")),
    ("vit_mean", "Z1", "full", _vit("mean")),
    (
        "feed_forward",
        "Z1",
        "full",
        lambda: families.feed_forward(image_size=(8, 12), patch=4, channels=9, depth=2, classes=8),
    ),
    ("words", "Z1", "quick", _sequence(TokenIds(tokens=6, vocabulary=11))),
    ("signal", "Z1", "full", _sequence(Vectors(tokens=6, channels=3))),
    (
        "untied",
        "Z1",
        "full",
        lambda: ablations.mixer_untied(
            image_size=(8, 12),
            patch=4,
            channels=8,
            depth=2,
            token_hidden=5,
            channel_hidden=12,
            classes=7,
        ),
    ),
    ("grouped", "Z1", "full", _grouped(views=True)),
    ("grouped_plain", "Z1", "full", _grouped(views=False)),
    (
        "pyramid",
        "Z1",
        "full",
        lambda: ablations.mixer_pyramid(
            image_size=(12, 16),
            patch=4,
            channels=8,
            depths=(2, 1),
            shrink=2,
            token_hidden=5,
            channel_hidden=14,
            classes=7,
        ),
    ),
    ("conv", "Z1", "full", _resmlp_ablation("separable_conv")),
    ("wide_resmlp", "Z1", "full", _resmlp_ablation("mlp")),
    (
        "square",
        "Z2",
        "quick",
        _mixer((16, 16), channels=16, token_hidden=16, channel_hidden=16, classes=16),
    ),
    (
        PROBE,
        "Z2",
        "quick",
        _mixer((8, 16), channels=32, token_hidden=16, channel_hidden=64, classes=32),
    ),
    (
        "tiny",
        "Z3",
        "full",
        _mixer((12, 20), channels=24, depth=4, token_hidden=20, channel_hidden=40, classes=11),
    ),
    ("deep", "Z3", "full", _mixer(depth=12)),
)

_FULL_VARIANTS = ("mixer_s32",)


def _published(name: str) -> ZooModel:
    full = name in _FULL_VARIANTS
    return ZooModel(
        name,
        "Z4" if full else "Z5",
        "full" if full else "nightly",
        lambda: variant(name).spec(),
    )


ZOO: Mapping[str, ZooModel] = {
    model.name: model
    for model in (
        *(ZooModel(*row) for row in _SMALL),
        *map(_published, VARIANTS),
        ZooModel("fashion_mnist", WITH_WEIGHTS, "full", trained_spec),
    )
}
"""Every model by name."""


def chosen(effort: Effort, scales: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names of the models that are run.

    Args:
        effort: how much of the suite.
        scales: names or groups (``mixer``, ``Z1``); they decide alone where there are any.

    Raises:
        InputError: if a scale is neither a model nor a group.

    Example:
        >>> chosen("quick", ("Z2", "mixer"))
        ('mixer', 'square', 'probe')
    """
    known = {*ZOO, *(model.group for model in ZOO.values())}
    if unknown := [scale for scale in scales if scale not in known]:
        raise InputError(
            "--scales",
            f"unknown {unknown}; expected groups Z0 to Z6 or models like {list(ZOO)[:8]}",
        )
    most = EFFORTS.index(effort)
    return tuple(
        model.name
        for model in ZOO.values()
        if (
            {model.name, model.group} & set(scales)
            if scales
            else EFFORTS.index(model.effort) <= most
        )
    )
