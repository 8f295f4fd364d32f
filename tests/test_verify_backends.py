"""`verify` on the three real backends: every tap of every architecture within the tolerance."""

from __future__ import annotations

import pytest

from mixer_conformance import verify
from mixer_spec import VARIANTS, ModelSpec, ablations, families
from mixer_spec.blocks import NORM
from mixer_spec.layers import Affine
from mixer_spec.shapes import TokenIds, Vectors

BACKENDS = ["jax", "onnxruntime", "torch"]
SMALL = {"image_size": (8, 12), "patch": 4, "channels": 12, "depth": 2, "classes": 7}
HIDDEN = {"token_hidden": 5, "channel_hidden": 20}
SEQUENCE = {"channels": 12, "depth": 2, "classes": 7, **HIDDEN}
SPECS = {
    "mixer": families.mixer(**SMALL, token_hidden=5, channel_hidden=20),
    "mixer with erf": families.mixer(**SMALL, token_hidden=5, channel_hidden=20, gelu="none"),
    "resmlp": families.resmlp(**SMALL),
    "gmlp": families.gmlp(**SMALL),
    "gmixer": families.gmixer(**SMALL, token_hidden=10, channel_hidden=24),
    "vit": families.vit(**SMALL, heads=3, channel_hidden=20),
    "vit mean": families.vit(**SMALL, heads=3, channel_hidden=20, pool="mean"),
    "feed forward": families.feed_forward(**SMALL),
    "untied": ablations.mixer_untied(**SMALL, **HIDDEN),
    "grouped": ablations.mixer_grouped(**SMALL, **HIDDEN, groups=3, views=False),
    "views": ablations.mixer_grouped(**SMALL, **HIDDEN, groups=2, views=True),
    "pyramid": ablations.mixer_pyramid(
        image_size=(8, 12), patch=4, channels=12, depths=(1, 2), shrink=2, classes=7, **HIDDEN
    ),
    "resmlp mlp": ablations.resmlp_ablation(**SMALL, mixing="mlp", norm=Affine()),
    "resmlp conv": ablations.resmlp_ablation(**SMALL, mixing="conv", norm=Affine()),
    "resmlp sepconv": ablations.resmlp_ablation(**SMALL, mixing="separable_conv", norm=Affine()),
    "resmlp layer norm": ablations.resmlp_ablation(**SMALL, mixing="linear", norm=NORM),
    "words": families.sequence_mixer(**SEQUENCE, input=TokenIds(tokens=6, vocabulary=30)),
    "vectors": families.sequence_mixer(**SEQUENCE, input=Vectors(tokens=6, channels=5)),
}


def assert_conformant(spec: ModelSpec, *, seed: int = 0) -> None:
    report = verify(spec, BACKENDS, seed=seed)
    found = {
        backend.name: (backend.crash, dict(backend.problems), backend.first_bad_stage)
        for backend in report.backends
    }
    assert found == dict.fromkeys(BACKENDS, (None, {}, None))
    assert report.conformant
    assert all(backend.sees_taps for backend in report.backends)


@pytest.mark.parametrize("name", SPECS)
def test_every_family_is_conformant(name: str) -> None:
    assert_conformant(SPECS[name], seed=1)


def test_mixer_s32_is_conformant() -> None:
    assert_conformant(VARIANTS["mixer_s32"].spec())


# By the number of weights; the small ones are judged in about ten seconds each.
SMALL_VARIANTS = [name for name in VARIANTS if VARIANTS[name].parameters < 40_000_000]
LARGE_VARIANTS = [name for name in VARIANTS if name not in SMALL_VARIANTS]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL_VARIANTS if name != "mixer_s32"])
def test_every_small_variant_is_conformant(name: str) -> None:
    assert_conformant(VARIANTS[name].spec())


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE_VARIANTS)
def test_every_large_variant_is_conformant(name: str) -> None:
    assert_conformant(VARIANTS[name].spec())
