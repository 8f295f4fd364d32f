"""What mutants are made of: changed specs, weights, steps and arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mixer_conformance.measure import Array
from mixer_conformance.precision import to_bfloat16, to_float16, to_int8, to_tf32
from mixer_spec import ModelSpec
from mixer_spec.layers import Residual
from mixer_spec.reference import Arithmetic
from mixer_spec.reference.layers import COMPUTE

from .mutant import Compute, Weights

# --- specs ---------------------------------------------------------------------------------


def edited(old: str, new: str) -> Callable[[ModelSpec], ModelSpec]:
    """A spec that is read wrongly."""

    def edit(spec: ModelSpec) -> ModelSpec:
        return ModelSpec.from_json(spec.to_json().replace(old, new))

    return edit


def norm_behind(spec: ModelSpec) -> ModelSpec:
    """Each branch's norm behind its other layers."""

    def turned(branch: Residual) -> Residual:
        return replace(branch, layers=(*branch.layers[1:], branch.layers[0]))

    stages = tuple(
        replace(stage, block=tuple(turned(branch) for branch in stage.block))
        for stage in spec.stages
    )
    return replace(spec, stages=stages)


# --- weights -------------------------------------------------------------------------------


def zeroed(*names: str) -> Callable[[Weights], Weights]:
    """The named weights, as zeros."""
    return lambda weights: weights | {n: 0 * weights[n] for n in names if n in weights}


def zeroed_everywhere(end: str) -> Callable[[Weights], Weights]:
    """Every weight whose name ends like this, as zeros."""
    return lambda weights: {n: 0 * w if n.endswith(end) else w for n, w in weights.items()}


def swapped(one: str, other: str) -> Callable[[Weights], Weights]:
    """Every weight below ``one`` in place of that below ``other``, and the other way round."""

    def swap(weights: Weights) -> Weights:
        found = dict(weights)
        for name in weights:
            if name.startswith(one):
                twin = other + name.removeprefix(one)
                found[name], found[twin] = weights[twin], weights[name]
        return found

    return swap


def transposed(name: str) -> Callable[[Weights], Weights]:
    """The named weight, transposed."""
    return lambda weights: weights | {name: weights[name].T}


def changed(name: str, change: Callable[[Array], Array]) -> Callable[[Weights], Weights]:
    """The named weight, changed."""
    return lambda weights: weights | ({name: change(weights[name])} if name in weights else {})


def blocks_from(order: Callable[[int, int], int]) -> Callable[[Weights], Weights]:
    """Block ``i`` of ``depth`` with the weights of block ``order(i, depth)``."""

    def reorder(weights: Weights) -> Weights:
        depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
        found = {}
        for name in weights:
            parts = name.split(".")
            if parts[0] == "blocks":
                parts[1] = str(order(int(parts[1]), depth))
            found[name] = weights[".".join(parts)]
        return found

    return reorder


# --- steps ---------------------------------------------------------------------------------


def at(tap: str, change: Callable[[Array, Array], Array]) -> Callable[[str, Array, Array], Array]:
    """``change(x, y)`` after the step that ends in ``tap``."""
    return lambda name, x, y: change(x, y) if name == tap else y


def only_at(path: str, kind: type[Any], wrong: Compute) -> dict[type[Any], Compute]:
    """The layer at one path computes wrongly, the others of its kind rightly."""
    right = COMPUTE[kind]

    def choose(layer: Any, weights: Any, x: Array, run: Any) -> Array:
        return (wrong if run.node.path == path else right)(layer, weights, x, run)

    return {kind: choose}


def ignored(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """A layer that is forgotten."""
    return x


def with_weights(kind: type[Any], change: Callable[[Weights], Weights]) -> dict[type[Any], Compute]:
    """A kind of layer that uses its own weights wrongly."""
    right = COMPUTE[kind]
    return {kind: lambda layer, weights, x, run: right(layer, change(dict(weights)), x, run)}


# --- arithmetic ----------------------------------------------------------------------------


class Rounded(Arithmetic):
    """Matrix products whose operands are rounded first."""

    def __init__(self, rounding: Callable[[Array, int], Array]) -> None:
        super().__init__(np.float32)
        self._rounding = rounding

    def matmul(self, left: Array, right: Array) -> Array:
        return super().matmul(self._rounding(left, -1), self._rounding(right, -2))


class Float16Sums(Arithmetic):
    """Products added up in float16."""

    def __init__(self) -> None:
        super().__init__(np.float32)

    def matmul(self, left: Array, right: Array) -> Array:
        total = np.zeros((*np.broadcast_shapes(left.shape[:-2], right.shape[:-2]), 1, 1))
        total = total.astype(np.float16)
        for i in range(left.shape[-1]):
            term = left[..., :, i : i + 1] * right[..., i : i + 1, :]
            total = (total + term.astype(np.float16)).astype(np.float16)
        return total.astype(np.float32)


class Truncated(Arithmetic):
    """Products whose last bit is cut off, always towards zero."""

    def __init__(self) -> None:
        super().__init__(np.float32)

    def matmul(self, left: Array, right: Array) -> Array:
        return truncated(super().matmul(left, right))


def truncated(x: Array) -> Array:
    """The last bit cut off."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return (bits & np.uint32(0xFFFFFFFE)).view(np.float32)


def rounded_at(*taps: str, by: Callable[[Array, int], Array]) -> Callable[[str], Arithmetic]:
    """Rounded operands in the named steps, or in all."""
    return lambda tap: Rounded(by) if not taps or tap in taps else Arithmetic(np.float32)


__all__ = [
    "Float16Sums",
    "Rounded",
    "Truncated",
    "at",
    "blocks_from",
    "changed",
    "edited",
    "ignored",
    "norm_behind",
    "only_at",
    "rounded_at",
    "swapped",
    "to_bfloat16",
    "to_float16",
    "to_int8",
    "to_tf32",
    "transposed",
    "truncated",
    "with_weights",
    "zeroed",
    "zeroed_everywhere",
]
