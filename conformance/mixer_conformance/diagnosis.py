"""A name for a mistake: which of the known ones explains the errors of the first bad stage.

What went wrong is computed in float64 once more for each mistake of the catalogue: a stage from the
backend's own previous tap, or the gradients, or the steps of training. The share of the squared
error that a mistake explains is 1 less what is left of it when the mistake's result is taken for
right, each array in units of its tolerance; the best and its runner-up are told.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixer_spec.backend import Differentiable, Trainable
from mixer_spec.reference import FLOAT64, Arithmetic, run_step

from .cases.base import Trial
from .cases.extremes import telling_problems
from .cases.gradients import wrong_gradients
from .cases.training import wrong_steps
from .findings import of_taps
from .held import Evidence, Held
from .judge import Taps
from .measure import Array
from .mutants import MUTANTS, Mutant
from .mutants.mutant import same
from .mutants.trainer import Trainer
from .problem import Problem
from .result import Explanation
from .subject import ByFiles, Violation

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
        runner_up: the next one that says something else, if it explains anything.
        names: every mistake that explains as much as the best, which it cannot be told from here.
    """

    stage: str
    message: str
    tried: bool
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


def diagnose(trial: Trial, level: int = 2) -> Diagnosis | None:
    """Locate and name what is wrong with a backend on a model; ``None`` if nothing is seen.

    Conformance inputs are tried first, then those that make small mistakes large; where the taps
    are right, the gradients and then the steps of training, as far as the level looks at them.
    Of an engine without taps, wrong logits tell nothing.

    Args:
        trial: the backend and the model.
        level: the highest: 2 taps, 3 gradients, 4 optimiser.

    Raises:
        Violation: if the backend raises, hangs or breaks the protocol.
    """
    wrong = _wrong_tap(trial)
    if wrong and not trial.subject.sees_taps:
        return None
    if wrong is None and level >= 3 and isinstance(trial.loaded.model, Differentiable):
        wrong = wrong_gradients(trial)
    if wrong is None and level >= 4 and isinstance(trial.loaded.model, Trainable):
        wrong = wrong_steps(trial)
    return _named(wrong) if wrong else None


def is_nameable(backend: object) -> bool:
    """Whether a mistake is one of computing, which can be made again in float64."""
    return isinstance(backend, Trainer) or (isinstance(backend, Mutant) and backend.taps is same)


def _named(wrong: Evidence) -> Diagnosis:
    """The mistakes that explain what a backend gave."""
    tried = all(_comparable(wrong.found.get(n), held.oracle) for n, held in wrong.held.items())
    ranked = sorted(_hypotheses(wrong), key=lambda h: -h[0].explained) if tried else []
    fitting = tuple(hypothesis.name for hypothesis, fits in ranked if fits)
    best = ranked[0][0] if ranked else None
    told = Diagnosis(
        stage=wrong.stage, message=wrong.message, tried=tried, best=None, runner_up=None, names=()
    )
    if best is None or (not fitting and best.explained < _EXPLAINED):
        return told
    names = fitting or (best.name,)
    others = (h for h, _ in ranked if h.name not in names and h.explained > 0)
    return replace(told, best=best, runner_up=next(others, None), names=names)


def _hypotheses(wrong: Evidence) -> Iterator[tuple[Hypothesis, bool]]:
    """Every known mistake that can be made here, and whether it is within the tolerance."""
    right = {name: held.oracle for name, held in wrong.held.items()}
    error = _distance(wrong, right)
    if error == 0.0:  # only what came before is wrong
        return
    for known in MUTANTS.values():
        if not is_nameable(known.backend):
            continue
        made = _made(wrong.ask, known.backend)
        if not all(_comparable(made.get(n), held.oracle) for n, held in wrong.held.items()):
            continue
        left = _distance(wrong, made)
        fits = left < error and all(
            held.judgement(wrong.found[name], made[name]).passed
            for name, held in wrong.held.items()
        )
        yield Hypothesis(known.name, 1 - left / error), fits


def _made(ask: Callable[[Any], Mapping[str, Array]], backend: Any) -> Mapping[str, Array]:
    """What a mistake makes of what was asked; nothing where it cannot be made."""
    try:
        return ask(_in_float64(backend) if isinstance(backend, Trainer) else backend)
    except Exception:  # noqa: BLE001 - mistakes of other layers do not fit, in many ways
        return {}


@functools.cache
def _in_float64(trainer: Trainer) -> Trainer:
    """The same one each time, so that what it makes is made once for all suspects."""
    return replace(trainer, arithmetic=FLOAT64)


def _comparable(array: Array | None, oracle: Array) -> bool:
    fits = isinstance(array, np.ndarray) and array.shape == oracle.shape
    return fits and bool(np.isfinite(array).all())  # type: ignore[arg-type]


def _distance(wrong: Evidence, expected: Mapping[str, Array]) -> float:
    """The squared errors of what was found, each array in units of its tolerance."""
    return sum(
        float(np.sum(np.square((wrong.found[name] - expected[name]) / held.scale)))
        for name, held in wrong.held.items()
    )


# --- a tap --------------------------------------------------------------------------------------


def _wrong_tap(trial: Trial) -> Evidence | None:
    """The first bad stage, from the backend's own previous tap; ``None`` where every one is right."""
    for problem in telling_problems(trial):
        try:
            taps = trial.load(problem.weights).forward(problem.inputs)
        except Violation:
            if problem is trial.standard or not isinstance(trial.subject.backend, ByFiles):
                raise
            continue  # no case asked for it
        found = of_taps(problem.judge(taps))
        if not found.passed and found.culprit is not None:
            return _of_stage(problem, taps, found.culprit, found.message)
    return None


def _of_stage(problem: Problem, taps: Taps, stage: str, message: str) -> Evidence:
    standard = next(s for s in problem.standards if s.step.tap == stage)
    tables = _tables_before(problem, taps, stage)
    right = (
        standard.oracle if tables is None else run_step(standard.step, problem.weights, tables[-1])
    )

    def ask(backend: Any) -> dict[str, Array]:
        if not isinstance(backend, Mutant) or tables is None:
            return {}
        return {stage: _mistaken(backend, problem, stage, tables)}

    held = {stage: Held(right, standard.local)}
    found = {stage: taps[stage]}
    return Evidence(stage=stage, message=message, found=found, held=held, ask=ask)


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


def _mistaken(mutant: Mutant, problem: Problem, tap: str, tables: Sequence[Array]) -> Array:
    """What the mistake makes of the stage."""
    arithmetic = mutant.arithmetic(tap)
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
