"""What enters an ONNX graph: the name, type and axes of its one input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import onnx_ir as ir

from mixer_spec.shapes import Image, ModelInput, TokenIds, Vectors

InputLayout = Literal["NCHW", "NHWC"]
"""The axes of images: ``[batch, rgb, height, width]`` or ``[batch, height, width, rgb]``."""

NAMES: Mapping[type[ModelInput], str] = {
    Image: "pixel_values",
    TokenIds: "input_ids",
    Vectors: "input_vectors",
}
"""The name of the graph's input, by what it is."""


def default_layout(given: ModelInput) -> InputLayout | None:
    """The axes of images where nobody asks for others; ``None`` for a sequence, which has one order."""
    return "NCHW" if isinstance(given, Image) else None


def layout_problems(given: ModelInput, layout: str | None) -> Iterator[str]:
    """What is wrong with asking for ``layout``; ``None`` is the default."""
    if layout is None:
        return
    if not isinstance(given, Image):
        yield f"input_layout is for images; expected none beside {given}, got {layout!r}"
    elif layout not in get_args(InputLayout):
        yield f"unknown input_layout; expected one of {list(get_args(InputLayout))}, got {layout!r}"


def graph_input(given: ModelInput, layout: InputLayout | None) -> ir.Value:
    """The graph's input: float32, or int64 for ids, with a free batch in front."""
    axes = given.shape
    if isinstance(given, Image) and layout == "NCHW":
        axes = (given.channels, given.height, given.width)
    dtype = ir.DataType.INT64 if isinstance(given, TokenIds) else ir.DataType.FLOAT
    return ir.val(NAMES[type(given)], dtype, ("batch", *axes))
