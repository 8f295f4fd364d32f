"""ONNX Runtime behind the backend protocol: numbers, weights, sessions and refusals."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from mixer_conformance import conformance_inputs, conformance_weights
from mixer_onnxruntime import OnnxRuntimeBackend, OnnxRuntimeModel
from mixer_spec import (
    Backend,
    InputError,
    Model,
    ModelSpec,
    UnknownNameError,
    WeightsError,
    families,
    load_backend,
)
from mixer_spec.reference import Arithmetic, Shuffled, forward

_SIZES: dict[str, Any] = {"image_size": (12, 8), "patch": 4, "channels": 24, "depth": 2}

SPECS = {
    "mixer": families.mixer(**_SIZES, token_hidden=7, channel_hidden=40, classes=10),
    "one_class": families.mixer(
        **_SIZES, token_hidden=11, channel_hidden=40, classes=1, gelu="none"
    ),
    "no_blocks": families.mixer(
        **(_SIZES | {"depth": 0}), token_hidden=7, channel_hidden=40, classes=10
    ),
    "one_token": families.resmlp(image_size=4, patch=4, channels=24, depth=2, classes=10),
    "resmlp": families.resmlp(**_SIZES, classes=10),
    "gmlp": families.gmlp(**_SIZES, classes=10),
    "gmixer": families.gmixer(**_SIZES, token_hidden=10, channel_hidden=28, classes=10),
    "vit": families.vit(**_SIZES, heads=3, channel_hidden=40, classes=10),
}

MIXER = SPECS["mixer"]


@functools.cache
def loaded(name: str) -> OnnxRuntimeModel:
    return OnnxRuntimeBackend().load(SPECS[name], conformance_weights(SPECS[name]))


def rms(array: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


@functools.cache
def truth_and_noise(spec: ModelSpec) -> tuple[Mapping[str, NDArray[Any]], dict[str, float]]:
    """Every tap of eight images in float64, and the rms error of float32 with shuffled sums.

    One image is too few for the noise of a single logit.
    """
    weights, images = conformance_weights(spec), conformance_inputs(spec, 8)
    truth = forward(spec, weights, images, spec.taps)
    yardsticks = [Arithmetic(np.float32), Shuffled(0), Shuffled(1)]
    samples = [forward(spec, weights, images, spec.taps, arithmetic=a) for a in yardsticks]
    return truth, {tap: max(rms(s[tap] - truth[tap]) for s in samples) for tap in spec.taps}


def assert_close(spec: ModelSpec, found: Mapping[str, NDArray[Any]], batch: int) -> None:
    """The first images' taps are within four times the noise."""
    truth, noise = truth_and_noise(spec)
    for tap, array in found.items():
        expected = truth[tap][:batch]
        assert array.shape == expected.shape
        assert rms(array - expected) <= 4 * noise[tap], tap


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("name", SPECS)
def test_every_tap_of_every_family_is_within_float32_noise(name: str, batch: int) -> None:
    spec, images = SPECS[name], conformance_inputs(SPECS[name], 8)[:batch]
    found = loaded(name).forward(images, spec.taps)
    assert set(found) == set(spec.taps)
    assert all(array.dtype == np.float32 for array in found.values())
    assert_close(spec, found, batch)
    assert_close(spec, loaded(name).forward(images), batch)


def test_the_comparison_sees_another_function() -> None:
    """The negative control: ONNX Runtime runs erf where the spec says tanh."""
    erf = families.mixer(**_SIZES, token_hidden=7, channel_hidden=40, classes=10, gelu="none")
    images = conformance_inputs(MIXER, 8)[:3]
    other = OnnxRuntimeBackend().load(erf, conformance_weights(MIXER)).forward(images, MIXER.taps)
    with pytest.raises(AssertionError, match=r"blocks\.0\.token_mixing"):
        assert_close(MIXER, other, 3)


