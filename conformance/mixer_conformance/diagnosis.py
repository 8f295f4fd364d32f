"""A name for a mistake: which of the known ones explains the errors of the first bad stage.

The stage is computed in float64 from the backend's own previous tap once more for each mistake of
the catalogue. The share of the squared error that a mistake explains is 1 less what is left of it
when the mistake's result is taken for right; the best and its runner-up are told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mixer_spec.reference import FLOAT64, Arithmetic, run_step

from .cases.base import Trial
from .cases.extremes import telling_problems
from .findings import of_taps
from .judge import Standard, Taps
from .measure import Array, deviation
from .mutants import MUTANTS, Mutant
from .mutants.mutant import same
from .problem import Problem
from .result import Explanation
from .tolerance import Judgement

_EXPLAINED = 0.9
"""The least share of the squared error that a hypothesis must explain to be named."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One known mistake.

    Args:
        name: of the mistake.
        explained: the share of the squared error that it explains, at most 1.
    """

    name: str
    explained: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What is wrong with a backend, as far as the catalogue knows.

    Args:
        stage: the first bad stage.
        margin: how far outside of its tolerance it is.
        best: the mistake that explains most.
        runner_up: the next one that says something else.
        names: every mistake that explains as much as the best, which it cannot be told from here.
    """

    stage: str
    margin: float
    best: Hypothesis | None
    runner_up: Hypothesis | None
    names: tuple[str, ...]

    @property
    def explanation(self) -> Explanation:
        """The diagnosis as it stands in a result."""
        return Explanation(
            stage=self.stage,
            mistake=self.best.name if self.best else None,
            explained=max(self.best.explained, 0.0) if self.best else None,
            sentence=str(self),
        )

    def __str__(self) -> str:
        if self.best is None:
            return f"{self.stage}: no known mistake explains the error"
        next_best = (
            f"; next best: {self.runner_up.name}, {_percent(self.runner_up.explained)}"
            if self.runner_up
            else ""
        )
        also = f" (or {', '.join(self.names[1:4])})" if len(self.names) > 1 else ""
        return (
            f"{self.stage}: {self.best.name}{also} explains "
            f"{_percent(self.best.explained)} of the error{next_best}"
        )


def _percent(share: float) -> str:
    return f"{100 * max(share, 0.0):.6g} %"


def diagnose(trial: Trial) -> Diagnosis | None:
    """Locate and name what is wrong with a backend on a model; ``None`` if nothing is, or no taps.

    Conformance inputs are tried first, then those that make small mistakes large.

    Raises:
        Violation: if the backend raises, hangs or breaks the protocol.
    """
    for problem in telling_problems(trial):
        taps = trial.load(problem.weights).forward(problem.inputs)
        found = of_taps(problem.judge(taps))
        if found.passed or found.culprit is None:
            continue
        if not np.isfinite(taps[found.culprit]).all():
            return None
        return _named(problem, taps, found.culprit, found.margin)
    return None


def is_nameable(backend: object) -> bool:
    """Whether a mistake is one of computing, which can be made again in float64."""
    return isinstance(backend, Mutant) and backend.taps is same


def _named(problem: Problem, taps: Taps, stage: str, margin: float) -> Diagnosis:
    standard = next(s for s in problem.standards if s.step.tap == stage)
    tables = _tables_before(problem, taps, stage)
    if tables is None:
        return Diagnosis(stage=stage, margin=margin, best=None, runner_up=None, names=())
    right = run_step(standard.step, problem.weights, tables[-1])
    ranked = sorted(
        _hypotheses(problem, standard, tables, taps[stage], right), key=lambda h: -h[0].explained
    )
    fitting = tuple(hypothesis.name for hypothesis, fits in ranked if fits)
    best = ranked[0][0] if ranked else None
    if best is None or (not fitting and best.explained < _EXPLAINED):
        return Diagnosis(stage=stage, margin=margin, best=None, runner_up=None, names=())
    names = fitting or (best.name,)
    others = (hypothesis for hypothesis, _ in ranked if hypothesis.name not in names)
    return Diagnosis(
        stage=stage, margin=margin, best=best, runner_up=next(others, None), names=names
    )


def _tables_before(problem: Problem, taps: Taps, stage: str) -> list[Array] | None:
    """The inputs and the backend's own taps up to the stage, or ``None`` where one is missing."""
    tables = [problem.inputs]
    for step in problem.spec.steps:
        if step.tap == stage:
            return tables
        if step.tap not in taps:
            return None
        tables.append(taps[step.tap])
    return None


def _hypotheses(
    problem: Problem, standard: Standard, tables: Sequence[Array], found: Array, right: Array
) -> Iterator[tuple[Hypothesis, bool]]:
    """Every known mistake that can be made here, and whether it is within the tolerance."""
    error = float(np.sum(np.square(found - right)))
    for known in MUTANTS.values():
        if not is_nameable(known.backend):
            continue
        wrong = _mistaken(known.backend, problem, standard.step.tap, tables)
        if wrong is None or wrong.shape != found.shape or not np.isfinite(wrong).all():
            continue
        left = float(np.sum(np.square(found - wrong)))
        fits = Judgement(deviation(found, wrong), standard.local).passed
        yield Hypothesis(known.name, 1 - left / error), fits and left < error


def _mistaken(mutant: Mutant, problem: Problem, tap: str, tables: Sequence[Array]) -> Array | None:
    """What the mistake makes of the stage; ``None`` where it cannot be made."""
    arithmetic = mutant.arithmetic(tap)
    try:
        inputs = mutant.images(problem.inputs) if len(tables) == 1 else tables[0]
        y = mutant.step(
            mutant.spec(problem.spec),
            tap,
            mutant.weights(dict(problem.weights)),
            mutant.entering(tap, [inputs, *tables[1:]]),
            # A mistake in the rounding is made in float32, every other one is fitted in float64.
            FLOAT64 if type(arithmetic) is Arithmetic else arithmetic,
        )
        return np.asarray(y, np.float64)
    except Exception:  # noqa: BLE001 - mistakes of other layers do not fit, in many ways
        return None
