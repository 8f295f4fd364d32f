"""The exported graph computes what the spec says: onnx.reference and ONNX Runtime against float64.

The judge is the float64 reference, and the tolerance of every tap that of ``float32_noise``, so
nothing here is a number that was tuned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from mixer_conformance import conformance_inputs, conformance_weights
from mixer_converters.onnx_build import build_onnx
from mixer_spec import ModelSpec, ablations, families, layers
from mixer_spec.layers import Affine, Gelu, LayerNorm, Residual
from mixer_spec.shapes import Image, TokenIds, Vectors
from tests.float32_noise import rms, truth_and_tolerance

Arrays = Mapping[str, NDArray[Any]]
Runner = Callable[[bytes, Arrays, list[str]], list[NDArray[Any]]]

_HIDDEN: dict[str, Any] = {"token_hidden": 7, "channel_hidden": 40, "classes": 10}
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
    "vit_mean": families.vit(**_SIZES, heads=3, channel_hidden=40, classes=10, pool="mean"),
    "feed_forward": families.feed_forward(**_SIZES, classes=10),
    "untied": ablations.mixer_untied(**_SIZES, **_HIDDEN),
    "grouped": ablations.mixer_grouped(**_SIZES, **_HIDDEN, groups=2, views=False),
    "views": ablations.mixer_grouped(**_SIZES, **_HIDDEN, groups=4, views=True),
    "pyramid": ablations.mixer_pyramid(
        image_size=(8, 12), patch=4, channels=24, depths=(1, 2), shrink=2, **_HIDDEN
    ),
    "resmlp_mlp": ablations.resmlp_ablation(**_SIZES, classes=10, mixing="mlp", norm=Affine()),
    "resmlp_conv": ablations.resmlp_ablation(
        **_SIZES, classes=10, mixing="conv", norm=LayerNorm(epsilon=1e-6)
    ),
    "resmlp_separable": ablations.resmlp_ablation(
        **_SIZES, classes=10, mixing="separable_conv", norm=Affine()
    ),
    "words": families.sequence_mixer(
        input=TokenIds(tokens=6, vocabulary=11), channels=24, depth=2, **_HIDDEN
    ),
    "vectors": families.sequence_mixer(
        input=Vectors(tokens=6, channels=24), channels=24, depth=2, gelu="none", **_HIDDEN
    ),
}

LAYOUTS = {
    name: ("NCHW", "NHWC") if isinstance(spec.input, Image) else (None,)
    for name, spec in SPECS.items()
}


def with_levels(level: str) -> Runner:
    """ONNX Runtime with one level of its graph optimiser."""

    def run(model: bytes, feeds: Arrays, outputs: list[str]) -> list[NDArray[Any]]:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        found: list[NDArray[Any]] = session.run(outputs, dict(feeds))
        return found

    return run


def onnx_reference(model: bytes, feeds: Arrays, outputs: list[str]) -> list[NDArray[Any]]:
    return list(ReferenceEvaluator(model).run(outputs, dict(feeds)))


RUNNERS: dict[str, Runner] = {
    "onnx.reference": onnx_reference,
    "plain": with_levels("ORT_DISABLE_ALL"),
    "optimised": with_levels("ORT_ENABLE_ALL"),
}


@functools.cache
def judged_by(name: str) -> tuple[Arrays, dict[str, float]]:
    """Every tap of eight inputs in float64, and how far a float32 implementation may be from it."""
    spec = SPECS[name]
    return truth_and_tolerance(
        spec, conformance_weights(spec), conformance_inputs(spec, 8), spec.taps
    )


def failing_taps(found: Arrays, truth: Arrays, tolerance: Mapping[str, float]) -> list[str]:
    """The taps of the first inputs that are further from the truth than the tolerance."""
    return [
        tap
        for tap, array in found.items()
        if not rms(array - truth[tap][: len(array)]) <= tolerance[tap]
    ]


def run(
    runner: Runner, spec: ModelSpec, weights: Arrays, inputs: NDArray[Any], layout: Any, taps: Any
) -> Arrays:
    proto = ir.to_proto(build_onnx(spec, weights, taps=taps, input_layout=layout))
    fed = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2) if layout == "NCHW" else inputs)
    outputs = list(dict.fromkeys([*taps, "logits"]))
    found = runner(proto.SerializeToString(), {proto.graph.input[0].name: fed}, outputs)
    return dict(zip(outputs, found, strict=True))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(("name", "layout"), [(n, each) for n in SPECS for each in LAYOUTS[n]])
def test_every_tap_of_every_family_is_within_float32_noise(
    name: str, layout: str | None, runner: str, batch: int
) -> None:
    spec = SPECS[name]
    truth, tolerance = judged_by(name)
    weights, inputs = conformance_weights(spec), conformance_inputs(spec, 8)[:batch]
    found = run(RUNNERS[runner], spec, weights, inputs, layout, spec.taps)
    assert found.keys() == truth.keys()
    assert all(found[tap].dtype == np.float32 for tap in found)
    assert all(found[tap].shape == truth[tap][:batch].shape for tap in found)
    assert failing_taps(found, truth, tolerance) == []


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("name", SPECS)
def test_logits_alone_are_within_float32_noise(name: str, runner: str) -> None:
    """Without taps ONNX Runtime fuses more; the numbers must not suffer."""
    spec = SPECS[name]
    truth, tolerance = judged_by(name)
    weights, inputs = conformance_weights(spec), conformance_inputs(spec, 8)[:3]
    found = run(RUNNERS[runner], spec, weights, inputs, LAYOUTS[name][0], ())
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


Change = Callable[[NDArray[Any]], NDArray[Any]]


def changed(name: str, change: Change) -> Callable[[Arrays], Arrays]:
    """A mistake in one weight."""
    return lambda weights: {**weights, name: change(weights[name])}


def swapped_norm(branch: str) -> Callable[[Arrays], Arrays]:
    scale, bias = f"{branch}.norm.scale", f"{branch}.norm.bias"
    return lambda weights: {**weights, scale: weights[bias], bias: weights[scale]}


def other_grouping(kernel: NDArray[Any]) -> NDArray[Any]:
    """What reads ``[group, token]`` for ``[token, group]``."""
    return kernel.reshape(7, 2, 6).transpose(0, 2, 1).reshape(7, 12)


FIRST, SECOND = "blocks.0.token_mixing", "blocks.1.token_mixing"

MISTAKES: dict[str, tuple[str, Callable[[Arrays], Arrays], str]] = {
    "patches": ("mixer", changed("stem.kernel", lambda k: k.transpose(1, 0, 2, 3)), "stem"),
    "kernel": ("mixer", changed(f"{SECOND}.dense_0.kernel", lambda k: k.T), SECOND),
    "norm": ("mixer", swapped_norm("blocks.1.channel_mixing"), "blocks.1.channel_mixing"),
    "token norm": ("feed_forward", swapped_norm(FIRST), FIRST),
    "next channel's kernel": (
        "untied",
        changed(f"{SECOND}.dense_1.kernel", lambda k: np.roll(k, 1, axis=0)),
        SECOND,
    ),
    "next channel's bias": (
        "untied",
        changed(f"{FIRST}.dense_0.bias", lambda b: np.roll(b, 1, axis=0)),
        FIRST,
    ),
    "grouping": ("grouped", changed(f"{FIRST}.dense_0.kernel", other_grouping), FIRST),
    "ungrouping": ("grouped", changed(f"{SECOND}.dense_1.bias", lambda b: np.roll(b, 6)), SECOND),
    "window turned": (
        "resmlp_conv",
        changed(f"{SECOND}.conv.kernel", lambda k: k[::-1, ::-1]),
        SECOND,
    ),
    "rows for columns": (
        "resmlp_separable",
        changed(f"{FIRST}.conv.kernel", lambda k: k.transpose(1, 0, 2)),
        FIRST,
    ),
    "transition": ("pyramid", changed("transitions.1.dense_0.bias", lambda b: b[::-1]), SECOND),
    "next word": ("words", changed("stem.embedding", lambda e: np.roll(e, 1, axis=0)), "stem"),
    "vector's kernel": ("vectors", changed("stem.kernel", lambda k: k.T), "stem"),
}


def assert_fails_from(
    first: str, runner: Runner, name: str, wrong: ModelSpec, weights: Arrays
) -> None:
    truth, tolerance = judged_by(name)
    inputs, layout = conformance_inputs(SPECS[name], 8)[:3], LAYOUTS[name][0]
    failing = failing_taps(
        run(runner, wrong, weights, inputs, layout, wrong.taps), truth, tolerance
    )
    assert failing[0] == first
    assert "logits" in failing
    logits_alone = run(runner, wrong, weights, inputs, layout, ())
    assert failing_taps(logits_alone, truth, tolerance) == ["logits"]


@pytest.mark.parametrize("change", [other_gelu, other_epsilon])
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_wrong_layer_fails_from_its_stage(runner: str, change: Callable[[Any], Any]) -> None:
    wrong = with_layers(SPECS["mixer"], change)
    assert_fails_from(FIRST, RUNNERS[runner], "mixer", wrong, conformance_weights(wrong))


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_wrong_weight_fails_from_its_stage(runner: str, mistake: str) -> None:
    name, change, first = MISTAKES[mistake]
    weights = change(conformance_weights(SPECS[name]))
    assert_fails_from(first, RUNNERS[runner], name, SPECS[name], weights)


# --- what ONNX Runtime does at load ---------------------------------------------------------


@pytest.mark.parametrize("name", ["untied", "resmlp_conv"])
def test_kernels_are_transposed_at_load_and_not_in_a_run(name: str, tmp_path: Path) -> None:
    model = ir.to_proto(build_onnx(SPECS[name], conformance_weights(SPECS[name])))
    levels = onnxruntime.GraphOptimizationLevel
    kept = {}
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_BASIC):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
        kept[level] = [node.name for node in nodes if "/kernel/" in node.name]
    assert kept[levels.ORT_DISABLE_ALL]
    assert not kept[levels.ORT_ENABLE_BASIC]


def test_the_specs_here_have_every_layer_kind() -> None:
    kinds = {type(node.layer) for spec in SPECS.values() for node in spec.nodes()}
    assert kinds == set(get_args(layers.AnyLayer))
