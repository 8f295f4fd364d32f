"""A spec and its weights as an ONNX graph: built node by node, without torch and without JAX."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass

import mixer_spec
from mixer_spec.errors import InputError, WeightsError
from mixer_spec.graph import Node
from mixer_spec.model import ModelSpec
from mixer_spec.preprocess import Preprocessing
from mixer_spec.shapes import TokenIds
from mixer_spec.weights import Weights, validate

from .onnx_answers import draw_answers
from .onnx_form import FLOAT32, IR_VERSIONS, Form
from .onnx_graph import Drawing, Place
from .onnx_input import InputLayout, default_layout, graph_input, layout_problems
from .onnx_layers import DRAW
from .onnx_photos import draw_preprocessing, photo_input


def build_onnx(
    spec: ModelSpec,
    weights: Weights,
    *,
    taps: Sequence[str] = (),
    input_layout: InputLayout | None = None,
    form: Form = FLOAT32,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] | None = None,
) -> ir.Model:
    """The model as an ONNX graph whose initializers are views of ``weights``.

    Input ``pixel_values`` (for a sequence ``input_vectors``, or ``input_ids`` in int64) and output
    ``logits`` ``[batch, class]`` are float32 in every form, and the batch is free. Initializers
    have the canonical names; where the graph needs other axes (the patch kernel as a matrix, the
    token bias as a column), the bytes are the same.

    Args:
        spec: the architecture.
        weights: canonical name to array; rounded to float32 where they are wider.
        taps: names out of ``spec.taps`` that become outputs beside the logits.
        input_layout: the axes of ``pixel_values``, NCHW by default; a sequence has none.
        form: how the graph computes, and what it takes and gives.
        preprocessing: for a form that takes photos; not used otherwise.
        labels: for a form that gives class names; not used otherwise.

    Raises:
        WeightsError: if the weights do not fit the spec, or the form's precision.
        InputError: if there is no such tap or layout, or the form cannot be built of what is given.

    Example:
        >>> from mixer_spec import families, weights
        >>> spec = families.mixer(image_size=8, patch=4, channels=6, depth=1, token_hidden=5,
        ...                       channel_hidden=7, classes=3)
        >>> model = build_onnx(spec, weights.initial(spec), taps=["stem"])
        >>> [(value.name, str(value.shape)) for value in model.graph.outputs]
        [('stem', '[batch,4,6]'), ('logits', '[batch,3]')]
    """
    inputs, outputs, drawing = draw_onnx(
        spec,
        weights,
        taps=taps,
        input_layout=input_layout,
        form=form,
        preprocessing=preprocessing,
        labels=labels,
    )
    return as_model(inputs, outputs, drawing)


def draw_onnx(
    spec: ModelSpec,
    weights: Weights,
    *,
    taps: Sequence[str] = (),
    input_layout: InputLayout | None = None,
    form: Form = FLOAT32,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] | None = None,
) -> tuple[ir.Value, list[ir.Value], Drawing]:
    """What :func:`build_onnx` makes a model of: its input, its outputs and everything between."""
    _check_arguments(spec, taps, input_layout)
    validate(spec, weights)
    narrow = {name: np.ascontiguousarray(array, np.float32) for name, array in weights.items()}
    _check_precision(narrow, form)
    layout = "NCHW" if form.photos else input_layout or default_layout(spec.input)
    drawing = Drawing(narrow, layout, form)
    if form.photos:
        entering = photo_input(spec, preprocessing)
        assert preprocessing is not None  # photo_input refuses none
        x = draw_preprocessing(drawing, entering, spec.input, preprocessing)
    else:
        x = entering = graph_input(spec.input, layout)
    if not isinstance(spec.input, TokenIds):
        x = _cast(drawing, x, form.dtype, "/input/Cast")
    outputs = []
    for step in spec.steps:
        for node in step.nodes:
            x = _draw(node, drawing, x)
        # Every tap's value has the tap's name, whether or not it is an output.
        wanted = step.tap in taps or step.tap == "logits"
        tap = _cast(drawing, x, ir.DataType.FLOAT, f"/{step.tap}/Cast") if wanted else x
        tap.name = step.tap
        tap.dtype, tap.shape = ir.DataType.FLOAT if wanted else form.dtype, x.shape
        if wanted:
            outputs.append(tap)
    outputs += draw_answers(drawing, outputs[-1], labels)
    return entering, outputs, drawing


def as_model(entering: ir.Value, outputs: Sequence[ir.Value], drawing: Drawing) -> ir.Model:
    """A drawing as a model with its shapes inferred."""
    opset = drawing.form.opset
    graph = ir.Graph(
        [entering],
        outputs,
        nodes=drawing.nodes,
        initializers=list(drawing.initializers.values()),
        opset_imports={"": opset},
        name="mixer_spec",
    )
    model = ir.Model(
        graph,
        ir_version=IR_VERSIONS[opset],
        producer_name="mixer_spec",
        producer_version=mixer_spec.__version__,
    )
    ShapeInferencePass()(model)
    # The large weights together: as ONNX Runtime packs one it frees it, and the next packed one
    # needs a little more than that hole; two side by side have room. Fewer pages are touched.
    ordered = sorted(graph.initializers.values(), key=_nbytes, reverse=True)
    graph.initializers.clear()
    for value in ordered:
        graph.initializers.add(value)
    return model


def _nbytes(initializer: ir.Value) -> int:
    tensor = initializer.const_value
    assert tensor is not None
    return int(tensor.nbytes)


def preprocessing_graph(spec: ModelSpec, preprocessing: Preprocessing) -> bytes:
    """The part of a photo graph in front of the model, serialised: ``photos`` to ``pixel_values``.

    Raises:
        InputError: if the spec takes no photos, or the preprocessing cannot be a part of a graph.
    """
    drawing = Drawing({}, "NCHW", Form(photos=True))
    entering = photo_input(spec, preprocessing)
    pixels = draw_preprocessing(drawing, entering, spec.input, preprocessing)
    serialised: bytes = ir.to_proto(as_model(entering, [pixels], drawing)).SerializeToString()
    return serialised


def graph_and_weights(
    spec: ModelSpec, weights: Weights, *, taps: Sequence[str] = ()
) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """A serialised graph that only names its weights, and apart from it the weights.

    A runtime that is handed both uses the weights' memory in place; through protobuf they would
    be copied several times.

    Args:
        spec: the architecture.
        weights: canonical name to array; rounded to float32 where they are wider.
        taps: names out of ``spec.taps`` that become outputs beside the logits.

    Returns:
        The model, and each initializer by its canonical name, in the axes of the graph.
    """
    model = build_onnx(spec, weights, taps=taps)
    arrays = initializers(model, weights)
    point_outside(model, "memory", dict.fromkeys(arrays, 0))
    return ir.to_proto(model).SerializeToString(), arrays


def initializers(model: ir.Model, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The arrays of a model that :func:`build_onnx` made, in the axes of the graph, as views."""
    tensors = {name: model.graph.initializers[name].const_value for name in names}
    return {name: tensor.numpy() for name, tensor in tensors.items() if tensor is not None}


