"""The judging pass: the standards of every tap, and every run held against them.

The standards are one walk over the steps in float64 beside the noisy runs that make the tolerance.
A run is then compared twice at each tap: with what float64 makes of its own previous tap (local:
only this step can be at fault) and with the oracle (end to end). Tables that pass a float64 step
are stacked along the batch, so that each weight is cast once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mixer_spec import ModelSpec
from mixer_spec.graph import Step
from mixer_spec.reference import FLOAT64, run_step
from mixer_spec.weights import Weights

from .carried import Carried
from .floors import root_sum_square, step_floor
from .measure import Array, deviation
from .precision import STRICT, Precision
from .tolerance import Judgement, Tolerance, worst

Taps = Mapping[str, Array]
"""What a backend returned: name to array; a tap that could not be used is absent."""


@dataclass(frozen=True, slots=True)
class TapJudgement:
    """One run's result at one tap.

    Args:
        tap: the name.
        local: against float64 from the run's own previous tap; ``None`` where it has none.
        end_to_end: against the oracle from the inputs on; ``None`` where the tap is absent.
    """

    tap: str
    local: Judgement | None
    end_to_end: Judgement | None

    @property
    def judgements(self) -> tuple[Judgement, ...]:
        """Those that exist."""
        return tuple(j for j in (self.local, self.end_to_end) if j is not None)

    @property
    def passed(self) -> bool:
        """Whether nothing here is out of tolerance; an absent tap breaks another rule."""
        return all(judgement.passed for judgement in self.judgements)


@dataclass(frozen=True, slots=True)
class Standard:
    """What a run is held against at one tap.

    Args:
        step: the layers that lead to the tap.
        oracle: the tap in float64, from the inputs on.
        local: the tolerance of this step alone.
        end_to_end: the tolerance of all steps up to this one.
    """

    step: Step
    oracle: Array
    local: Tolerance
    end_to_end: Tolerance


def standards(
    spec: ModelSpec,
    weights: Weights,
    inputs: Array,
    precision: Precision = STRICT,
    *,
    yardsticks: int,
    carried: int,
    progress: Callable[[str], None] = lambda tap: None,
) -> Iterator[Standard]:
    """Walk the steps in float64 beside the noisy runs that make the tolerance.

    Args:
        spec: the architecture.
        weights: what every run is given.
        inputs: ``[batch, height, width, rgb]``, or sequences; likewise.
        precision: the arithmetic that a run claims.
        yardsticks: how many noisy runs; at least one.
        carried: how many runs tell how errors grow.
        progress: is told each step's tap.
    """
    noisy = [(inputs, precision.shuffled(number)) for number in range(yardsticks)]
    oracle: Array = FLOAT64.cast(inputs)
    errors = Carried(inputs, carried)
    for step in spec.steps:
        progress(step.tap)
        # A model's infinities travel on; they are judged, not warned of.
        with np.errstate(all="ignore"):
            before = [oracle, *errors.tables, *(x for x, _ in noisy)]
            exact, local_floor = float64_step(step, weights, before)
            noisy = [
                (precision.store(run_step(step, weights, x, arithmetic)), arithmetic)
                for x, arithmetic in noisy
            ]
            oracle = next(exact)
            local_floor = precision.floor(local_floor)
            floor = errors.floor([next(exact) for _ in errors.tables], oracle, local_floor)
        local_noise = worst([deviation(x, next(exact)) for x, _ in noisy])
        total_noise = worst([deviation(x, oracle) for x, _ in noisy])
        values = oracle[0].size
        yield Standard(
            step,
            oracle,
            Tolerance(local_noise, local_floor, values),
            Tolerance(total_noise, floor, values),
        )


def judge(
    weights: Weights, inputs: Array, runs: Sequence[Taps], standards: Iterable[Standard]
) -> list[list[TapJudgement]]:
    """Judge every run at every tap.

    Args:
        weights: what every run was given.
        inputs: likewise.
        runs: what each returned.
        standards: from :func:`standards`, of the same weights and inputs.

    Returns:
        For each run, its taps in order.
    """
    previous: list[Array | None] = [inputs] * len(runs)
    found: list[list[TapJudgement]] = [[] for _ in runs]
    for standard in standards:
        tap = standard.step.tap
        seen = [table for table in previous if table is not None]
        with np.errstate(all="ignore"):
            exact = iter(float64_step(standard.step, weights, seen)[0] if seen else ())
        for taps, before, judged in zip(runs, previous, found, strict=True):
            table = taps.get(tap)
            expected = None if before is None else next(exact)
            judged.append(
                TapJudgement(
                    tap,
                    _judgement(table, expected, standard.local),
                    _judgement(table, standard.oracle, standard.end_to_end),
                )
            )
        previous = [taps.get(tap) for taps in runs]
    return found


def _judgement(
    found: Array | None, expected: Array | None, tolerance: Tolerance
) -> Judgement | None:
    if found is None or expected is None:
        return None
    return Judgement(deviation(found, expected), tolerance)


def float64_step(
    step: Step, weights: Weights, tables: Sequence[Array]
) -> tuple[Iterator[Array], float]:
    """What float64 makes of each table, in order, and the floor of the first's, the oracle's."""
    batch = len(tables[0])
    x = np.concatenate([FLOAT64.cast(table) for table in tables])
    floor = 0.0
    for node in step.nodes:
        y = run_step(Step(step.tap, (node,)), weights, x)
        floor = root_sum_square(floor, step_floor(node, weights, x[:batch], y[:batch]))
        x = y
    return iter(np.split(x, len(tables))), floor
