"""The published variants: one literal table of name, builder, parameter count and source."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from .errors import UnknownNameError
from .families import ImageSize, gmixer, gmlp, mixer, resmlp, vit
from .layers import Constant, Initial, Normal
from .model import ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A published architecture under its one name.

    Args:
        name: the name that is stored, as in ``mixer_b16``.
        build: makes the spec from ``image_size`` and ``classes``.
        parameters: the published number of weights at 224 pixels and 1000 classes.
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
    Variant(
        name="gmixer_12",
        build=partial(
            gmixer, patch=16, channels=384, depth=12, token_hidden=384, channel_hidden=1536
        ),
        parameters=12_701_080,
        source=_GMIXER,
        preprocessing="timm_imagenet",
    ),
    Variant(
        name="vit_b16",
        build=partial(vit, patch=16, channels=768, depth=12, heads=12, channel_hidden=3072),
        parameters=86_567_656,
        source=_VIT,
        preprocessing="big_vision",
        aliases=("vit_base_patch16",),
    ),
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
