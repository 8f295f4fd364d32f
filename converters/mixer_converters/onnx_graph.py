"""An ONNX graph in the making: nodes and initializers, each named by its layer's place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mixer_spec.graph import Node
from mixer_spec.shapes import Table
from mixer_spec.weights import Weights

from .onnx_form import Form
from .onnx_input import InputLayout


@dataclass(frozen=True, slots=True)
class Drawing:
    """What has been drawn of a graph so far.

    Args:
        weights: canonical name to array, contiguous float32.
        input_layout: the axes of the images, where they are what enters.
        form: how the graph computes.
        nodes: in the order of computation.
        initializers: weights and constants by name.
        names: how often each name of a node was asked for.
        factors: what enters each product that may be in eight bits, by its kernel's name.
    """

    weights: Weights
    input_layout: InputLayout | None
    form: Form
    nodes: list[ir.Node] = field(default_factory=list)
    initializers: dict[str, ir.Value] = field(default_factory=dict)
    names: Counter[str] = field(default_factory=Counter)
    factors: dict[str, ir.Value] = field(default_factory=dict)

    def op(self, op_type: str, *inputs: ir.Value, name: str, **attributes: Any) -> ir.Value:
        """Add an operator with one output; ``name`` gets a counter where it is there already."""
        return self.node(op_type, inputs, attributes, name, outputs=1)[0]

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        attributes: dict[str, Any],
        name: str,
        *,
        outputs: int,
    ) -> Sequence[ir.Value]:
        """Add an operator."""
        count = self.names[name]
        self.names[name] += 1
        if count:
            name = f"{name}_{count}"
        node = ir.node(op_type, inputs, attributes, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}_output_{index}"
        self.nodes.append(node)
        return node.outputs

    def initializer(self, name: str, array: NDArray[Any]) -> ir.Value:
        """Add a weight or a constant; the same name is the same value."""
        if name not in self.initializers:
            value = ir.val(name, const_value=ir.Tensor(array, name=name))
            self.initializers[name] = value
        return self.initializers[name]


@dataclass(frozen=True, slots=True)
class Place:
    """One layer's place in the drawing; names what is drawn there ``/blocks/3/token_mixing/...``.

    Args:
        node: the layer, its shapes and its children.
        drawing: the whole.
        draw: draws one node of the spec; used for the children.
    """

    node: Node
    drawing: Drawing
    draw: Callable[[Node, Drawing, ir.Value], ir.Value]

    @property
    def table(self) -> Table:
        """The table that enters."""
        assert isinstance(self.node.incoming, Table)
        return self.node.incoming

    def op(self, op_type: str, *inputs: ir.Value, part: str = "", **attributes: Any) -> ir.Value:
        """Add an operator with one output.

        Args:
            op_type: out of ONNX's own.
            inputs: values and initializers.
            part: the name of the layer's part, where it has several (``query``).
            attributes: of the operator.
        """
        return self.drawing.op(op_type, *inputs, name=self.name(op_type, part), **attributes)

    def parameter(self, name: str, shape: Sequence[int] | None = None) -> ir.Value:
        """The weight ``name`` of this layer under its canonical name, in the form's precision.

        Args:
            name: within the layer, as in ``kernel``.
            shape: other axes for the same bytes.
        """
        return self._parameter(name, shape, self.drawing.form.array_dtype)

    def wide_parameter(self, name: str, shape: Sequence[int] | None = None) -> ir.Value:
        """The same in float32, for what is computed in float32 whatever the form."""
        return self._parameter(name, shape, np.dtype(np.float32))

    def wide(self, x: ir.Value) -> ir.Value:
        """``x`` in float32."""
        return self._cast(x, ir.DataType.FLOAT, "wide")

    def narrow(self, x: ir.Value) -> ir.Value:
        """A float32 ``x`` in the form's precision."""
        return self._cast(x, self.drawing.form.dtype, "narrow")

    def constant(self, name: str, value: NDArray[Any]) -> ir.Value:
        """Numbers that are no weight, as they are."""
        return self.drawing.initializer(f"{self.scope}/{name}", value)

    def number(self, name: str, value: float) -> ir.Value:
        """One number that is no weight, in the form's precision."""
        return self.constant(name, np.array(value, self.drawing.form.array_dtype))

    def reshape(self, x: ir.Value, *shape: int, part: str = "") -> ir.Value:
        """``x`` with other axes; 0 keeps the axis, so that the batch stays free."""
        name = f"{part}/shape" if part else "shape"
        return self.op("Reshape", x, self.constant(name, np.array(shape, np.int64)), part=part)

    def halves(self, x: ir.Value, axis: int) -> tuple[ir.Value, ir.Value]:
        """The first and the second half of an axis."""
        attributes = {"axis": axis}
        if self.drawing.form.opset >= 18:
            attributes["num_outputs"] = 2
        first, second = self.drawing.node("Split", (x,), attributes, self.name("Split"), outputs=2)
        return first, second

    def nested(self, x: ir.Value) -> ir.Value:
        """The layers inside this one, one after the other."""
        for child in self.node.children:
            x = self.draw(child, self.drawing, x)
        return x

    @property
    def scope(self) -> str:
        """What the names of this layer's nodes begin with."""
        return "/" + self.node.path.replace(".", "/")

    def name(self, op_type: str, part: str = "") -> str:
        """What a node of this layer is called."""
        return "/".join(word for word in (self.scope, part, op_type) if word)

    def _parameter(self, name: str, shape: Sequence[int] | None, dtype: np.dtype[Any]) -> ir.Value:
        full = f"{self.node.path}.{name}"
        array = self.drawing.weights[full].astype(dtype, copy=False)
        return self.drawing.initializer(full, array if shape is None else array.reshape(shape))

    def _cast(self, x: ir.Value, to: ir.DataType, part: str) -> ir.Value:
        if self.drawing.form.dtype == ir.DataType.FLOAT:
            return x
        return self.op("Cast", x, part=part, to=to)