def point_outside(model: ir.Model, location: str, offsets: Mapping[str, int]) -> None:
    """Replace initializers by references into the file ``location``, by their offsets there."""
    for name, offset in offsets.items():
        value = model.graph.initializers[name]
        tensor = value.const_value
        assert tensor is not None
        value.const_value = ir.ExternalTensor(
            location,
            offset,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )


def _draw(node: Node, drawing: Drawing, x: ir.Value) -> ir.Value:
    x = DRAW[type(node.layer)](node.layer, Place(node, drawing, _draw), x)
    x.dtype = drawing.form.dtype
    x.shape = ir.Shape(("batch", *node.outgoing.shape))
    return x


def _cast(drawing: Drawing, x: ir.Value, to: ir.DataType, name: str) -> ir.Value:
    """``x`` in ``to``, which is another dtype only where the form's precision is not float32."""
    return x if drawing.form.dtype == ir.DataType.FLOAT else drawing.op("Cast", x, name=name, to=to)


def _check_precision(weights: Weights, form: Form) -> None:
    """Refuse weights that the form's precision has no number for."""
    if form.precision == "float32":
        return
    with np.errstate(over="ignore"):
        overflowing = [
            name
            for name, array in weights.items()
            if np.isfinite(array).all() and not np.isfinite(array.astype(form.array_dtype)).all()
        ]
    if overflowing:
        raise WeightsError(
            "ONNX export",
            f"{len(overflowing)} weights are too large for {form.precision}, {overflowing[:3]} "
            "among them; do `--dtype bfloat16`, which has the range of float32",
        )


def _check_arguments(spec: ModelSpec, taps: Sequence[str], input_layout: str | None) -> None:
    problems = []
    unknown = [tap for tap in taps if tap not in spec.taps]
    if unknown:
        near = difflib.get_close_matches(unknown[0], spec.taps, n=3) or spec.taps[:3]
        problems.append(f"unknown taps {unknown}; expected names like {list(near)}")
    problems += layout_problems(spec.input, input_layout)
    if problems:
        raise InputError("ONNX export", problems)
