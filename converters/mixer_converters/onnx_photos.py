"""Preprocessing as a part of a graph: photos ``[batch, height, width, rgb]`` in uint8, of any size.

A resize is one matrix for the rows and one for the columns, computed in the graph from the photo's
size; the crop is which rows the matrices have. No operator's own idea of resizing enters, so every
runtime gives the same pixels. ONNX Runtime's Resize with antialias differs from Pillow by up to
two counts, and OpenVINO's and TensorRT's by more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir

from mixer_spec.errors import InputError
from mixer_spec.model import ModelSpec
from mixer_spec.preprocess import AsIs, PillowResample, Preprocessing, ResizeAndCrop
from mixer_spec.preprocess.data import Resample
from mixer_spec.shapes import Image, ModelInput

from .onnx_graph import Drawing

INPUT = "photos"
"""The name of the graph's input."""


def photo_input(spec: ModelSpec, preprocessing: Preprocessing | None) -> ir.Value:
    """The graph's input: uint8, with free batch, height and width.

    Raises:
        InputError: if the spec takes no photos, or the preprocessing is missing or cannot be a
            part of a graph.
    """
    problems = []
    if not isinstance(spec.input, Image) or spec.input.channels != 3:
        problems.append(f"only a model of RGB images takes photos, got {spec.input}")
    if preprocessing is None:
        problems.append(
            "the weights do not say how their photos are preprocessed, which changes every logit; "
            "write them with a preprocessing"
        )
    else:
        if preprocessing.orientation == "exif":
            problems.append(
                "a graph sees pixels and no EXIF tag; expected orientation 'stored', got 'exif'; "
                "turn photos before they enter"
            )
        how = _resample(preprocessing)
        if isinstance(how, PillowResample) and how.filter in ("nearest", "box"):
            problems.append(
                f"Pillow's {how.filter!r} jumps from pixel to pixel where its own rounding errors "
                "fall; expected a filter without jumps: bilinear, bicubic or lanczos"
            )
    if problems:
        raise InputError("preprocessing in the graph", problems)
    assert preprocessing is not None
    assert isinstance(spec.input, Image)
    sides: tuple[int | str, int | str] = ("height", "width")
    if isinstance(preprocessing.geometry, AsIs):
        sides = (spec.input.height, spec.input.width)
    return ir.val(INPUT, ir.DataType.UINT8, ("batch", *sides, 3))


def draw_preprocessing(
    drawing: Drawing, photos: ir.Value, given: ModelInput, preprocessing: Preprocessing
) -> ir.Value:
    """The float32 pixels ``[batch, rgb, height, width]`` that the spec takes."""
    assert isinstance(given, Image)
    draw = _Draw(drawing)
    x = draw.op("Transpose", photos, perm=(0, 3, 1, 2))
    x = draw.op("Cast", x, to=ir.DataType.FLOAT)
    how = _resample(preprocessing)
    if how is not None:
        height, width = _source_pixels(draw, photos, given, preprocessing)
        rows = _matrix(draw, height, how)
        columns = draw.op("Transpose", _matrix(draw, width, how), perm=(1, 0))
        if isinstance(how, PillowResample):
            x = _in_eight_bits(draw, x, rows, columns, _rows_first(draw, height, width))
        else:
            x = draw.op("MatMul", draw.op("MatMul", rows, x), columns)
            if how.values == "truncated":
                # The sums are of float32, where 99.9999 is 100 in exact arithmetic.
                x = draw.op("Floor", draw.op("Add", x, draw.float32(2.0**-12)))
                x = draw.clip(x)
    mean, std = (
        np.array(three).reshape(3, 1, 1) for three in (preprocessing.mean, preprocessing.std)
    )
    x = draw.op("Mul", x, draw.constant((1 / (255 * std)).astype(np.float32)))
    x = draw.op("Sub", x, draw.constant((mean / std).astype(np.float32)))
    x.name, x.dtype = "pixel_values", ir.DataType.FLOAT
    x.shape = ir.Shape(("batch", given.channels, given.height, given.width))
    return x


