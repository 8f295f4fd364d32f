"""The exported graph computes what the spec says: onnx.reference and ONNX Runtime against float64.

The judge is the float64 reference. The tolerance of every tap is four times what the same function
shows in float32 with its sums in shuffled orders, so nothing here is a number that was tuned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from mixer_conformance import conformance_inputs, conformance_weights
from mixer_converters.onnx_build import build_onnx
from mixer_spec import ModelSpec, families, layers
from mixer_spec.layers import Gelu, LayerNorm, Residual
from mixer_spec.reference import Arithmetic, Shuffled, forward

Arrays = Mapping[str, NDArray[Any]]
Runner = Callable[[bytes, NDArray[Any], list[str]], list[NDArray[Any]]]

_SIZES: dict[str, Any] = {"image_size": (8, 12), "patch": 4, "channels": 24, "depth": 2}

SPECS = {
    "mixer": families.mixer(**_SIZES, token_hidden=6, channel_hidden=40, classes=10),
    "mixer_erf": families.mixer(
        **_SIZES, token_hidden=11, channel_hidden=40, classes=1, gelu="none"
    ),
    "resmlp": families.resmlp(**_SIZES, classes=10),
    "gmlp": families.gmlp(**_SIZES, classes=10),
    "gmixer": families.gmixer(**_SIZES, token_hidden=10, channel_hidden=28, classes=10),
    "vit": families.vit(**_SIZES, heads=3, channel_hidden=40, classes=10),
}


def with_levels(level: str) -> Runner:
    """ONNX Runtime with one level of its graph optimiser."""

    def run(model: bytes, pixels: NDArray[Any], outputs: list[str]) -> list[NDArray[Any]]:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        found: list[NDArray[Any]] = session.run(outputs, {"pixel_values": pixels})
        return found

    return run


def onnx_reference(model: bytes, pixels: NDArray[Any], outputs: list[str]) -> list[NDArray[Any]]:
    return ReferenceEvaluator(model).run(outputs, {"pixel_values": pixels})  # type: ignore[no-any-return]


RUNNERS: dict[str, Runner] = {
    "onnx.reference": onnx_reference,
    "plain": with_levels("ORT_DISABLE_ALL"),
    "optimised": with_levels("ORT_ENABLE_ALL"),
}


def rms(array: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


@functools.cache
def truth_and_tolerance(name: str) -> tuple[Arrays, dict[str, float]]:
    """Every tap of eight images in float64, and how far a float32 implementation may be from it.

    One image is too few for the noise of a single logit.
    """
    spec = SPECS[name]
    weights, images = conformance_weights(spec), conformance_inputs(spec, 8)
    truth = forward(spec, weights, images, spec.taps)
    yardsticks = [Arithmetic(np.float32), Shuffled(0), Shuffled(1)]
    samples = [forward(spec, weights, images, spec.taps, arithmetic=a) for a in yardsticks]
    return truth, {
        tap: 4 * max(rms(sample[tap] - truth[tap]) for sample in samples) for tap in spec.taps
    }


def failing_taps(found: Arrays, truth: Arrays, tolerance: Mapping[str, float]) -> list[str]:
    """The taps of the first images that are further from the truth than the tolerance."""
    return [
        tap
        for tap, array in found.items()
        if not rms(array - truth[tap][: len(array)]) <= tolerance[tap]
    ]


def run(
    runner: Runner, spec: ModelSpec, weights: Arrays, images: NDArray[Any], layout: str, taps: Any
) -> Arrays:
    model = build_onnx(spec, weights, taps=taps, input_layout=layout)  # type: ignore[arg-type]
    pixels = images if layout == "NHWC" else images.transpose(0, 3, 1, 2)
    outputs = list(dict.fromkeys([*taps, "logits"]))
    proto = ir.to_proto(model).SerializeToString()
    found = runner(proto, np.ascontiguousarray(pixels, np.float32), outputs)
    return dict(zip(outputs, found, strict=True))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("name", SPECS)
def test_every_tap_of_every_family_is_within_float32_noise(
    name: str, runner: str, layout: str, batch: int
) -> None:
    spec = SPECS[name]
    truth, tolerance = truth_and_tolerance(name)
    weights, images = conformance_weights(spec), conformance_inputs(spec, 8)[:batch]
    found = run(RUNNERS[runner], spec, weights, images, layout, spec.taps)
    assert found.keys() == truth.keys()
    assert all(found[tap].dtype == np.float32 for tap in found)
    assert all(found[tap].shape == truth[tap][:batch].shape for tap in found)
    assert failing_taps(found, truth, tolerance) == []


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("name", SPECS)
def test_logits_alone_are_within_float32_noise(name: str, runner: str) -> None:
    """Without taps ONNX Runtime fuses more; the numbers must not suffer."""
    spec = SPECS[name]
    truth, tolerance = truth_and_tolerance(name)
    weights, images = conformance_weights(spec), conformance_inputs(spec, 8)[:3]
    found = run(RUNNERS[runner], spec, weights, images, "NCHW", ())
    assert list(found) == ["logits"]
    assert failing_taps(found, truth, tolerance) == []


# --- what the comparison must see -----------------------------------------------------------


def with_layers(spec: ModelSpec, change: Callable[[Any], Any]) -> ModelSpec:
    """``spec`` with every layer of its blocks' branches replaced by ``change(layer)``."""
    (stage,) = spec.stages
    block = tuple(
        Residual(name=residual.name, layers=tuple(change(layer) for layer in residual.layers))
        for residual in stage.block
    )
    return replace(spec, stages=(replace(stage, block=block),))


