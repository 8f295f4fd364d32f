"""The variants: one literal table of name, builder, parameter count and source."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Literal

from .ablations import mixer_grouped, mixer_pyramid, mixer_untied, resmlp_ablation
from .blocks import NORM
from .errors import UnknownNameError
from .families import feed_forward, gmixer, gmlp, mixer, resmlp, vit
from .layers import Affine, Constant, Initial, Normal, NormLayer
from .model import ModelSpec
from .shapes import ImageSize


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A published architecture under its one name.

    Args:
        name: the name that is stored, as in ``mixer_b16``.
        build: makes the spec from ``image_size`` and ``classes``.
        parameters: the number of weights at 224 pixels and 1000 classes: the published one, or
            for an ablation, which has none, the one that its formula in the tests gives.
        source: where the numbers come from.
        preprocessing: the name of the pipeline its published weights were evaluated with.
        aliases: other names that people type, beyond what :func:`variant` normalises.
        initial: initial values that differ from the layers', by the end of the weight's name.
    """

    name: str
    build: Callable[..., ModelSpec]
    parameters: int
    source: str
    preprocessing: str
    aliases: tuple[str, ...] = ()
    initial: Mapping[str, Initial] = field(default_factory=lambda: MappingProxyType({}))

    def spec(self, *, image_size: ImageSize = 224, classes: int = 1000) -> ModelSpec:
        """The architecture at a resolution; the patch must divide it.

        Args:
            image_size: pixels of a square image's side, or ``(height, width)``.
            classes: number of logits.

        Raises:
            SpecError: if the patch does not divide the image.
        """
        return self.build(image_size=image_size, classes=classes)


_MIXER = (
    "arXiv:2105.01601v4, table 1; google-research/vision_transformer, vit_jax/configs/models.py"
)
_RESMLP = "arXiv:2105.03404, tables 1 and 3; facebookresearch/deit, resmlp_models.py"
_GMLP = "arXiv:2105.08050, table 1; huggingface/pytorch-image-models, mlp_mixer.py"
_GMIXER = "huggingface/pytorch-image-models, mlp_mixer.py"
_VIT = "arXiv:2010.11929, table 1; google-research/vision_transformer, vit_jax/configs/models.py"

_FF = "arXiv:2105.02723, table 1; lukemelas/do-you-even-need-attention"
_MIXER_ABLATION = "arXiv:2105.01601v4, appendix A.1; no weights were published"
_RESMLP_ABLATION = "arXiv:2105.03404, table 3; no weights were published"

_SMALL = {"channels": 512, "token_hidden": 256, "channel_hidden": 2048}
_small = partial(mixer, channels=512, depth=8, token_hidden=256, channel_hidden=2048)
_base = partial(mixer, channels=768, depth=12, token_hidden=384, channel_hidden=3072)
_large = partial(mixer, channels=1024, depth=24, token_hidden=512, channel_hidden=4096)
_huge = partial(mixer, channels=1280, depth=32, token_hidden=640, channel_hidden=5120)


def _mixer(name: str, parameters: int, build: Callable[..., ModelSpec]) -> Variant:
    return Variant(
        name=name, build=build, parameters=parameters, source=_MIXER, preprocessing="big_vision"
    )


def _resmlp(
    name: str, parameters: int, layer_scale: float, alias: str = "", **sizes: int
) -> Variant:
    return Variant(
        name=name,
        build=partial(resmlp, **sizes),
        parameters=parameters,
        source=_RESMLP,
        preprocessing="deit_resmlp",
        aliases=(alias,) if alias else (),
        initial={".scale.scale": Constant(layer_scale)},
    )


def _gmlp(name: str, parameters: int, channels: int) -> Variant:
    return Variant(
        name=name,
        build=partial(gmlp, patch=16, channels=channels, depth=30),
        parameters=parameters,
        source=_GMLP,
        preprocessing="timm_inception",
        # The gate begins as the identity on the first half.
        initial={".gate.dense_0.kernel": Normal(1e-6), ".gate.dense_0.bias": Constant(1.0)},
    )


def _gmixer(name: str, parameters: int, depth: int) -> Variant:
    sizes = {"channels": 384, "token_hidden": 384, "channel_hidden": 1536}
    return Variant(
        name=name,
        build=partial(gmixer, patch=16, depth=depth, **sizes),
        parameters=parameters,
        source=_GMIXER,
        preprocessing="timm_imagenet",
    )


def _vit(
    name: str, parameters: int, size: str, *, patch: int, channels: int, depth: int, heads: int
) -> Variant:
    build = partial(
        vit,
        patch=patch,
        channels=channels,
        depth=depth,
        heads=heads,
        channel_hidden=4 * channels,
    )
    return Variant(
        name=name,
        build=build,
        parameters=parameters,
        source=_VIT,
        preprocessing="big_vision",
        aliases=(f"vit_{size}_patch{patch}",),
    )


def _feed_forward(name: str, parameters: int, size: str, **sizes: int) -> Variant:
    return Variant(
        name=name,
        build=partial(feed_forward, **sizes),
        parameters=parameters,
        source=_FF,
        preprocessing="timm_imagenet",
        aliases=(f"ff_{size}", f"linear_{size}"),
    )


def _ablation(name: str, parameters: int, build: Callable[..., ModelSpec]) -> Variant:
    return Variant(
        name=name,
        build=build,
        parameters=parameters,
        source=_MIXER_ABLATION,
        preprocessing="big_vision",
    )


