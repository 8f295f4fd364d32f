"""The trained model that is shipped: its file, every layout, every form of ONNX, and the suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
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
from mixer_converters.onnx_build import build_onnx
from mixer_converters.onnx_calibrate import calibrate
from mixer_converters.onnx_form import Form
from mixer_converters.onnx_run import OnnxRun
from mixer_spec import ModelSpec, load_backend, reference
from mixer_spec.preprocess import preprocess
from mixer_spec.recipes import recipe
from mixer_spec.weights import Weights

MOST_BYTES = 2_000_000
RIGHT = 0.85  # of the images that are shipped


@pytest.fixture(scope="module")
def file() -> Any:
    return load(TRAINED)


@pytest.fixture(scope="module")
def logits(file: Any) -> Any:
    """Of the reference, ``[image, class]``."""
    images, _ = trained_examples()
    return reference.forward(file.spec, file.weights, trained_inputs(images))["logits"]


def test_the_file_is_small_and_says_how_it_was_made(file: Any) -> None:
    assert TRAINED.stat().st_size < MOST_BYTES
    assert file.spec == trained_spec()
    assert file.provenance["recipe"] == recipe("fashion_mnist").fingerprint
    assert float(file.provenance["held_out_accuracy"]) >= 0.9
    assert len(file.labels) == 10


def test_its_classes_are_right(logits: Any) -> None:
    _, labels = trained_examples()
    assert (logits.argmax(axis=-1) == labels).mean() >= RIGHT


def test_the_suites_inputs_are_those_of_its_preprocessing(file: Any) -> None:
    images, _ = trained_examples()
    rgb = np.repeat(images[0][..., np.newaxis], 3, axis=-1)
    expected = preprocess(rgb, file.preprocessing, (28, 28))
    np.testing.assert_allclose(trained_inputs(images[:1])[0], expected, rtol=0, atol=2e-7)


def test_its_weights_are_not_of_one_size(file: Any) -> None:
    """What drawn weights lack: single ones many times as large as the others."""

    def peak(weights: Weights) -> float:
        kernel = weights["blocks.0.channel_mixing.dense_1.kernel"].astype(np.float64)
        return float(np.abs(kernel).max() / np.sqrt(np.mean(kernel**2)))

    assert peak(conformance_weights(file.spec)) < 2
    assert peak(file.weights) > 4


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


FORMS: dict[str, tuple[Any, float]] = {
    "float32": (Form(), 1e-4),
    "float16": (Form(precision="float16"), 0.05),
    "bfloat16": (Form(precision="bfloat16"), 0.5),
    "dynamic": (Form(int8="dynamic"), 0.5),
    "static": (None, 0.5),  # with ranges
}
"""Each with the largest error of a logit; the logits themselves are up to 12."""


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_onnx_gives_the_same_class_wherever_it_is_clear(
    name: str, file: Any, logits: Any
) -> None:
    inputs = trained_inputs(trained_examples()[0])
    form, most = FORMS[name]
    if form is None:
        form = Form(int8="static", ranges=calibrate(file.spec, file.weights, inputs))
    graph = ir.to_proto(build_onnx(file.spec, file.weights, form=form)).SerializeToString()
    found = OnnxRun(graph)(inputs, ["logits"])["logits"]
    assert np.abs(found - logits).max() <= most
    second, first = np.sort(logits, axis=-1)[:, -2:].T
    clear = first - second > 2 * most
    assert clear.mean() > 0.8
    assert (found.argmax(axis=-1) == logits.argmax(axis=-1))[clear].all()


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
