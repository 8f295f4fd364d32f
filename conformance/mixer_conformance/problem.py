"""A model with weights and inputs, and the standards that every backend's run of it is held to."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mixer_spec import ModelSpec
from mixer_spec.weights import Weights

from .judge import Standard, TapJudgement, Taps, judge, standards
from .measure import Array
from .precision import Precision
from .tolerance import carried_runs, default_batch, yardstick_runs
from .weights import conformance_inputs, conformance_weights

_SMALL = 5_000_000
"""Multiply-adds of one input, below which a model is run with three inputs and remembered."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """What a backend is given.

    Args:
        spec: the architecture.
        weights: canonical name to array.
        inputs: with a batch axis in front.
        precision: the arithmetic that is claimed.
    """

    spec: ModelSpec
    weights: Weights
    inputs: Array
    precision: Precision

    @functools.cached_property
    def standards(self) -> Sequence[Standard]:
        """Oracle and tolerances of every tap."""
        return tuple(
            standards(
                *(self.spec, self.weights, self.inputs, self.precision),
                yardsticks=yardstick_runs(self.spec),
                carried=carried_runs(self.spec),
            )
        )

    @functools.cached_property
    def oracle(self) -> dict[str, Array]:
        """Every tap in float64."""
        return {standard.step.tap: standard.oracle for standard in self.standards}

    def judge(self, taps: Taps) -> list[TapJudgement]:
        """What a backend returned, held against the standards."""
        return judge(self.weights, self.inputs, [taps], self.standards)[0]

    def changed(self, *, weights: Weights | None = None, inputs: Array | None = None) -> Problem:
        """The same with other weights, some or all of them, or with other inputs.

        Args:
            weights: those that change.
            inputs: instead of the old ones; they keep their dtype.
        """
        return replace(
            self,
            weights={**self.weights, **(weights or {})},
            inputs=self.inputs if inputs is None else inputs,
        )


def conformance_problem(spec: ModelSpec, precision: Precision, *, seed: int) -> Problem:
    """Conformance weights and inputs: three for a small model, two or one for a large one."""
    batch = 3 if spec.multiply_adds < _SMALL else default_batch(spec)
    inputs = conformance_inputs(spec, batch, seed)
    if np.issubdtype(inputs.dtype, np.floating):
        inputs = inputs.astype(precision.dtype)
    return Problem(
        spec=spec, weights=conformance_weights(spec, seed), inputs=inputs, precision=precision
    )


_MADE: OrderedDict[tuple[ModelSpec, str, int, str], Problem] = OrderedDict()
_MOST = 1024


def remembered(
    spec: ModelSpec, precision: Precision, seed: int, label: str, make: Callable[[], Problem]
) -> Problem:
    """The problem called ``label``; a small one is made once and then serves every backend."""
    if spec.multiply_adds >= _SMALL:
        return make()
    key = (spec, precision.profile, seed, label)
    if key not in _MADE:
        _MADE[key] = make()
        while len(_MADE) > _MOST:
            _MADE.popitem(last=False)
    return _MADE[key]
