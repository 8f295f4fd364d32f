"""The judging pass: one float64 walk over the steps, with every run's tables side by side.

At each step the oracle's table, the yardstick runs' and every backend's previous tap are stacked
along the batch and sent through the float64 step together, so that each weight is cast once. A
run is then compared twice: with what float64 makes of its own previous tap (local: only this step
can be at fault) and with the oracle (end to end).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mixer_spec import ModelSpec
from mixer_spec.graph import Step
from mixer_spec.reference import FLOAT64, Shuffled, run_step
from mixer_spec.weights import Weights

from .floors import root_sum_square, step_floor
from .measure import Array, deviation
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


def judge(
    spec: ModelSpec,
    weights: Weights,
    inputs: Array,
    runs: Sequence[Taps],
    yardsticks: Sequence[Shuffled],
    progress: Callable[[str], None],
) -> list[list[TapJudgement]]:
    """Judge every run at every tap.

    Args:
        spec: the architecture.
        weights: what every run was given.
        inputs: ``[batch, height, width, rgb]``, or sequences; likewise.
        runs: what each returned.
        yardsticks: the float32 arithmetics whose noise is the tolerance; at least one.
        progress: is told each step's tap.

    Returns:
        For each run, its taps in order.
    """
    oracle: Array = FLOAT64.cast(inputs)
    noisy: list[Array] = [inputs] * len(yardsticks)
    previous: list[Array | None] = [inputs] * len(runs)
    floor = 0.0
    found: list[list[TapJudgement]] = [[] for _ in runs]
    for step in spec.steps:
        progress(step.tap)
        anchored = [table for table in (*noisy, *previous) if table is not None]
        # A backend's infinities travel on; they are judged, not warned of.
        with np.errstate(all="ignore"):
            exact, local_floor = _float64_step(step, weights, [oracle, *anchored])
        oracle = next(exact)
        noisy = [
            run_step(step, weights, x, shuffled)
            for x, shuffled in zip(noisy, yardsticks, strict=True)
        ]
        local_noise = worst([deviation(x, next(exact)) for x in noisy])
        total_noise = worst([deviation(x, oracle) for x in noisy])
        floor = root_sum_square(floor, local_floor)
        values = oracle[0].size
        local = Tolerance(local_noise, local_floor, values)
        end_to_end = Tolerance(total_noise, floor, values)

        for taps, before, judged in zip(runs, previous, found, strict=True):
            table = taps.get(step.tap)
            expected = None if before is None else next(exact)
            judged.append(
                TapJudgement(
                    step.tap,
                    _judgement(table, expected, local),
                    _judgement(table, oracle, end_to_end),
                )
            )
        previous = [taps.get(step.tap) for taps in runs]
    return found


def _judgement(
    found: Array | None, expected: Array | None, tolerance: Tolerance
) -> Judgement | None:
    if found is None or expected is None:
        return None
    return Judgement(deviation(found, expected), tolerance)


def _float64_step(
    step: Step, weights: Weights, tables: Sequence[Array]
) -> tuple[Iterator[Array], float]:
    """What float64 makes of each table, in order, and the floor of the first's, the oracle's."""
    batch = len(tables[0])
    x = np.concatenate([FLOAT64.cast(table) for table in tables])
    floor = 0.0
    for node in step.nodes:
        y = run_step(Step(step.tap, (node,)), weights, x)
        floor = root_sum_square(floor, step_floor(node, x[:batch], y[:batch]))
        x = y
    return iter(np.split(x, len(tables))), floor
