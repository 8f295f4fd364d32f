"""The forms that one model may have as a graph: number format, opset, eight bits, inputs, answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np
import onnx_ir as ir

from mixer_spec.errors import InputError

Precision = Literal["float32", "float16", "bfloat16"]
"""The number format of weights and products; inputs, outputs, norms and sums stay float32."""

Int8 = Literal["static", "dynamic"]
"""How products in eight bits learn the range of what enters: beforehand, or at each run."""

Opset = Literal[17, 18, 20]
"""17 is the first with LayerNormalization, 20 with Gelu; 18 is between them for older runtimes."""

IR_VERSIONS: Mapping[Opset, int] = MappingProxyType({17: 8, 18: 8, 20: 9})
"""The format of the file that came with each opset."""

DTYPES: Mapping[Precision, tuple[ir.DataType, np.dtype[Any]]] = MappingProxyType(
    {
        "float32": (ir.DataType.FLOAT, np.dtype(np.float32)),
        "float16": (ir.DataType.FLOAT16, np.dtype(np.float16)),
        "bfloat16": (ir.DataType.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
    }
)
"""What ONNX and what NumPy calls each number format."""


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a tensor takes; those beyond are clipped.

    Args:
        low: at most 0.
        high: at least 0.
    """

    low: float
    high: float

    def grid(self) -> tuple[np.float32, np.uint8]:
        """Step and zero point of the 256 whole numbers that cover the range; 0 is one of them."""
        step = np.float32(max((self.high - self.low) / 255, float(np.finfo(np.float32).tiny)))
        zero = np.uint8(np.clip(np.rint(-self.low / step), 0, 255))
        return step, zero


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """How a graph computes, and what it takes and gives beside the spec's own input and logits.

    Args:
        precision: of the weights and products.
        opset: the version of the operators.
        int8: whether the products inside the blocks are in eight bits, and how.
        ranges: for static int8, of what enters each product, by its canonical name.
        photos: take uint8 photos of any size and preprocess them in the graph.
        probabilities: give the softmax of the logits too.
        class_names: give the name of the most probable class too.

    Raises:
        InputError: with every rule broken.
    """

    precision: Precision = "float32"
    opset: Opset = 20
    int8: Int8 | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    photos: bool = False
    probabilities: bool = False
    class_names: bool = False

    def __post_init__(self) -> None:
        problems = list(self._broken_rules())
        if problems:
            raise InputError("ONNX export", problems)

    def _broken_rules(self) -> Iterator[str]:
        for name, value, kind in (
            ("precision", self.precision, Precision),
            ("opset", self.opset, Opset),
            ("int8", self.int8, Int8),
        ):
            if value not in get_args(kind) and (name, value) != ("int8", None):
                yield f"unknown {name}; expected one of {list(get_args(kind))}, got {value!r}"
        if self.int8 and self.precision != "float32":
            yield f"int8 works on float32 weights; expected those beside it, got {self.precision}"
        if self.int8 != "static" and self.ranges:
            yield "ranges are for static int8; expected none without it"

    @property
    def numbers(self) -> str:
        """One word for the number format: ``float16``, ``int8-static``."""
        return f"int8-{self.int8}" if self.int8 else self.precision

    @property
    def dtype(self) -> ir.DataType:
        """What ONNX calls the precision."""
        return DTYPES[self.precision][0]

    @property
    def array_dtype(self) -> np.dtype[Any]:
        """What NumPy calls the precision."""
        return DTYPES[self.precision][1]


FLOAT32 = Form()
"""Every number in float32, as the spec says; the default."""
