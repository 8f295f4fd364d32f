"""Eight bits: the range of what enters each product, measured; and what the eight bits cost.

Both run the float32 graph in ONNX Runtime on inputs like those that the model will see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mixer_spec.backend import check_inputs
from mixer_spec.model import ModelSpec
from mixer_spec.weights import Weights

from .onnx_build import as_model, build_onnx, draw_onnx
from .onnx_form import Form, Range
from .onnx_run import OnnxRun

_BINS = 2048
_SHARES = np.linspace(1.0, 0.3, 71)  # of the whole range, tried as limits for clipping
_BATCH = 4  # inputs in one run: every product's input is held at once


def calibrate(spec: ModelSpec, weights: Weights, inputs: NDArray[Any]) -> dict[str, Range]:
    """The range of what enters each product inside the blocks, by the kernel's canonical name.

    The range is the one whose 256 steps lose least in the mean square: it clips a few outliers
    where that makes the steps for everything else finer.

    Args:
        spec: the architecture.
        weights: canonical name to array.
        inputs: ``[batch, height, width, rgb]`` preprocessed, or sequences; a few dozen or more.

    Raises:
        InputError: if the inputs do not fit the spec.
    """
    check_inputs(spec, inputs)
    entering, _, drawing = draw_onnx(spec, weights, input_layout=None)
    names, values = list(drawing.factors), list(dict.fromkeys(drawing.factors.values()))
    if not names:
        return {}
    run = OnnxRun(_serialised(as_model(entering, values, drawing)))
    tensors = [value.name or "" for value in drawing.factors.values()]

    def batches() -> Iterator[Mapping[str, NDArray[Any]]]:
        for start in range(0, len(inputs), _BATCH):
            yield run(inputs[start : start + _BATCH], list(dict.fromkeys(tensors)))

    low = dict.fromkeys(tensors, 0.0)
    high = dict.fromkeys(tensors, 0.0)
    for found in batches():
        for name, array in found.items():
            low[name] = min(low[name], float(array.min()))
            high[name] = max(high[name], float(array.max()))
    counts = {name: np.zeros(_BINS) for name in low}
    for found in batches():
        for name, array in found.items():
            counts[name] += np.histogram(array, _BINS, (low[name], high[name] or 1.0))[0]
    best = {name: _best_range(counts[name], low[name], high[name] or 1.0) for name in low}
    return {kernel: best[tensor] for kernel, tensor in zip(names, tensors, strict=True)}


def _best_range(counts: NDArray[np.float64], low: float, high: float) -> Range:
    """The share of the whole range that loses least: clipped parts, and rounding by half a step."""
    edges = np.linspace(low, high, len(counts) + 1)
    centres = (edges[1:] + edges[:-1]) / 2

    def loss(share: float) -> float:
        clipped = centres - centres.clip(low * share, high * share)
        step = (high - low) * share / 255
        rounding = np.where(clipped == 0, step**2 / 12, 0.0)
        return float(counts @ (clipped**2 + rounding))

    share = min(_SHARES, key=loss)
    return Range(low * share, high * share)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a form loses against float32 on some inputs.

    Args:
        inputs: how many.
        equal_top1: the fraction whose most probable class is the same.
        sqnr: of each tap, the signal's power over the error's, in decibels; infinite when equal.
    """

    inputs: int
    equal_top1: float
    sqnr: Mapping[str, float]

    def to_data(self) -> dict[str, Any]:
        """As plain data; an infinite number is ``None``."""
        return {
            "inputs": self.inputs,
            "equal_top1": self.equal_top1,
            "sqnr_db": {
                tap: round(db, 2) if np.isfinite(db) else None for tap, db in self.sqnr.items()
            },
        }


def measure_cost(spec: ModelSpec, weights: Weights, form: Form, inputs: NDArray[Any]) -> Cost:
    """Run the form and float32 side by side, and compare every stage.

    Args:
        spec: the architecture.
        weights: canonical name to array.
        form: how the graph that is to be judged computes.
        inputs: ``[batch, height, width, rgb]`` preprocessed, or sequences.
    """
    check_inputs(spec, inputs)
    names = list(spec.taps)
    whole, judged = (
        OnnxRun(_serialised(build_onnx(spec, weights, taps=names, form=how)))
        for how in (Form(opset=form.opset), form)
    )
    signal, error = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    equal = 0
    for start in range(0, len(inputs), _BATCH):
        batch = inputs[start : start + _BATCH]
        exact, found = whole(batch, names), judged(batch, names)
        for name in names:
            true = exact[name].astype(np.float64)
            signal[name] += float(np.square(true).sum())
            error[name] += float(np.square(found[name] - true).sum())
        equal += int((found["logits"].argmax(-1) == exact["logits"].argmax(-1)).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        sqnr = {n: float(10 * np.log10(np.divide(signal[n], error[n]))) for n in names}
    return Cost(len(inputs), equal / len(inputs), sqnr)


def _serialised(model: ir.Model) -> bytes:
    data: bytes = ir.to_proto(model).SerializeToString()
    return data
