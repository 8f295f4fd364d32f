"""F03: every weight matters: a change of each by 1/64 must show, in the backend's own results.

And how small a change would have shown, which is what a run can find at best.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np

from mixer_conformance.findings import Finding, of_rule, of_taps
from mixer_conformance.problem import Problem
from mixer_spec.reference import forward

from .base import WIDE, Case, Trial, on_families

_LARGEST = 6
"""The power of two that a change is divided by: the largest one that is tried is 1/64."""

_SMALLEST = 60


def _margin(problem: Problem, taps: tuple[str, ...], name: str, power: int) -> float:
    """How far out of tolerance the oracle's own taps are with a weight times ``1 + 2**-power``."""
    weights = {name: problem.weights[name].astype(np.float64) * (1 + 2.0**-power)}
    oracle = forward(problem.spec, {**problem.weights, **weights}, problem.inputs, taps)
    return of_taps(problem.judge({tap: oracle[tap] for tap in taps})).margin


def _limit(problem: Problem, taps: tuple[str, ...], name: str) -> float:
    margin = _margin(problem, taps, name, _LARGEST)
    if margin <= 1:
        return math.inf
    # Small errors are proportional to the change, so that the first guess is nearly right.
    power = min(_SMALLEST, _LARGEST + int(math.log2(min(margin, 2.0**_SMALLEST))))
    while power < _SMALLEST and _margin(problem, taps, name, power + 1) > 1:
        power += 1
    while power > _LARGEST and _margin(problem, taps, name, power) <= 1:
        power -= 1
    return 2.0**-power


@functools.lru_cache(maxsize=256)
def detection_limits(problem: Problem, taps: tuple[str, ...]) -> Mapping[str, float]:
    """The smallest relative change of each weight that is out of tolerance, a power of two.

    It is that of a backend without any error of its own. Infinite where a change by 1/64 leaves
    no trace in these taps.

    Args:
        problem: the model, its weights and inputs.
        taps: what a backend shows.
    """
    return MappingProxyType({name: _limit(problem, taps, name) for name in problem.weights})


def _check(trial: Trial) -> Iterator[Finding]:
    problem, taps = trial.standard, trial.subject.taps(trial.spec)
    limits = detection_limits(problem, taps)
    yield Finding(0.0, _in_words(limits, taps), limits=limits)
    for name, array in problem.weights.items():
        if limits[name] == math.inf:
            continue
        changed = array * np.float32(1 + 2.0**-_LARGEST)
        found = trial.load({**problem.weights, name: changed}).forward(problem.inputs)
        seen = not of_taps(problem.judge(found)).passed
        yield of_rule(seen, f"a change of {name} by 1/64 must change the results", name)


def _in_words(limits: Mapping[str, float], taps: tuple[str, ...]) -> str:
    hidden = [name for name, limit in limits.items() if limit == math.inf]
    shown = {name: limit for name, limit in limits.items() if limit < math.inf}
    parts = []
    if shown:
        name = max(shown, key=shown.__getitem__)
        parts.append(f"a change by {shown[name]:.1e} is found in {name}, a smaller one in others")
    if hidden:
        parts.append(f"cannot be observed in the {taps[-1]} alone: {', '.join(hidden)}")
    return "; ".join(parts)


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
