"""`verify` on the three real backends: every tap of every architecture within the tolerance."""

from __future__ import annotations

import pytest

from mixer_conformance import verify
from mixer_spec import VARIANTS, ModelSpec
from tests.small_models import SMALL_MODELS

BACKENDS = ["jax", "onnxruntime", "torch"]


def assert_conformant(spec: ModelSpec, *, seed: int = 0) -> None:
    report = verify(spec, BACKENDS, seed=seed)
    found = {
        backend.name: (backend.crash, dict(backend.problems), backend.first_bad_stage)
        for backend in report.backends
    }
    assert found == dict.fromkeys(BACKENDS, (None, {}, None))
    assert report.conformant
    assert all(backend.sees_taps for backend in report.backends)


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_every_family_is_conformant(name: str) -> None:
    assert_conformant(SMALL_MODELS[name], seed=1)


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
