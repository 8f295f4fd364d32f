"""Every form of an exported graph computes what the spec says, in every runtime, or says why not.

The judge is the float64 reference. Float32 forms may be off by float32's own noise; half precision
by as many times more as its roundoff is larger; int8 by what its steps cost, which is measured
against the same graph in float32.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from mixer_conformance import conformance_inputs, conformance_weights
from mixer_converters import canonical
from mixer_converters.onnx_build import build_onnx
from mixer_converters.onnx_calibrate import calibrate, measure_cost
from mixer_converters.onnx_certificate import certificate_path, certify
from mixer_converters.onnx_export import export_onnx
from mixer_converters.onnx_file import CERTIFICATE, read_onnx
from mixer_converters.onnx_form import Form, Range
from mixer_converters.onnx_products import int8_columns
from mixer_onnxruntime import load_onnx
from mixer_spec import FileError, InputError, ModelSpec, WeightsError, ablations, families
from mixer_spec.layers import Affine
from mixer_spec.reference import forward
from tests.float32_noise import rms, truth_and_tolerance

Array = NDArray[Any]

_SIZES: dict[str, Any] = {
    "image_size": (8, 12),
    "patch": 4,
    "channels": 24,
    "depth": 2,
    "classes": 10,
}
SPECS: dict[str, ModelSpec] = {
    "mixer": families.mixer(**_SIZES, token_hidden=6, channel_hidden=40),
    "mixer_erf": families.mixer(**_SIZES, token_hidden=6, channel_hidden=40, gelu="none"),
    "gmlp": families.gmlp(**_SIZES),
    "gmixer": families.gmixer(**_SIZES, token_hidden=10, channel_hidden=28),
    "vit": families.vit(**_SIZES, heads=3, channel_hidden=40),
    "untied": ablations.mixer_untied(**_SIZES, token_hidden=7, channel_hidden=40),
    "conv": ablations.resmlp_ablation(**_SIZES, mixing="conv", norm=Affine()),
}
FORMS = {
    "opset_17": Form(opset=17),
    "opset_18": Form(opset=18),
    "opset_20": Form(),
    "float16": Form(precision="float16"),
    "float16_opset_17": Form(precision="float16", opset=17),
    "bfloat16": Form(precision="bfloat16"),
    "bfloat16_opset_17": Form(precision="bfloat16", opset=17),
    "int8_dynamic": Form(int8="dynamic"),
    "int8_static": Form(int8="static"),
    "int8_static_opset_17": Form(int8="static", opset=17),
}
# Float32's noise, times the ratio of the roundoffs. Eight bits: a signal of 20 dB over the error.
ROUNDOFF = {"float32": 1.0, "float16": 2.0**13, "bfloat16": 2.0**16}
LEAST_SQNR = 20.0


def form_of(name: str, key: str) -> Form:
    """The form, with ranges measured where it needs them."""
    form = FORMS[key]
    if form.int8 == "static":
        form = dataclasses.replace(form, ranges=ranges_of(name))
    return form


@functools.cache
def ranges_of(name: str) -> Mapping[str, Range]:
    spec = SPECS[name]
    return calibrate(spec, conformance_weights(spec), conformance_inputs(spec, 32, seed=1))


@functools.cache
def serialised(name: str, key: str) -> bytes:
    spec = SPECS[name]
    model = build_onnx(spec, conformance_weights(spec), form=form_of(name, key))
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


@functools.cache
def truth(name: str) -> tuple[Array, float]:
    """The logits of eight inputs in float64, and how far a float32 implementation may be off."""
    spec = SPECS[name]
    exact, tolerance = truth_and_tolerance(
        spec, conformance_weights(spec), conformance_inputs(spec, 8)
    )
    return exact["logits"], tolerance["logits"]


def onnxruntime_with(level: str) -> Callable[[bytes, Array], Array]:
    def run(model: bytes, pixels: Array) -> Array:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        found: Array = session.run(["logits"], {"pixel_values": pixels})[0]
        return found

    return run


def onnx_reference(model: bytes, pixels: Array) -> Array:
    found: Array = ReferenceEvaluator(model).run(["logits"], {"pixel_values": pixels})[0]
    return found


def open_vino(model: bytes, pixels: Array) -> Array:
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return np.array(compiled(pixels)[0])


RUNTIMES: dict[str, Callable[[bytes, Array], Array]] = {
    "plain": onnxruntime_with("ORT_DISABLE_ALL"),
    "optimised": onnxruntime_with("ORT_ENABLE_ALL"),
    "onnx.reference": onnx_reference,
    "openvino": open_vino,
}


def is_close(found: Array, name: str, form: Form) -> bool:
    exact, tolerance = truth(name)
    error = rms(found - exact)
    if form.int8:
        return 20 * np.log10(rms(exact) / error) >= LEAST_SQNR
    return error <= tolerance * ROUNDOFF[form.precision]


def runs(runtime: str, form: Form) -> bool:
    """ONNX Runtime has no product in bfloat16 on a CPU; ONNX's reference no older per-column int8."""
    if form.precision == "bfloat16":
        return runtime in ("onnx.reference", "openvino")
    return not (runtime == "onnx.reference" and form.int8 == "static" and form.opset < 19)