@dataclass(frozen=True, slots=True)
class _Draw:
    """Short names for drawing, all under ``/preprocess``."""

    drawing: Drawing

    def op(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return self.drawing.op(op_type, *inputs, name=f"/preprocess/{op_type}", **attributes)

    def constant(self, value: Any) -> ir.Value:
        """An array; equal ones are one initializer."""
        array = np.asarray(value)
        words = [array.dtype.name, *map(str, array.shape), *map(str, array.ravel())]
        return self.drawing.initializer("/preprocess/" + "_".join(words), array)

    def float64(self, value: float) -> ir.Value:
        return self.constant(np.float64(value))

    def float32(self, value: float) -> ir.Value:
        return self.constant(np.float32(value))

    def whole(self, x: ir.Value) -> ir.Value:
        """The nearest of the numbers 0 to 255; halves go up."""
        return self.clip(self.op("Floor", self.op("Add", x, self.float32(0.5))))

    def clip(self, x: ir.Value) -> ir.Value:
        return self.op("Clip", x, self.float32(0), self.float32(255))


def _rows_first(draw: _Draw, height: _Axis, width: _Axis) -> ir.Value:
    """Whether Pillow resizes the rows first: from 13.0, where the height shrinks far more.

    Source:
        python-pillow/Pillow#9549; the condition is fitted to what 13.0 does.
    """
    fewer_rows = draw.op("Sub", height.old, height.new)
    fewer_columns = draw.op("Sub", width.old, width.new)
    twice = draw.op("Mul", fewer_columns, draw.float64(2.0))
    far_more = draw.op("Greater", fewer_rows, twice)
    return draw.op("And", far_more, draw.op("Greater", fewer_rows, draw.float64(0.0)))


def _in_eight_bits(
    draw: _Draw, x: ir.Value, rows: ir.Value, columns: ir.Value, rows_first: ir.Value
) -> ir.Value:
    """Both passes, each rounded to 8 bits; only the branch for their order is computed."""

    def branch(name: str, *, first_rows: bool) -> ir.Graph:
        inner = _Draw(dataclasses.replace(draw.drawing, nodes=[]))
        y = x
        for over_rows in (first_rows, not first_rows):
            y = inner.op("MatMul", rows, y) if over_rows else inner.op("MatMul", y, columns)
            y = inner.whole(y)
        return ir.Graph([], [y], nodes=inner.drawing.nodes, name=name)

    branches = {
        "then_branch": branch("rows_first", first_rows=True),
        "else_branch": branch("columns_first", first_rows=False),
    }
    return draw.op("If", rows_first, **branches)


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of the resize, in float64.

    Args:
        old: the photo's pixels along it, a scalar.
        new: the resized photo's, a scalar.
        step: source pixels for each pixel of the resized photo, a scalar.
        pixels: which of the resized photo's pixels are kept, ``[pixel, 1]``.
    """

    old: ir.Value
    new: ir.Value
    step: ir.Value
    pixels: ir.Value


def _resample(preprocessing: Preprocessing) -> Resample | None:
    geometry = preprocessing.geometry
    return None if isinstance(geometry, AsIs) else geometry.resample


def _source_pixels(
    draw: _Draw, photos: ir.Value, given: Image, preprocessing: Preprocessing
) -> tuple[_Axis, _Axis]:
    """Rows and columns, as the geometry has them for a photo of this size."""
    shape = draw.op("Cast", draw.op("Shape", photos), to=ir.DataType.DOUBLE)
    old = [draw.op("Gather", shape, draw.constant(np.int64(axis))) for axis in (1, 2)]
    sizes = (given.height, given.width)
    geometry = preprocessing.geometry
    if isinstance(geometry, ResizeAndCrop):
        covering = _covering(draw, old, sizes, geometry)
        half = draw.float64(0.5)
        rounding = "Floor" if geometry.offset == "floor" else "Round"
        offsets = [
            draw.op(rounding, draw.op("Mul", draw.op("Sub", have, draw.float64(want)), half))
            for have, want in zip(covering, sizes, strict=True)
        ]
    else:
        covering = [draw.float64(size) for size in sizes]
        offsets = [draw.float64(0.0)] * 2
    height, width = (
        _Axis(
            length,
            new,
            draw.op("Div", length, new),
            draw.op("Add", draw.constant(np.arange(size, dtype=np.float64)[:, None]), offset),
        )
        for length, new, size, offset in zip(old, covering, sizes, offsets, strict=True)
    )
    return height, width


def _covering(
    draw: _Draw, old: list[ir.Value], sizes: tuple[int, int], geometry: ResizeAndCrop
) -> list[ir.Value]:
    """The size in proportion to the photo that just covers the target, as in ``preprocess``."""
    target = [draw.float64(math.floor(side / geometry.crop_fraction)) for side in sizes]
    rows_exact = draw.op(
        "Not",
        draw.op("Less", draw.op("Mul", target[0], old[1]), draw.op("Mul", target[1], old[0])),
    )

    def in_proportion(exact: int, other: int) -> ir.Value:
        if geometry.long_side == "floor":
            product = draw.op("Mul", target[exact], old[other])
            return draw.op("Floor", draw.op("Div", product, old[exact]))
        factor = draw.op("Div", _single(draw, target[exact]), _single(draw, old[exact]))
        product = draw.op("Round", draw.op("Mul", _single(draw, old[other]), factor))
        return draw.op("Cast", product, to=ir.DataType.DOUBLE)

    return [
        draw.op("Where", rows_exact, target[0], in_proportion(1, 0)),
        draw.op("Where", rows_exact, in_proportion(0, 1), target[1]),
    ]


def _single(draw: _Draw, value: ir.Value) -> ir.Value:
    return draw.op("Cast", value, to=ir.DataType.FLOAT)


def _matrix(draw: _Draw, axis: _Axis, how: Resample) -> ir.Value:
    """The weight of each source pixel in each kept pixel: float32 ``[pixel, source]``."""
    one = draw.float64(1.0)
    source = draw.op("Range", draw.float64(0.0), axis.old, one)
    if how.filter == "area":
        left = draw.op("Mul", axis.pixels, axis.step)
        end = draw.op("Min", draw.op("Add", source, one), draw.op("Add", left, axis.step))
        weights = draw.op("Max", draw.op("Sub", end, draw.op("Max", source, left)), draw.float64(0))
    else:
        half = draw.float64(0.5)
        centre = draw.op("Mul", draw.op("Add", axis.pixels, half), axis.step)
        if how.filter == "nearest":
            weights = draw.op("Equal", source, draw.op("Floor", centre))
            return draw.op("Cast", weights, to=ir.DataType.FLOAT)
        distance = draw.op("Add", draw.op("Sub", source, centre), half)
        if isinstance(how, PillowResample) or how.antialias == "on":
            distance = draw.op("Mul", distance, draw.op("Div", one, draw.op("Max", axis.step, one)))
        weights = _KERNELS[how.filter](draw, distance)
    total = draw.op("ReduceSum", weights, draw.constant(np.array([1])), keepdims=1)
    return draw.op("Cast", draw.op("Div", weights, total), to=ir.DataType.FLOAT)


def _triangle(draw: _Draw, distance: ir.Value) -> ir.Value:
    height = draw.op("Sub", draw.float64(1.0), draw.op("Abs", distance))
    return draw.op("Max", height, draw.float64(0.0))


def _keys(draw: _Draw, distance: ir.Value) -> ir.Value:
    """Keys' cubic with a = -1/2."""
    x = draw.op("Abs", distance)
    square = draw.op("Mul", x, x)

    def times(value: ir.Value, factor: float) -> ir.Value:
        return draw.op("Mul", value, draw.float64(factor))

    def plus(value: ir.Value, summand: float) -> ir.Value:
        return draw.op("Add", value, draw.float64(summand))

    near = plus(draw.op("Mul", plus(times(x, 1.5), -2.5), square), 1.0)
    far = plus(draw.op("Mul", plus(draw.op("Mul", plus(times(x, -0.5), 2.5), x), -4.0), x), 2.0)
    far = draw.op("Where", draw.op("Less", x, draw.float64(2.0)), far, draw.float64(0.0))
    return draw.op("Where", draw.op("Less", x, draw.float64(1.0)), near, far)


def _lanczos(draw: _Draw, distance: ir.Value) -> ir.Value:
    """``sinc(x) sinc(x / 3)`` within a radius of three."""
    third = draw.op("Div", distance, draw.float64(3.0))
    product = draw.op("Mul", _sinc(draw, distance), _sinc(draw, third))
    inside = draw.op("Less", draw.op("Abs", distance), draw.float64(3.0))
    return draw.op("Where", inside, product, draw.float64(0.0))


def _sinc(draw: _Draw, x: ir.Value) -> ir.Value:
    turned = draw.op("Mul", x, draw.float64(math.pi))
    at_zero = draw.op("Equal", turned, draw.float64(0.0))
    safe = draw.op("Where", at_zero, draw.float64(1.0), turned)
    ratio = draw.op("Div", draw.op("Sin", safe), safe)
    return draw.op("Where", at_zero, draw.float64(1.0), ratio)


_KERNELS: Mapping[str, Callable[[_Draw, ir.Value], ir.Value]] = MappingProxyType(
    {
        "bilinear": _triangle,
        "bicubic": _keys,
        "lanczos": _lanczos,
        "lanczos3": _lanczos,
    }
)
"""The weight at a distance from the centre of a pixel, in the widened filter's units."""
