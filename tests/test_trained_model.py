"""The trained model that is shipped: its file, every layout, every form of ONNX, and the suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixer_conformance import conformance_weights, run
from mixer_conformance.precision import PRECISIONS
from mixer_conformance.trained import (
    TRAINED,
    trained_examples,
    trained_inputs,
    trained_problem,
    trained_spec,
)
from mixer_converters import convert, load
from mixer_converters.layouts import LAYOUTS
from mixer_converters.match import holds
from mixer_converters.onnx_calibrate import calibrate
from mixer_converters.onnx_certificate import LEAST_EQUAL_TOP1, certify
from mixer_converters.onnx_export import export_onnx
from mixer_converters.onnx_form import Form
from mixer_converters.onnx_run import OnnxRun
from mixer_spec import ModelSpec, load_backend, reference
from mixer_spec.preprocess import preprocess
from mixer_spec.recipes import recipe
from mixer_spec.weights import Weights

MOST_BYTES = 2_000_000
RIGHT = 470  # of the 512 images that are shipped, in float64


@pytest.fixture(scope="module")
def file() -> Any:
    return load(TRAINED)


@pytest.fixture(scope="module")
def logits(file: Any) -> Any:
    """Of the reference, ``[image, class]``."""
    inputs = trained_inputs(trained_examples()[0])
    batches = np.split(inputs, len(inputs) // 32)
    return np.concatenate(
        [reference.forward(file.spec, file.weights, batch)["logits"] for batch in batches]
    )


def test_the_file_is_small_and_says_how_it_was_made(file: Any) -> None:
    assert TRAINED.stat().st_size < MOST_BYTES
    assert file.spec == trained_spec()
    assert file.provenance["recipe"] == recipe("fashion_mnist").fingerprint
    assert float(file.provenance["held_out_accuracy"]) >= 0.9
    assert len(file.labels) == 10


def test_its_classes_are_right(logits: Any) -> None:
    _, labels = trained_examples()
    assert (logits.argmax(axis=-1) == labels).sum() == RIGHT


def test_the_suites_inputs_are_those_of_its_preprocessing(file: Any) -> None:
    images, _ = trained_examples()
    rgb = np.repeat(images[0][..., np.newaxis], 3, axis=-1)
    expected = preprocess(rgb, file.preprocessing, (28, 28))
    np.testing.assert_allclose(trained_inputs(images[:1])[0], expected, rtol=0, atol=2e-7)


def test_its_weights_are_not_of_one_size(file: Any) -> None:
    """What drawn weights lack: single ones many times as large as the others."""

    name = "blocks.0.channel_mixing.dense_1.kernel"
    count = file.weights[name].size

    def peak(weights: Weights) -> float:
        kernel = weights[name].astype(np.float64)
        return float(np.abs(kernel).max() / np.sqrt(np.mean(kernel**2)))

    # Evenly spread: the limit is sqrt(3) times the RMS, whose relative standard error is this.
    assert peak(conformance_weights(file.spec)) < np.sqrt(3) * (1 + 5 * np.sqrt(1 / (5 * count)))
    assert peak(file.weights) > np.sqrt(2 * np.log(2 * count))  # the largest of normal ones


@pytest.mark.parametrize(
    "layout", [layout.name for layout in LAYOUTS if holds(layout, trained_spec())]
)
def test_every_layout_gives_its_weights_and_its_function_back(
    layout: str, file: Any, tmp_path: Path
) -> None:
    ending = ".h5" if layout.startswith("kecam") else ".safetensors"
    convert(TRAINED, tmp_path / f"other{ending}", to=layout)
    convert(tmp_path / f"other{ending}", tmp_path / "back.safetensors", to="canonical")
    back = load(tmp_path / "back.safetensors")
    assert back.weights_digest == file.weights_digest
    assert back.spec == file.spec


def statically(file: Any, inputs: Any) -> Form:
    return Form(int8="static", ranges=calibrate(file.spec, file.weights, inputs[:64]))


FORMS: dict[str, Callable[..., Form]] = {
    "float32": lambda file, inputs: Form(),
    "float16": lambda file, inputs: Form(precision="float16"),
    "bfloat16": lambda file, inputs: Form(precision="bfloat16"),
    "dynamic": lambda file, inputs: Form(int8="dynamic"),
    "static": statically,
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_onnx_is_certified_and_gives_the_same_classes(
    name: str, file: Any, logits: Any, tmp_path: Path
) -> None:
    inputs = trained_inputs(trained_examples()[0])
    form = FORMS[name](file, inputs)
    export_onnx(file.spec, file.weights, tmp_path / "a.onnx", form=form)
    assert certify(tmp_path / "a.onnx", file.weights, inputs[:4])["passed"]
    found = OnnxRun(tmp_path / "a.onnx")(inputs, ["logits"])["logits"]
    equal = (found.argmax(axis=-1) == logits.argmax(axis=-1)).mean()
    assert equal >= (1 if name == "float32" else LEAST_EQUAL_TOP1)


@pytest.mark.parametrize("backend", ["reference", "torch", "onnxruntime", "jax"])
def test_every_backend_passes_with_trained_weights(backend: str) -> None:
    results = run(backend, scales=["fashion_mnist"], effort="full")
    assert {r.case: r.status for r in results} == {"F01": "pass", "F27": "pass"}


class ErfForTanh:
    """The reference with the other GELU."""

    def info(self) -> Any:
        return load_backend("reference").info()

    def load(self, spec: ModelSpec, weights: Any, *, profile: Any) -> Any:
        text = spec.to_json().replace('"approximation":"tanh"', '"approximation":"none"')
        assert text != spec.to_json()
        return load_backend("reference").load(ModelSpec.from_json(text), weights, profile=profile)


def test_the_other_gelu_is_rejected_with_trained_weights() -> None:
    (result,) = run(ErfForTanh(), scales=["fashion_mnist"], cases=["F01"])  # type: ignore[arg-type]
    assert result.status == "fail"
    assert result.culprit == "blocks.0.token_mixing"


def test_each_seed_judges_other_images() -> None:
    precision = PRECISIONS["f32-strict"]
    one, other = (trained_problem(precision, seed=seed).inputs for seed in (0, 1))
    assert one.shape == (4, 28, 28, 3)
    assert not np.array_equal(one, other)