CASES = [
    (name, key, runtime)
    for name in SPECS
    for key in FORMS
    for runtime in RUNTIMES
    if runs(runtime, FORMS[key])
]


@pytest.mark.parametrize(("name", "key", "runtime"), CASES)
def test_every_form_computes_the_spec_in_every_runtime(name: str, key: str, runtime: str) -> None:
    pixels = np.ascontiguousarray(conformance_inputs(SPECS[name], 8).transpose(0, 3, 1, 2))
    found = RUNTIMES[runtime](serialised(name, key), pixels)
    assert found.dtype == np.float32
    assert is_close(found, name, FORMS[key])


@pytest.mark.parametrize("key", FORMS)
def test_the_tolerance_of_every_form_rejects_a_wrong_kernel(key: str) -> None:
    spec = SPECS["mixer"]
    weights = dict(conformance_weights(spec))
    kernel = weights["blocks.1.channel_mixing.dense_1.kernel"]
    weights["blocks.1.channel_mixing.dense_1.kernel"] = kernel[::-1].copy()
    model = build_onnx(spec, weights, form=form_of("mixer", key))
    pixels = np.ascontiguousarray(conformance_inputs(spec, 8).transpose(0, 3, 1, 2))
    runtime = "openvino" if FORMS[key].precision == "bfloat16" else "plain"
    found = RUNTIMES[runtime](ir.to_proto(model).SerializeToString(), pixels)
    assert not is_close(found, "mixer", FORMS[key])


@pytest.mark.parametrize("key", FORMS)
@pytest.mark.parametrize("name", SPECS)
def test_every_form_passes_the_checker_and_strict_shape_inference(name: str, key: str) -> None:
    proto = onnx.load_from_string(serialised(name, key))
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(
        proto, check_type=True, strict_mode=True, data_prop=True
    )
    assert {entry.version for entry in inferred.opset_import} == {FORMS[key].opset}
    assert proto.ir_version == {17: 8, 18: 8, 20: 9}[FORMS[key].opset]
    (logits,) = inferred.graph.output
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("key", ["float16", "bfloat16"])
def test_norms_are_in_float32_in_half_precision(key: str) -> None:
    inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(serialised("mixer", key)))
    graph = inferred.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}
    by_kind: dict[str, set[int]] = {}
    for node in inferred.graph.node:
        by_kind.setdefault(node.op_type, set()).update(types[name] for name in node.input[:2])
    half = onnx.TensorProto.FLOAT16 if key == "float16" else onnx.TensorProto.BFLOAT16
    assert by_kind["LayerNormalization"] == {onnx.TensorProto.FLOAT}
    assert by_kind["MatMul"] == by_kind["Gelu"] == {half}


def test_weights_too_large_for_float16_are_refused() -> None:
    spec = SPECS["mixer"]
    weights = dict(conformance_weights(spec))
    weights["head.bias"] = np.full(10, 1e5, np.float32)
    with pytest.raises(WeightsError, match=r"too large for float16.*head\.bias.*bfloat16"):
        build_onnx(spec, weights, form=Form(precision="float16"))
    build_onnx(spec, weights, form=Form(precision="bfloat16"))


def test_a_form_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(InputError, match="float32 weights"):
        Form(int8="dynamic", precision="float16")
    with pytest.raises(InputError, match=r"unknown opset.*17, 18, 20"):
        Form(opset=19)  # type: ignore[arg-type]


