"""The JAX backend behind the protocol: what it says, what it refuses, what it leaves alone."""

from __future__ import annotations

from typing import Any

import jax
import jaxlib
import numpy as np
import pytest
from numpy.typing import NDArray

import mixer_jax.backend
from mixer_jax import JaxBackend
from mixer_spec import Backend, Model, families, load_backend
from mixer_spec.errors import InputError, UnknownNameError, WeightsError
from mixer_spec.weights import initial

SPEC = families.mixer(
    image_size=8, patch=4, channels=5, depth=2, token_hidden=3, channel_hidden=6, classes=3
)


def _images(batch: int = 2, dtype: Any = np.float32) -> NDArray[Any]:
    return np.random.default_rng(0).standard_normal((batch, *SPEC.input.shape)).astype(dtype)


def test_it_is_found_by_its_name_and_follows_the_protocol() -> None:
    backend = load_backend("jax")
    assert isinstance(backend, JaxBackend)
    assert isinstance(backend, Backend)
    assert isinstance(backend.load(SPEC, initial(SPEC)), Model)


def test_it_says_its_versions_and_its_device() -> None:
    info = JaxBackend().info()
    assert info.name == "jax"
    assert info.versions["jax"] == jax.__version__
    assert info.versions["jaxlib"] == jaxlib.version.__version__
    assert set(info.versions) == {"jax", "jaxlib", "flax"}
    assert info.device == jax.devices()[0].device_kind
    assert info.profiles == ("f32-strict", "f64")
    assert info.taps


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="does not claim the profile"):
        JaxBackend().load(SPEC, initial(SPEC), profile="bf16")  # type: ignore[arg-type]


def test_wrong_weights_are_refused_all_at_once() -> None:
    weights: dict[str, NDArray[Any]] = dict(initial(SPEC))
    del weights["norm.scale"]
    weights["head.kernel"] = weights["head.kernel"].T
    weights["tail.bias"] = np.zeros(3, np.float32)
    weights["head.bias"] = np.zeros(3, np.int32)
    with pytest.raises(WeightsError) as caught:
        JaxBackend().load(SPEC, weights)
    assert len(caught.value.problems) == 4


def test_wrong_images_are_refused() -> None:
    model = JaxBackend().load(SPEC, initial(SPEC))
    with pytest.raises(InputError, match="wrong rank"):
        model.forward(_images()[0])
    with pytest.raises(InputError, match="channels first"):
        model.forward(_images().transpose(0, 3, 1, 2))
    with pytest.raises(InputError, match="wrong dtype"):
        model.forward(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="unknown taps"):
        model.forward(_images(), ["blocks.2.token_mixing"])


def test_the_images_may_have_any_floating_dtype_and_any_strides() -> None:
    model = JaxBackend().load(SPEC, _noisy(), profile="f32-strict")
    expected = model.forward(_images())["logits"]
    strided = np.asfortranarray(_images(dtype=np.float64))[::-1]
    found = model.forward(strided.astype(np.float32).astype(np.float64))["logits"]
    np.testing.assert_array_equal(found, expected[::-1])
    assert found.dtype == np.float32


def _noisy() -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(1)
    shapes = {name: parameter.shape for name, parameter in SPEC.parameters().items()}
    return {name: generator.standard_normal(s, np.float32) for name, s in shapes.items()}


@pytest.mark.parametrize("profile", ["f32-strict", "f64"])
@pytest.mark.parametrize("scan", [False, True], ids=["plain", "scanned"])
def test_the_configuration_of_the_process_stays_as_it_is(scan: bool, profile: Any) -> None:
    before = _configuration()
    model = JaxBackend(scan=scan).load(SPEC, _noisy(), profile=profile)
    model.forward(_images(), SPEC.taps)
    model.export_weights()
    assert _configuration() == before
    assert not before["jax_enable_x64"]
    assert before["jax_default_matmul_precision"] is None
    assert jax.numpy.ones(1).dtype == np.float32


def _configuration() -> dict[str, Any]:
    return {name: getattr(jax.config, name) for name in dir(jax.config) if name[:4] == "jax_"}


def test_the_configuration_of_the_process_does_not_change_the_numbers() -> None:
    model = JaxBackend().load(SPEC, _noisy())
    expected = model.forward(_images())["logits"]
    with jax.enable_x64(True), jax.default_matmul_precision("bfloat16"):
        np.testing.assert_array_equal(model.forward(_images())["logits"], expected)


@pytest.mark.parametrize(("profile", "absent"), [("f32-strict", "f64["), ("f64", "f32[")])
@pytest.mark.parametrize("scan", [False, True], ids=["plain", "scanned"])
def test_a_profile_computes_in_one_dtype_throughout(scan: bool, profile: Any, absent: str) -> None:
    dtype = np.float32 if profile == "f32-strict" else np.float64
    weights = {name: array.astype(dtype) for name, array in _noisy().items()}
    model = JaxBackend(scan=scan).load(SPEC, weights, profile=profile)
    with jax.enable_x64(True):
        lowered = mixer_jax.backend._run.trace(
            SPEC, model.params, _images(dtype=dtype), SPEC.taps, model.dtype
        )
    program = str(lowered.jaxpr)
    assert absent not in program
    assert {"f32[": "f64[", "f64[": "f32["}[absent] in program


def test_models_of_one_spec_share_a_program_for_each_batch_size_and_set_of_taps() -> None:
    first, second = (JaxBackend().load(SPEC, _noisy()) for _ in range(2))
    run: Any = mixer_jax.backend._run
    run.clear_cache()
    first.forward(_images())
    second.forward(_images())
    assert run._cache_size() == 1
    first.forward(_images(), ["norm", "stem"])
    first.forward(_images(), ["stem", "norm", "stem"])
    assert run._cache_size() == 2
    first.forward(_images(3))
    assert run._cache_size() == 3
