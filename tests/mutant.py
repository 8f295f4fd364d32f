"""A wrong implementation for `verify` to find: the float32 reference with one mistake."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from mixer_conformance import BackendReport, verify
from mixer_spec import BackendInfo, ModelSpec
from mixer_spec.reference import Arithmetic, run_step
from mixer_spec.reference.layers import COMPUTE

Array = np.ndarray[Any, Any]
Weights = dict[str, Array]


def same(value: Any) -> Any:
    return value


def no_change(tap: str, x: Array, y: Array) -> Array:
    return y


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """The float32 reference with a mistake; the defaults make none.

    ``compute`` replaces what layer kinds do; ``after`` sees each step's tap, input and output and
    says what leaves it; ``taps`` changes what is returned, and not what is computed.
    """

    spec: Callable[[ModelSpec], ModelSpec] = same
    weights: Callable[[Weights], Weights] = same
    inputs: Callable[[Array], Array] = same
    compute: Mapping[type[Any], Callable[..., Array]] = dataclasses.field(default_factory=dict)
    arithmetic: Callable[[str], Arithmetic] = lambda tap: Arithmetic(np.float32)
    after: Callable[[str, Array, Array], Array] = no_change
    taps: Callable[[Weights], Weights] = same
    exported: Callable[[Weights], Weights] = same
    sees_taps: bool = True

    def info(self) -> BackendInfo:
        return BackendInfo(
            name="mutant",
            versions={},
            device="cpu",
            profiles=("f32-strict",),
            taps=self.sees_taps,
        )

    def load(self, spec: ModelSpec, weights: Weights, *, profile: str) -> Loaded:
        return Loaded(self, self.spec(spec), weights)


@dataclass(frozen=True)
class Loaded:
    mutant: Mutant
    spec: ModelSpec
    held: Weights

    def forward(self, inputs: Array, taps: Sequence[str] = ()) -> Weights:
        mutant = self.mutant
        weights, x = mutant.weights(dict(self.held)), mutant.inputs(inputs)
        found = {}
        # The oracle runs the same functions: they are replaced during this call only.
        with mock.patch.dict(COMPUTE, mutant.compute), np.errstate(all="ignore"):
            for step in self.spec.steps:
                y = run_step(step, weights, x, mutant.arithmetic(step.tap))
                x = mutant.after(step.tap, x, y)
                found[step.tap] = x
        found = mutant.taps(found)
        return {name: found[name] for name in (*taps, "logits") if name in found}

    def export_weights(self) -> Weights:
        return self.mutant.exported(dict(self.held))


def run(mutant: Mutant, spec: ModelSpec, seed: int = 0) -> BackendReport:
    return verify(spec, [mutant], seed=seed, batch=3).backends[0]


# --- mistakes that fit any model ----------------------------------------------------------------


def edited(old: str, new: str) -> Callable[[ModelSpec], ModelSpec]:
    """A spec that is read wrongly."""

    def edit(spec: ModelSpec) -> ModelSpec:
        text = spec.to_json()
        assert old in text
        return ModelSpec.from_json(text.replace(old, new))

    return edit


def zeroed(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: 0 * weights[name] for name in names}


def swapped(one: str, other: str) -> Callable[[Weights], Weights]:
    """Every weight below ``one`` in place of that below ``other``, and the other way round."""

    def swap(weights: Weights) -> Weights:
        found = dict(weights)
        for name in weights:
            if name.startswith(one):
                twin = other + name.removeprefix(one)
                found[name], found[twin] = weights[twin], weights[name]
        assert found.keys() == weights.keys()
        return found

    return swap


def transposed(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: weights[name].T}


def at(tap: str, change: Callable[[Array, Array], Array]) -> Callable[[str, Array, Array], Array]:
    """``change(x, y)`` after the step that ends in ``tap``."""
    return lambda name, x, y: change(x, y) if name == tap else y


def ignored(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return x