# --- eight bits -------------------------------------------------------------------------------


def test_eight_bits_are_inside_the_blocks_only() -> None:
    proto = onnx.load_from_string(serialised("mixer", "int8_static"))
    whole = {t.name for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT8}
    kernels = {name for name in whole if name.endswith("kernel")}
    assert kernels == {
        name
        for name in SPECS["mixer"].parameters()
        if name.startswith("blocks.") and name.endswith("kernel")
    }


def test_a_column_of_zeros_has_a_step() -> None:
    whole, steps = int8_columns(np.array([[0.0, 3.0], [0.0, -1.0]], np.float32))
    assert whole.tolist() == [[0, 127], [0, -42]]
    assert (steps > 0).all()


def test_a_range_holds_zero_exactly() -> None:
    step, zero = Range(-0.17, 3.9).grid()
    assert zero == round(0.17 / float(step))
    assert Range(0.0, 0.0).grid()[0] > 0


def test_the_range_clips_an_outlier_where_that_loses_less() -> None:
    spec = SPECS["mixer"]
    weights = dict(conformance_weights(spec))
    inputs = conformance_inputs(spec, 64)
    ranges = calibrate(spec, weights, inputs)
    assert set(ranges) == {
        name for name in spec.parameters() if name.startswith("blocks.") and name.endswith("kernel")
    }
    assert all(r.low <= 0 <= r.high and r.low < r.high for r in ranges.values())
    gelu = ranges["blocks.0.channel_mixing.dense_1.kernel"]
    assert -0.18 < gelu.low < -0.05 < 0.5 < gelu.high


def test_the_cost_of_eight_bits_is_by_stage() -> None:
    spec = SPECS["mixer"]
    weights, inputs = conformance_weights(spec), conformance_inputs(spec, 64, seed=2)
    cost = measure_cost(spec, weights, form_of("mixer", "int8_static"), inputs)
    assert list(cost.sqnr) == list(spec.taps)
    assert cost.sqnr["stem"] == np.inf  # the stem is the same float32 product
    assert 20 < cost.sqnr["logits"] < 60
    exact = forward(spec, weights, inputs)["logits"]
    second, best = np.sort(exact, axis=1)[:, -2:].T
    error = rms(exact) * 10 ** (-cost.sqnr["logits"] / 20)
    # Classes change where the best two are within two standard deviations of their difference.
    assert cost.equal_top1 >= 1 - (best - second < 2 * 2**0.5 * error).mean()
    narrow = {k: Range(r.low / 8, r.high / 8) for k, r in ranges_of("mixer").items()}
    bad = measure_cost(spec, weights, Form(int8="static", ranges=narrow), inputs)
    assert bad.sqnr["logits"] < cost.sqnr["logits"] - 6


# --- files ------------------------------------------------------------------------------------


def saved(folder: Path, name: str = "mixer") -> canonical.CanonicalFile:
    spec = SPECS[name]
    canonical.save(folder / "tiny.safetensors", spec, conformance_weights(spec))
    return canonical.load(folder / "tiny.safetensors")


@pytest.mark.parametrize("key", FORMS)
def test_a_file_of_every_form_reads_back_and_tells_a_changed_bit(key: str, tmp_path: Path) -> None:
    spec, path = SPECS["mixer"], tmp_path / "a.onnx"
    export_onnx(spec, conformance_weights(spec), path, form=form_of("mixer", key))
    file = read_onnx(path)
    assert (file.numbers, file.opset) == (FORMS[key].numbers, FORMS[key].opset)
    proto = onnx.load(path)
    kernel = next(t for t in proto.graph.initializer if t.name.endswith("dense_0.kernel"))
    kernel.raw_data = bytes([kernel.raw_data[0] ^ 1]) + kernel.raw_data[1:]
    onnx.save(proto, path)
    with pytest.raises(FileError, match="digest"):
        read_onnx(path)