def test_it_is_found_by_its_name_and_keeps_the_protocol() -> None:
    backend = load_backend("onnxruntime")
    assert isinstance(backend, Backend)
    assert isinstance(loaded("mixer"), Model)
    info = backend.info()
    assert (info.name, info.device, info.profiles, info.taps) == (
        "onnxruntime",
        "cpu",
        ("f32-strict",),
        True,
    )
    assert "onnxruntime" in info.versions


def test_only_what_was_asked_for_is_returned() -> None:
    images = conformance_inputs(MIXER, 1)
    assert list(loaded("mixer").forward(images)) == ["logits"]
    assert set(loaded("mixer").forward(images, ["logits", "stem", "stem"])) == {"stem", "logits"}


def test_a_tap_does_not_depend_on_the_others_asked_for() -> None:
    images = conformance_inputs(MIXER, 3)
    everything = loaded("mixer").forward(images, MIXER.taps)
    for tap in MIXER.taps[:-1]:
        assert np.array_equal(loaded("mixer").forward(images, [tap])[tap], everything[tap])


def test_images_may_be_views_in_any_order_and_of_any_floating_dtype() -> None:
    images = conformance_inputs(MIXER, 2)
    expected = loaded("mixer").forward(images)["logits"]
    for same in (
        np.asfortranarray(images),
        images.astype(np.float64),
        np.ascontiguousarray(images[:, ::-1])[:, ::-1],
    ):
        assert np.array_equal(loaded("mixer").forward(same)["logits"], expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_come_back_bit_for_bit(dtype: Any) -> None:
    weights = {name: a.astype(dtype) for name, a in conformance_weights(MIXER).items()}
    model = OnnxRuntimeBackend().load(MIXER, weights)
    exported = model.export_weights()
    assert exported.keys() == weights.keys()
    for name, array in weights.items():
        assert exported[name].dtype == array.dtype
        assert exported[name].tobytes() == array.tobytes()
    # Conformance weights are exact in every one of these dtypes.
    images = conformance_inputs(MIXER, 2)
    expected = loaded("mixer").forward(images)["logits"]
    assert np.array_equal(model.forward(images)["logits"], expected)


def test_weights_need_not_be_contiguous() -> None:
    weights = {name: np.asfortranarray(a) for name, a in conformance_weights(MIXER).items()}
    images = conformance_inputs(MIXER, 2)
    model = OnnxRuntimeBackend().load(MIXER, weights)
    expected = loaded("mixer").forward(images)["logits"]
    assert np.array_equal(model.forward(images)["logits"], expected)


def test_two_models_in_one_process_keep_apart() -> None:
    images = conformance_inputs(MIXER, 2)
    first = OnnxRuntimeBackend().load(MIXER, conformance_weights(MIXER, seed=1))
    second = OnnxRuntimeBackend().load(MIXER, conformance_weights(MIXER, seed=2))
    before = first.forward(images)["logits"]
    assert not np.array_equal(second.forward(images)["logits"], before)
    assert np.array_equal(first.forward(images)["logits"], before)


def test_bad_input_is_refused_before_anything_runs() -> None:
    model = loaded("mixer")
    images = conformance_inputs(MIXER, 1)
    with pytest.raises(InputError, match="channels first"):
        model.forward(images.transpose(0, 3, 1, 2))
    with pytest.raises(InputError, match="wrong dtype"):
        model.forward(images.astype(np.uint8))
    with pytest.raises(InputError, match=r"unknown taps \['steem'\].*'stem'"):
        model.forward(images, ["steem"])
    with pytest.raises(InputError, match="empty batch"):
        model.forward(images[:0])


def test_a_profile_that_it_does_not_claim_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"expected one of \['f32-strict'\], got 'f64'"):
        OnnxRuntimeBackend().load(MIXER, conformance_weights(MIXER), profile="f64")


def test_weights_that_do_not_fit_are_refused_when_loading() -> None:
    weights = dict(conformance_weights(MIXER))
    del weights["norm.bias"]
    with pytest.raises(WeightsError, match=r"- norm\.bias \[24\] \(missing\)"):
        OnnxRuntimeBackend().load(MIXER, weights)