def other_gelu(layer: Any) -> Any:
    return Gelu(approximation="none") if isinstance(layer, Gelu) else layer


def other_epsilon(layer: Any) -> Any:
    return LayerNorm(epsilon=1e-5) if isinstance(layer, LayerNorm) else layer


def transposed_patches(weights: Arrays) -> Arrays:
    return {**weights, "stem.kernel": weights["stem.kernel"].transpose(1, 0, 2, 3)}


def transposed_kernel(weights: Arrays) -> Arrays:
    name = "blocks.1.token_mixing.dense_0.kernel"
    return {**weights, name: weights[name].T}


def swapped_norm(weights: Arrays) -> Arrays:
    scale, bias = "blocks.1.channel_mixing.norm.scale", "blocks.1.channel_mixing.norm.bias"
    return {**weights, scale: weights[bias], bias: weights[scale]}


@pytest.mark.parametrize(
    ("change_layer", "change_weights", "first"),
    [
        (other_gelu, dict, "blocks.0.token_mixing"),
        (other_epsilon, dict, "blocks.0.token_mixing"),
        (lambda layer: layer, transposed_patches, "stem"),
        (lambda layer: layer, transposed_kernel, "blocks.1.token_mixing"),
        (lambda layer: layer, swapped_norm, "blocks.1.channel_mixing"),
    ],
    ids=["gelu", "epsilon", "patches", "kernel", "norm"],
)
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_wrong_graph_fails_from_the_stage_that_is_wrong(
    runner: str, change_layer: Any, change_weights: Any, first: str
) -> None:
    spec = SPECS["mixer"]
    truth, tolerance = truth_and_tolerance("mixer")
    images = conformance_inputs(spec, 8)[:3]
    weights = change_weights(conformance_weights(spec))
    wrong = with_layers(spec, change_layer)
    found = run(RUNNERS[runner], wrong, weights, images, "NCHW", spec.taps)
    failing = failing_taps(found, truth, tolerance)
    assert failing[0] == first
    assert "logits" in failing
    logits_alone = run(RUNNERS[runner], wrong, weights, images, "NCHW", ())
    assert failing_taps(logits_alone, truth, tolerance) == ["logits"]


def test_the_specs_here_have_every_layer_kind() -> None:
    kinds = {type(node.layer) for spec in SPECS.values() for node in spec.nodes()}
    assert kinds == set(get_args(layers.AnyLayer))
