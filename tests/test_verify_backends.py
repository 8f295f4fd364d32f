"""`verify` on the three real backends: every tap of every architecture within the tolerance."""

from __future__ import annotations

import pytest

from mixer_conformance import verify
from mixer_spec import VARIANTS, ModelSpec, families

BACKENDS = ["jax", "onnxruntime", "torch"]
SMALL = {"image_size": (8, 12), "patch": 4, "channels": 12, "depth": 2, "classes": 7}
SPECS = {
    "mixer": families.mixer(**SMALL, token_hidden=5, channel_hidden=20),
    "mixer with erf": families.mixer(**SMALL, token_hidden=5, channel_hidden=20, gelu="none"),
    "resmlp": families.resmlp(**SMALL),
    "gmlp": families.gmlp(**SMALL),
    "gmixer": families.gmixer(**SMALL, token_hidden=10, channel_hidden=24),
    "vit": families.vit(**SMALL, heads=3, channel_hidden=20),
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


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VARIANTS if name.startswith("mixer_")][1:])
def test_every_mixer_scale_is_conformant(name: str) -> None:
    assert_conformant(VARIANTS[name].spec())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resmlp_12", "gmlp_ti16", "gmixer_12", "vit_b16"])
def test_a_published_variant_of_every_family_is_conformant(name: str) -> None:
    assert_conformant(VARIANTS[name].spec())
