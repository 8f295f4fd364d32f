"""The ONNX graph as a thing to look at: valid, named, annotated, light, and free of frameworks."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any, get_args

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from mixer_converters.onnx_build import build_onnx, graph_and_weights
from mixer_spec import InputError, ModelSpec, WeightsError, ablations, families, layers, variant
from mixer_spec.layers import Affine, LayerNorm
from mixer_spec.shapes import Image, TokenIds, Vectors
from mixer_spec.weights import initial

_SIZES: dict[str, Any] = {"image_size": (8, 12), "patch": 4, "channels": 8, "depth": 2}

_UNTIED = ("rows", "kernel", "tokens")
_HIDDEN: dict[str, Any] = {"token_hidden": 5, "channel_hidden": 7, "classes": 3}

SPECS = {
    "mixer": families.mixer(**_SIZES, token_hidden=5, channel_hidden=7, classes=3),
    "mixer_erf": families.mixer(**_SIZES, token_hidden=5, channel_hidden=7, classes=1, gelu="none"),
    "resmlp": families.resmlp(**_SIZES, classes=3),
    "gmlp": families.gmlp(**_SIZES, classes=3),
    "gmixer": families.gmixer(**_SIZES, token_hidden=10, channel_hidden=14, classes=3),
    "vit": families.vit(**_SIZES, heads=2, channel_hidden=11, classes=3),
    "vit_mean": families.vit(**_SIZES, heads=2, channel_hidden=11, classes=3, pool="mean"),
    "feed_forward": families.feed_forward(**_SIZES, classes=3),
    "untied": ablations.mixer_untied(**_SIZES, **_HIDDEN),
    "grouped": ablations.mixer_grouped(**_SIZES, **_HIDDEN, groups=2, views=False),
    "views": ablations.mixer_grouped(**_SIZES, **_HIDDEN, groups=4, views=True),
    "pyramid": ablations.mixer_pyramid(
        image_size=(8, 12), patch=4, channels=8, depths=(1, 2), shrink=2, **_HIDDEN
    ),
    "resmlp_mlp": ablations.resmlp_ablation(**_SIZES, classes=3, mixing="mlp", norm=Affine()),
    "resmlp_conv": ablations.resmlp_ablation(**_SIZES, classes=3, mixing="conv", norm=Affine()),
    "resmlp_separable": ablations.resmlp_ablation(
        **_SIZES, classes=3, mixing="separable_conv", norm=LayerNorm(epsilon=1e-6)
    ),
    "words": families.sequence_mixer(
        input=TokenIds(tokens=6, vocabulary=11), channels=8, depth=2, **_HIDDEN
    ),
    "vectors": families.sequence_mixer(
        input=Vectors(tokens=6, channels=5), channels=8, depth=2, **_HIDDEN
    ),
}

INPUTS = {
    Image: ("pixel_values", onnx.TensorProto.FLOAT, ["batch", 3, 8, 12]),
    TokenIds: ("input_ids", onnx.TensorProto.INT64, ["batch", 6]),
    Vectors: ("input_vectors", onnx.TensorProto.FLOAT, ["batch", 6, 5]),
}

every_family = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def weights_of(spec: ModelSpec) -> dict[str, NDArray[np.float32]]:
    return initial(spec, seed=3)


def proto_of(spec: ModelSpec, **options: Any) -> onnx.ModelProto:
    return ir.to_proto(build_onnx(spec, weights_of(spec), **options))


def dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def test_the_specs_here_have_every_layer_kind() -> None:
    kinds = {type(node.layer) for spec in SPECS.values() for node in spec.nodes()}
    assert kinds == set(get_args(layers.AnyLayer))


@every_family
def test_the_graph_passes_the_full_check_and_strict_inference(spec: ModelSpec) -> None:
    for layout in (None, "NCHW", "NHWC") if isinstance(spec.input, Image) else (None,):
        proto = proto_of(spec, taps=spec.taps, input_layout=layout)
        onnx.checker.check_model(proto, full_check=True)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)


@every_family
def test_opset_20_and_the_format_of_its_time_are_enough(spec: ModelSpec) -> None:
    proto = proto_of(spec)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 20)]
    assert proto.ir_version == 9
    assert {node.domain for node in proto.graph.node} == {""}


@every_family
def test_input_and_outputs_are_named_and_the_batch_is_free(spec: ModelSpec) -> None:
    proto = proto_of(spec, taps=["norm", "stem"])
    (entering,) = proto.graph.input
    found = (entering.name, entering.type.tensor_type.elem_type, dimensions(entering))
    assert found == INPUTS[type(spec.input)]
    shapes = {step.tap: step.outgoing.shape for step in spec.steps}
    assert {value.name: dimensions(value) for value in proto.graph.output} == {
        "stem": ["batch", *shapes["stem"]],
        "norm": ["batch", *shapes["norm"]],
        "logits": ["batch", spec.classes],
    }


def test_the_input_may_be_channels_last() -> None:
    proto = proto_of(SPECS["mixer"], input_layout="NHWC")
    assert dimensions(proto.graph.input[0]) == ["batch", 8, 12, 3]


@every_family
def test_every_value_has_its_type_and_shape(spec: ModelSpec) -> None:
    proto = proto_of(spec)
    known = {value.name: value for value in (*proto.graph.value_info, *proto.graph.output)}
    steps = {step.tap: step for step in spec.steps}
    for node in proto.graph.node:
        for name in node.output:
            shape = dimensions(known[name])
            assert all(isinstance(size, int) or size == "batch" for size in shape), name
            assert shape, name
            if name in steps:
                assert shape == ["batch", *steps[name].outgoing.shape]


@every_family
def test_weights_keep_their_canonical_names_and_bytes(spec: ModelSpec) -> None:
    weights = weights_of(spec)
    model = build_onnx(spec, weights)
    found = {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and not name.startswith("/")
    }
    assert found.keys() == weights.keys()
    for name, array in found.items():
        assert np.shares_memory(array, weights[name]), name
        assert array.tobytes() == weights[name].tobytes()


@every_family
def test_the_only_other_constants_are_axes_and_single_numbers(spec: ModelSpec) -> None:
    proto = proto_of(spec)
    sizes = [np.prod(t.dims) for t in proto.graph.initializer if t.name.startswith("/")]
    assert max(sizes, default=0) <= 6


@every_family
def test_names_say_where_a_node_stands_and_never_clash(spec: ModelSpec) -> None:
    graph = proto_of(spec).graph
    names = [node.name for node in graph.node]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"(/[a-z0-9_]+)*/[A-Z][A-Za-z]+(_[0-9]+)?", name) for name in names)
    assert not {*names, *(tensor.name for tensor in graph.initializer)} & set(spec.taps)
    paths = {"/" + node.path.replace(".", "/") for node in spec.nodes()}
    assert all(any(name.startswith(f"{path}/") for path in paths) for name in names)


@every_family
def test_the_end_of_every_step_has_the_name_of_its_tap(spec: ModelSpec) -> None:
    made = {name for node in proto_of(spec).graph.node for name in node.output}
    assert set(spec.taps) <= made


def test_a_mixer_block_is_one_operator_for_each_thing_it_does() -> None:
    graph = proto_of(SPECS["mixer"]).graph
    block = [node.name for node in graph.node if node.name.startswith("/blocks/1/")]
    assert block == [
        "/blocks/1/token_mixing/norm/LayerNormalization",
        "/blocks/1/token_mixing/dense_0/MatMul",
        "/blocks/1/token_mixing/dense_0/Add",
        "/blocks/1/token_mixing/gelu_0/Gelu",
        "/blocks/1/token_mixing/dense_1/MatMul",
        "/blocks/1/token_mixing/dense_1/Add",
        "/blocks/1/token_mixing/Add",
        "/blocks/1/channel_mixing/norm/LayerNormalization",
        "/blocks/1/channel_mixing/dense_0/MatMul",
        "/blocks/1/channel_mixing/dense_0/Add",
        "/blocks/1/channel_mixing/gelu_0/Gelu",
        "/blocks/1/channel_mixing/dense_1/MatMul",
        "/blocks/1/channel_mixing/dense_1/Add",
        "/blocks/1/channel_mixing/Add",
    ]
    # Only the patches are transposed; token mixing multiplies from the left.
    assert [node.name for node in graph.node if node.op_type == "Transpose"] == ["/stem/Transpose"]


@pytest.mark.parametrize(
    ("name", "transposed"),
    [
        ("vectors", []),
        ("words", []),
        ("untied", [f"token_mixing/dense_{i}/{what}" for i in (0, 1) for what in _UNTIED]),
        ("resmlp_conv", [f"token_mixing/conv/{what}" for what in ("grid", "kernel", "tokens")]),
        ("grouped", ["token_mixing/group", "token_mixing/ungroup"]),
        ("feed_forward", ["token_mixing/norm/columns", "token_mixing/norm/rows"]),
    ],
)
def test_nothing_else_is_transposed_than_what_must_be(name: str, transposed: list[str]) -> None:
    nodes = proto_of(SPECS[name]).graph.node
    found = [n.name for n in nodes if n.op_type == "Transpose" and n.name.startswith("/blocks/1/")]
    assert found == [f"/blocks/1/{place}/Transpose" for place in transposed]


@pytest.mark.parametrize(("name", "form"), [("mixer", b"tanh"), ("mixer_erf", b"none")])
def test_epsilon_and_the_form_of_gelu_are_written_out(name: str, form: bytes) -> None:
    nodes = proto_of(SPECS[name]).graph.node
    forms = {a.s for n in nodes if n.op_type == "Gelu" for a in n.attribute}
    norms = [{a.name: a for a in n.attribute} for n in nodes if n.op_type == "LayerNormalization"]
    assert forms == {form}
    assert {(norm["axis"].i, norm["epsilon"].f) for norm in norms} == {
        (-1, float(np.float32(1e-6)))
    }


def test_wider_and_narrower_weights_are_rounded_to_float32() -> None:
    spec = SPECS["mixer"]
    wide = {name: array.astype(np.float64) * 1.1 for name, array in weights_of(spec).items()}
    initializers = build_onnx(spec, wide).graph.initializers
    for name, array in wide.items():
        tensor = initializers[name].const_value
        assert tensor is not None
        assert tensor.numpy().tobytes() == array.astype(np.float32).tobytes()


def test_a_graph_without_its_weights_is_small() -> None:
    spec = variant("mixer_s32").spec()
    graph, arrays = graph_and_weights(spec, initial(spec))
    assert len(graph) < 100_000
    assert sum(array.nbytes for array in arrays.values()) == 4 * spec.parameter_count


def test_unknown_taps_and_layouts_are_refused_together() -> None:
    spec = SPECS["mixer"]
    with pytest.raises(InputError, match=r"unknown taps \['stemm'\].*'stem'(.|\n)*got 'HWCN'"):
        build_onnx(spec, weights_of(spec), taps=["stemm"], input_layout="HWCN")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["words", "vectors"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_sequence_with_the_layout_of_an_image_is_refused(name: str, layout: Any) -> None:
    with pytest.raises(
        InputError, match=rf"is for images; expected none beside \[token 6.*got '{layout}'"
    ):
        build_onnx(SPECS[name], weights_of(SPECS[name]), input_layout=layout)


def test_weights_that_do_not_fit_are_refused() -> None:
    spec = SPECS["mixer"]
    with pytest.raises(WeightsError, match=r"- head\.bias \[3\]"):
        build_onnx(spec, weights_of(spec) | {"head.bias": np.zeros(4, np.float32)})


def test_export_needs_neither_torch_nor_jax() -> None:
    program = (
        "import sys, mixer_converters.onnx_export; "
        "print(sorted({'torch', 'jax', 'flax', 'onnxruntime'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


@every_family
def test_large_weights_come_first_so_that_a_runtime_reuses_their_memory(spec: ModelSpec) -> None:
    sizes = [len(tensor.raw_data) for tensor in proto_of(spec).graph.initializer]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