def _resmlp_ablation(
    name: str,
    parameters: int,
    *,
    mixing: Literal["linear", "mlp", "conv", "separable_conv"],
    norm: NormLayer,
) -> Variant:
    sizes = {"patch": 16, "channels": 384, "depth": 12}
    return Variant(
        name=name,
        build=partial(resmlp_ablation, **sizes, mixing=mixing, norm=norm),
        parameters=parameters,
        source=_RESMLP_ABLATION,
        preprocessing="deit_resmlp",
        initial={".scale.scale": Constant(0.1)},
    )


_ALL = (
    _mixer("mixer_s32", 19_104_624, partial(_small, patch=32)),
    _mixer("mixer_s16", 18_528_264, partial(_small, patch=16)),
    _mixer("mixer_b32", 60_293_428, partial(_base, patch=32)),
    _mixer("mixer_b16", 59_880_472, partial(_base, patch=16)),
    _mixer("mixer_l32", 206_939_264, partial(_large, patch=32)),
    _mixer("mixer_l16", 208_196_168, partial(_large, patch=16)),
    _mixer("mixer_h14", 432_350_952, partial(_huge, patch=14)),
    _resmlp("resmlp_12", 15_350_872, 0.1, patch=16, channels=384, depth=12),
    _resmlp("resmlp_24", 30_020_680, 1e-5, patch=16, channels=384, depth=24),
    _resmlp("resmlp_36", 44_690_488, 1e-6, patch=16, channels=384, depth=36),
    _resmlp(
        "resmlp_b24", 129_138_280, 1e-6, alias="resmlp_big_24", patch=8, channels=768, depth=24
    ),
    _gmlp("gmlp_ti16", 5_867_328, 128),
    _gmlp("gmlp_s16", 19_422_656, 256),
    _gmlp("gmlp_b16", 73_075_392, 512),
    _gmixer("gmixer_12", 12_701_080, depth=12),
    _gmixer("gmixer_24", 24_721_096, depth=24),
    _vit("vit_s16", 22_050_664, "small", patch=16, channels=384, depth=12, heads=6),
    _vit("vit_b32", 88_224_232, "base", patch=32, channels=768, depth=12, heads=12),
    _vit("vit_b16", 86_567_656, "base", patch=16, channels=768, depth=12, heads=12),
    _vit("vit_l16", 304_326_632, "large", patch=16, channels=1024, depth=24, heads=16),
    _vit("vit_h14", 632_045_800, "huge", patch=14, channels=1280, depth=32, heads=16),
    _feed_forward("ff_ti16", 7_676_332, "tiny", patch=16, channels=192, depth=12),
    _feed_forward("ff_b16", 61_943_020, "base", patch=16, channels=768, depth=12),
    _feed_forward("ff_l32", 206_213_048, "large", patch=32, channels=1024, depth=24),
    _ablation("mixer_s32_untied", 122_911_208, partial(mixer_untied, **_SMALL, patch=32, depth=8)),
    _ablation(
        "mixer_s16_grouped",
        19_332_648,
        partial(mixer_grouped, **_SMALL, patch=16, depth=8, groups=2, views=False),
    ),
    _ablation(
        "mixer_s16_views",
        21_433_896,
        partial(mixer_grouped, **_SMALL, patch=16, depth=8, groups=2, views=True),
    ),
    _ablation(
        "mixer_s16_pyramid",
        18_290_669,
        partial(mixer_pyramid, **_SMALL, patch=16, depths=(4, 4), shrink=4),
    ),
    _resmlp_ablation("resmlp_12_mlp", 18_587_224, mixing="mlp", norm=Affine()),
    _resmlp_ablation("resmlp_12_conv", 14_933_608, mixing="conv", norm=Affine()),
    _resmlp_ablation("resmlp_12_sepconv", 16_707_688, mixing="separable_conv", norm=Affine()),
    _resmlp_ablation("resmlp_12_layernorm", 15_350_872, mixing="linear", norm=NORM),
)

VARIANTS: Mapping[str, Variant] = MappingProxyType({variant.name: variant for variant in _ALL})
"""Every published variant by its name, in the order of the papers."""


def _key(name: str) -> str:
    """Letters and digits only; people write ``Mixer-B/16``, ``mixer_b16``, ``mlp_mixer_b_16``."""
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    return key.removeprefix("mlp") if key.startswith("mlpmixer") else key


_KEYS = {_key(name): v for v in _ALL for name in (v.name, *v.aliases)}


def variant(name: str) -> Variant:
    """The published variant that ``name`` means.

    Accepts what people type: ``mixer_b16``, ``B/16``, ``Mixer-B/16``, ``mixer_b16_224``.

    Raises:
        UnknownNameError: if there is none; the message lists the nearest names.

    Example:
        >>> variant("Mixer-B/16").name, variant("B/16").name, variant("mixer_b16_224").name
        ('mixer_b16', 'mixer_b16', 'mixer_b16')
    """
    key = _key(name)
    for candidate in (key, key.removesuffix("224")):
        for guess in (candidate, f"mixer{candidate}"):
            if guess in _KEYS:
                return _KEYS[guess]
    near = difflib.get_close_matches(key, _KEYS, n=3, cutoff=0.5)
    near += difflib.get_close_matches(f"mixer{key}", _KEYS, n=3, cutoff=0.5)
    nearest = list(dict.fromkeys(_KEYS[k].name for k in near)) or list(VARIANTS)
    raise UnknownNameError(
        f"variant {name!r}",
        f"there is no such variant; expected a name like {', '.join(nearest[:4])}; "
        "`mixer-spec list` prints them all",
    )
