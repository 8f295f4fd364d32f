"""F03: every weight matters: a change of each by 1/64 must show, in the backend's own results."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from mixer_conformance.findings import Finding, of_rule, of_taps
from mixer_conformance.measure import Array
from mixer_conformance.problem import Problem
from mixer_spec.reference import forward

from .base import WIDE, Case, Trial, on_families

_CHANGE = np.float32(1 + 2.0**-6)


def _visible(problem: Problem, taps: tuple[str, ...], changed: dict[str, Array]) -> bool:
    """Whether the oracle's own taps would be out of tolerance with the changed weights."""
    oracle = forward(problem.spec, {**problem.weights, **changed}, problem.inputs, taps)
    return not of_taps(problem.judge({tap: oracle[tap] for tap in taps})).passed


@functools.lru_cache(maxsize=256)
def hidden_weights(problem: Problem, taps: tuple[str, ...]) -> tuple[str, ...]:
    """The weights that could be wrong by 1/64 without a trace in these taps.

    Args:
        problem: the model, its weights and inputs.
        taps: what a backend shows.
    """
    return tuple(
        name
        for name, array in problem.weights.items()
        if not _visible(problem, taps, {name: array * _CHANGE})
    )


def _check(trial: Trial) -> Iterator[Finding]:
    problem, taps = trial.standard, trial.subject.taps(trial.spec)
    hidden = hidden_weights(problem, taps)
    for name, array in problem.weights.items():
        if name in hidden:
            continue
        found = trial.load({**problem.weights, name: array * _CHANGE}).forward(problem.inputs)
        seen = not of_taps(problem.judge(found)).passed
        yield of_rule(seen, f"a change of {name} by 1/64 must change the results", name)
    if hidden:
        yield Finding(0.0, f"cannot be observed in the {taps[-1]} alone: {', '.join(hidden)}")


F03 = Case(
    id="F03",
    title="Each weight changed by 1/64 must show",
    catches="a weight that is never used, or replaced; and what this run cannot observe",
    level=1,
    suits=on_families,
    check=_check,
    profiles=WIDE,
    quick=("mixer",),
)
