"""ONNX Runtime behind the backend protocol: numbers, weights, sessions and refusals."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, get_args

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
    layers,
    load_backend,
)
from tests.float32_noise import rms, truth_and_tolerance
from tests.small_models import HIDDEN, SMALL, SMALL_MODELS

SPECS = {
    **SMALL_MODELS,
    "one class": families.mixer(**{**SMALL, "classes": 1}, **HIDDEN),
    "no blocks": families.mixer(**{**SMALL, "depth": 0}, **HIDDEN),
    "one token": families.resmlp(**{**SMALL, "image_size": 4}),
}
MIXER = SPECS["mixer"]


@functools.cache
def loaded(name: str) -> OnnxRuntimeModel:
    return OnnxRuntimeBackend().load(SPECS[name], conformance_weights(SPECS[name]))


@functools.cache
def judged_by(spec: ModelSpec) -> tuple[Mapping[str, NDArray[Any]], dict[str, float]]:
    """Every tap of eight inputs in float64, and how far float32 may be from it."""
    return truth_and_tolerance(
        spec, conformance_weights(spec), conformance_inputs(spec, 8), spec.taps
    )


def assert_close(spec: ModelSpec, found: Mapping[str, NDArray[Any]], batch: int) -> None:
    """The first inputs' taps are within the tolerance."""
    truth, tolerance = judged_by(spec)
    for tap, array in found.items():
        expected = truth[tap][:batch]
        assert array.shape == expected.shape
        assert rms(array - expected) <= tolerance[tap], tap


def test_the_specs_here_have_every_layer_kind() -> None:
    kinds = {type(node.layer) for spec in SPECS.values() for node in spec.nodes()}
    assert kinds == set(get_args(layers.AnyLayer))


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("name", SPECS)
def test_every_tap_of_every_family_is_within_float32_noise(name: str, batch: int) -> None:
    spec, inputs = SPECS[name], conformance_inputs(SPECS[name], 8)[:batch]
    found = loaded(name).forward(inputs, spec.taps)
    assert set(found) == set(spec.taps)
    assert all(array.dtype == np.float32 for array in found.values())
    assert_close(spec, found, batch)
    assert_close(spec, loaded(name).forward(inputs), batch)


def test_the_comparison_sees_another_function() -> None:
    """The negative control: ONNX Runtime runs erf where the spec says tanh."""
    erf = SMALL_MODELS["mixer with erf"]
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


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64])
def test_ids_may_be_of_any_whole_dtype(dtype: Any) -> None:
    ids = conformance_inputs(SPECS["words"], 3)
    expected = loaded("words").forward(ids)["logits"]
    for same in (ids.astype(dtype), np.asfortranarray(ids.astype(dtype))):
        assert np.array_equal(loaded("words").forward(same)["logits"], expected)


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


IDS = np.zeros((2, 6), np.int64)
VECTORS = np.zeros((2, 6, 5), np.float32)


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("words", IDS + 30, "ids outside of the vocabulary; expected 0 to 29, got 30 to 30"),
        ("words", IDS - 1, "ids outside of the vocabulary; expected 0 to 29, got -1 to -1"),
        ("words", IDS.astype(np.uint64) + 2**63, "ids outside of the vocabulary"),
        ("words", IDS.astype(np.float32), r"expected whole numbers \(int64\), got float32"),
        ("words", IDS.astype(bool), "got bool"),
        ("words", IDS[:, :5], r"wrong size; expected \[batch, 6\] \(batch, token\), got \[2, 5\]"),
        ("words", IDS[0], "wrong rank"),
        ("words", IDS[:0], "empty batch"),
        ("words", VECTORS, "2 rules broken"),
        ("vectors", VECTORS.astype(np.int64), "wrong dtype; expected float32, got int64"),
        ("vectors", VECTORS[:, :5], r"wrong size; expected \[batch, 6, 5\]"),
        ("vectors", VECTORS[..., :4], r"got \[2, 6, 4\]"),
        ("vectors", VECTORS[..., 0], "wrong rank"),
    ],
)
def test_sequences_that_do_not_fit_are_refused(
    name: str, inputs: NDArray[Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        loaded(name).forward(inputs)


def test_a_profile_that_it_does_not_claim_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"expected one of \['f32-strict'\], got 'f64'"):
        OnnxRuntimeBackend().load(MIXER, conformance_weights(MIXER), profile="f64")


def test_weights_that_do_not_fit_are_refused_when_loading() -> None:
    weights = dict(conformance_weights(MIXER))
    del weights["norm.bias"]
    with pytest.raises(WeightsError, match=r"- norm\.bias \[12\] \(missing\)"):
        OnnxRuntimeBackend().load(MIXER, weights)
