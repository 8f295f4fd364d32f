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

from .onnx_input import InputLayout


@dataclass(frozen=True, slots=True)
class Drawing:
    """What has been drawn of a graph so far.

    Args:
        weights: canonical name to array, contiguous float32.
        input_layout: the axes of the images, where they are what enters.
        nodes: in the order of computation.
        initializers: weights and constants by name.
        names: how often each name of a node was asked for.
    """

    weights: Weights
    input_layout: InputLayout | None
    nodes: list[ir.Node] = field(default_factory=list)
    initializers: dict[str, ir.Value] = field(default_factory=dict)
    names: Counter[str] = field(default_factory=Counter)


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
        return self._node(op_type, inputs, attributes, part, outputs=1)[0]

    def parameter(self, name: str, shape: Sequence[int] | None = None) -> ir.Value:
        """The weight ``name`` of this layer under its canonical name.

        Args:
            name: within the layer, as in ``kernel``.
            shape: other axes for the same bytes.
        """
        full = f"{self.node.path}.{name}"
        array = self.drawing.weights[full]
        return self._initializer(full, array if shape is None else array.reshape(shape))

    def constant(self, name: str, value: NDArray[Any]) -> ir.Value:
        """A number or a list of numbers that is no weight."""
        return self._initializer(f"{self._scope}/{name}", value)

    def reshape(self, x: ir.Value, *shape: int, part: str = "") -> ir.Value:
        """``x`` with other axes; 0 keeps the axis, so that the batch stays free."""
        name = f"{part}/shape" if part else "shape"
        return self.op("Reshape", x, self.constant(name, np.array(shape, np.int64)), part=part)

    def dense(self, x: ir.Value, part: str = "") -> ir.Value:
        """``X W + b``."""
        prefix = f"{part}." if part else ""
        product = self.op("MatMul", x, self.parameter(f"{prefix}kernel"), part=part)
        return self.op("Add", product, self.parameter(f"{prefix}bias"), part=part)

    def halves(self, x: ir.Value, axis: int) -> tuple[ir.Value, ir.Value]:
        """The first and the second half of an axis."""
        attributes = {"axis": axis, "num_outputs": 2}
        first, second = self._node("Split", (x,), attributes, outputs=2)
        return first, second

    def nested(self, x: ir.Value) -> ir.Value:
        """The layers inside this one, one after the other."""
        for child in self.node.children:
            x = self.draw(child, self.drawing, x)
        return x

    @property
    def _scope(self) -> str:
        return "/" + self.node.path.replace(".", "/")

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        attributes: dict[str, Any],
        part: str = "",
        *,
        outputs: int,
    ) -> Sequence[ir.Value]:
        name = "/".join(word for word in (self._scope, part, op_type) if word)
        count = self.drawing.names[name]
        self.drawing.names[name] += 1
        if count:
            name = f"{name}_{count}"
        node = ir.node(op_type, inputs, attributes, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}_output_{index}"
        self.drawing.nodes.append(node)
        return node.outputs

    def _initializer(self, name: str, array: NDArray[Any]) -> ir.Value:
        value = ir.val(name, const_value=ir.Tensor(array, name=name))
        self.drawing.initializers[name] = value
        return value
