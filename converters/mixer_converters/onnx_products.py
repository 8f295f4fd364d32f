"""The products ``X W + b`` and ``W X + b`` in a graph: in the form's precision, or in eight bits.

In eight bits, the products inside the blocks are of whole numbers: 256 steps for what enters, and
255 symmetric ones for each output's column of the kernel. Norms, activations, gates, residual
additions, the stem and the head stay in float32: they cost little and lose most.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .onnx_graph import Place


def dense(here: Place, x: ir.Value, part: str = "") -> ir.Value:
    """``X W + b``.

    Args:
        here: the layer's place.
        x: ``[..., channel]``.
        part: what the weights' names begin with, where the layer has several (``query``).
    """
    prefix = f"{part}." if part else ""
    name = f"{here.node.path}.{prefix}kernel"
    if _in_block(here):
        here.drawing.factors[name] = x
    if _in_block(here) and here.drawing.form.int8:
        product = _int8_product(here, x, name, here.drawing.weights[name], part)
    else:
        product = here.op("MatMul", x, here.parameter(f"{prefix}kernel"), part=part)
    return here.op("Add", product, here.parameter(f"{prefix}bias"), part=part)


def token_dense(here: Place, x: ir.Value, features: int) -> ir.Value:
    """``W X + b``: the kernel multiplies from the left, so nothing is transposed.

    In eight bits it multiplies from the right, where runtimes take a step for each output, and
    the table is transposed in bytes.
    """
    name = f"{here.node.path}.kernel"
    if _in_block(here):
        here.drawing.factors[name] = x
    if _in_block(here) and here.drawing.form.int8:
        kernel = here.drawing.weights[name].T
        product = _int8_product(here, x, name, kernel, "", transposed=True)
        rows = here.op("Add", product, here.parameter("bias"))
        return here.op("Transpose", rows, part="tokens", perm=(0, 2, 1))
    product = here.op("MatMul", here.parameter("kernel"), x)
    return here.op("Add", product, here.parameter("bias", (features, 1)))


def _in_block(here: Place) -> bool:
    return here.node.path.startswith("blocks.")


def _int8_product(
    here: Place,
    x: ir.Value,
    name: str,
    kernel: NDArray[np.float32],
    part: str,
    *,
    transposed: bool = False,
) -> ir.Value:
    """``x`` times ``kernel [in, out]`` through whole numbers; the result is float32."""
    drawing = here.drawing
    whole, steps = int8_columns(kernel)
    weight = drawing.initializer(name, whole)
    step = drawing.initializer(f"{name}.step", steps)
    zeros = here.constant(_join(part, "kernel/zero"), np.zeros(steps.shape, np.int8))

    def columns(value: ir.Value) -> ir.Value:
        if not transposed:
            return value
        return here.op("Transpose", value, part="columns", perm=(0, 2, 1))

    if drawing.form.int8 == "static":
        size, middle = drawing.form.ranges[name].grid()
        grid = (
            here.constant(_join(part, "input/step"), np.array(size)),
            here.constant(_join(part, "input/zero"), np.array(middle)),
        )
        entering = columns(here.op("QuantizeLinear", x, *grid, part=_join(part, "input")))
        entering = here.op("DequantizeLinear", entering, *grid, part=_join(part, "input"))
        kernel_part = _join(part, "kernel")
        weight = here.op("DequantizeLinear", weight, step, zeros, part=kernel_part, axis=1)
        return here.op("MatMul", entering, weight, part=part)
    entering, size_now, zero_now = drawing.node(
        "DynamicQuantizeLinear", (x,), {}, here.name("DynamicQuantizeLinear", part), outputs=3
    )
    products = here.op("MatMulInteger", columns(entering), weight, zero_now, zeros, part=part)
    both_steps = here.op("Mul", size_now, step, part=_join(part, "step"))
    whole_sums = here.op("Cast", products, part=part, to=ir.DataType.FLOAT)
    return here.op("Mul", whole_sums, both_steps, part=part)


def int8_columns(kernel: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A kernel ``[in, out]`` as whole numbers from -127 to 127, and the step of each column.

    Example:
        >>> int8_columns(np.array([[1.0, -2.54], [0.5, 1.27]], np.float32))[0].tolist()
        [[127, -127], [64, 64]]
    """
    largest = np.maximum(np.abs(kernel).max(axis=0), np.finfo(np.float32).tiny * 127)
    steps = (largest / np.float32(127)).astype(np.float32)
    return np.rint(kernel / steps).clip(-127, 127).astype(np.int8), steps


def _join(*words: str) -> str:
    return "/".join(word for word in words if word)