def test_a_shared_graph_points_into_the_canonical_file(tmp_path: Path) -> None:
    source = saved(tmp_path)
    before = source.path.read_bytes()
    path = tmp_path / "a.onnx"
    written = export_onnx(source.spec, source.weights, path, placing="shared", shared=source)
    assert written.data_path == source.path
    assert source.path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "tiny.safetensors"]
    inputs = conformance_inputs(source.spec, 8)
    assert is_close(load_onnx(path).forward(inputs)["logits"], "mixer", Form())
    # Written again with other metadata, every weight lies elsewhere: refused, not computed.
    canonical.save(source.path, source.spec, conformance_weights(source.spec), variant="another")
    with pytest.raises(FileError, match="written again"):
        load_onnx(path)


def test_a_graph_does_not_share_what_it_cannot(tmp_path: Path) -> None:
    source = saved(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(InputError, match=r"own folder"):
        export_onnx(
            source.spec,
            source.weights,
            tmp_path / "elsewhere" / "a.onnx",
            placing="shared",
            shared=source,
        )
    with pytest.raises(InputError, match="float32 as they lie"):
        export_onnx(
            source.spec,
            source.weights,
            tmp_path / "a.onnx",
            form=Form(precision="float16"),
            placing="shared",
            shared=source,
        )
    with pytest.raises(InputError, match="needs the canonical file"):
        export_onnx(source.spec, source.weights, tmp_path / "a.onnx", placing="shared")
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("key", ["opset_20", "float16", "bfloat16"])
def test_external_weights_lie_in_a_canonical_file(key: str, tmp_path: Path) -> None:
    spec, path = SPECS["mixer"], tmp_path / "a.onnx"
    written = export_onnx(
        spec, conformance_weights(spec), path, form=FORMS[key], placing="external"
    )
    assert written.data_path is not None
    kernel = canonical.load(written.data_path).weights["blocks.0.token_mixing.dense_0.kernel"]
    assert kernel.dtype.name == FORMS[key].numbers


# --- the certificate --------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["opset_17", "opset_20", "float16", "bfloat16", "int8_static"])
def test_the_certificate_is_in_the_file_and_beside_it(key: str, tmp_path: Path) -> None:
    spec, path = SPECS["mixer"], tmp_path / "a.onnx"
    weights = dict(conformance_weights(spec))
    weights["head.bias"] = np.arange(10, dtype=np.float32)  # decides the class, int8 or not
    export_onnx(spec, weights, path, form=form_of("mixer", key))
    found = certify(path, weights, conformance_inputs(spec, 8))
    assert found["passed"]
    assert found["numbers"] == FORMS[key].numbers
    assert found["weights_digest"] == read_onnx(path).weights_digest
    assert certificate_path(path).is_file()
    kept = read_onnx(path).certificate
    assert kept is not None
    assert kept["passed"]
    if key.startswith("int8"):
        assert "stages" not in found
    else:
        assert found["stages"]["worst_tap"] in spec.taps
        assert len(found["stages"]["judgement"]) == len(spec.taps)


def test_a_file_with_other_weights_than_it_should_have_gets_no_passing_certificate(
    tmp_path: Path,
) -> None:
    spec, path = SPECS["mixer"], tmp_path / "a.onnx"
    weights = conformance_weights(spec)
    export_onnx(spec, conformance_weights(spec, seed=1), path)
    found = certify(path, weights, conformance_inputs(spec, 2))
    assert not found["passed"]
    assert not found["logits"]["passed"]
    assert found["stages"]["passed"]


def test_int8_that_changes_classes_gets_no_passing_certificate(tmp_path: Path) -> None:
    spec, path = SPECS["mixer"], tmp_path / "a.onnx"
    weights, inputs = conformance_weights(spec), conformance_inputs(spec, 64)
    narrow = {kernel: Range(r.low / 64, r.high / 64) for kernel, r in ranges_of("mixer").items()}
    export_onnx(spec, weights, path, form=Form(int8="static", ranges=narrow))
    found = certify(path, weights, inputs)
    assert found["logits"]["equal_top1"] < 0.9
    assert not found["passed"]


def test_a_damaged_certificate_is_refused(tmp_path: Path) -> None:
    spec, path = SPECS["mixer"], tmp_path / "a.onnx"
    export_onnx(spec, conformance_weights(spec), path)
    proto = onnx.load(path)
    entry = proto.metadata_props.add()
    entry.key, entry.value = CERTIFICATE, "{"
    onnx.save(proto, path)
    with pytest.raises(FileError, match="certificate must be JSON"):
        read_onnx(path)
