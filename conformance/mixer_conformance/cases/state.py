"""F20, F23 and F24: what a model remembers: nothing. Models in turn, together, in threads, again."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from mixer_conformance.findings import Finding, of_bits, of_rule, of_taps
from mixer_conformance.measure import Array, deviation
from mixer_conformance.problem import conformance_problem
from mixer_conformance.tolerance import Judgement
from mixer_conformance.weights import conformance_inputs, conformance_weights
from mixer_spec import ModelSpec

from .base import EVERY, FLOATING, Case, Trial, on, on_families

# --- F20 ---------------------------------------------------------------------------------------


def _evaluation(trial: Trial) -> Iterator[Finding]:
    alike = trial.problem("alike", lambda p: p.changed(inputs=np.concatenate([p.inputs[:1]] * 3)))
    found = trial.loaded.forward(alike.inputs)
    yield of_taps(alike.judge(found))
    # A product may add up the rows of a batch in other orders, so that bits may differ.
    for standard in alike.standards:
        if (table := found.get(standard.step.tap)) is not None:
            first = np.repeat(table[:1], 2, axis=0).astype(np.float64)
            moved = Judgement(deviation(table[1:], first), standard.end_to_end).margin / 2
            message = f"{standard.step.tap}: the same input thrice: {moved:.2g} of the tolerance"
            yield Finding(moved, message, standard.step.tap)


F20 = Case(
    id="F20",
    title="The same input three times in one batch: the same taps three times",
    catches="dropout or stochastic depth when a model is only run, a norm over the batch",
    level=1,
    suits=on_families,
    check=_evaluation,
    profiles=EVERY,
    quick=("mixer", "vit"),
)


# --- F23 ---------------------------------------------------------------------------------------


def _state(trial: Trial) -> Iterator[Finding]:
    problem = trial.standard
    inputs, seed = problem.inputs, trial.seed
    one = trial.loaded
    first = one.logits(inputs).copy()
    others = conformance_inputs(trial.spec, len(inputs), seed + 1).astype(inputs.dtype)
    one.logits(others)
    yield of_bits(one.logits(inputs), first, "the same inputs after others", "inputs")

    reloaded = trial.problem(
        "other weights",
        lambda p: p.changed(weights=conformance_weights(trial.spec, seed + 1)),
    )
    two = trial.load(reloaded.weights)
    yield of_taps(reloaded.judge(two.forward(inputs)))
    second = two.logits(inputs).copy()
    yield of_bits(one.logits(inputs), first, "the first model beside a second", "weights")
    yield of_bits(two.logits(inputs), second, "the second model after the first", "weights")
    yield from _callers_arrays(trial)
    for twin in _twins(trial.spec):
        other = conformance_problem(twin, problem.precision, seed=seed)
        yield of_taps(other.judge(trial.load(other.weights, twin).forward(other.inputs)))
    yield from _threads(trial, first)


def _callers_arrays(trial: Trial) -> Iterator[Finding]:
    """The caller's weights, overwritten after they were loaded."""
    problem = trial.standard
    mine = {name: array.copy() for name, array in problem.weights.items()}
    model = trial.subject.load(trial.spec, mine, writable=True)
    model.logits(problem.inputs)
    untouched = all(np.array_equal(mine[name], problem.weights[name]) for name in mine)
    yield of_rule(untouched, "load and forward must not write into the caller's weights", "weights")


def _twins(spec: ModelSpec) -> Iterator[ModelSpec]:
    """Specs whose every shape is that of ``spec`` and whose numbers are others."""
    text = spec.to_json()
    for old, new in (
        ('"approximation":"tanh"', '"approximation":"none"'),
        ('"epsilon":1e-06', '"epsilon":0.5'),
    ):
        if old in text:
            yield ModelSpec.from_json(text.replace(old, new))


def _threads(trial: Trial, expected: Array) -> Iterator[Finding]:
    answers: list[Array | Exception] = []

    def work() -> None:
        try:
            answers.append(trial.loaded.logits(trial.standard.inputs))
        except Exception as error:  # noqa: BLE001 - shown as a finding below
            answers.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer in answers:
        if isinstance(answer, Exception):
            yield of_rule(False, f"forward from four threads at once: {answer}", "threads")
        else:
            yield of_bits(answer, expected, "forward from four threads at once", "threads")


F23 = Case(
    id="F23",
    title="Inputs and models in turn, two models at once, specs of equal shapes, four threads",
    catches="weights kept from an earlier load, a cache keyed by shapes alone, global state",
    level=1,
    suits=on("mixer", "vit", "gmlp", "resmlp"),
    check=_state,
    profiles=FLOATING,
    quick=("mixer",),
    in_process="calls in turn and threads need a backend that stays",
)


# --- F24 ---------------------------------------------------------------------------------------


def _again(trial: Trial) -> Iterator[Finding]:
    times = 3 if trial.effort == "quick" else 10
    fresh, inputs = trial.load(trial.standard.weights), trial.standard.inputs
    first = {tap: x.copy() for tap, x in fresh.forward(inputs).items()}
    for _ in range(times):
        for tap, table in fresh.forward(inputs).items():
            yield of_bits(table, first[tap], f"{tap}, computed again", tap)


F24 = Case(
    id="F24",
    title="The same input again and again: the same bits",
    catches="races, sums in a random order, memory that was never written, dropout",
    level=1,
    suits=lambda model, spec: model.group in ("Z1", "Z3", "Z4"),
    check=_again,
    profiles=EVERY,
    quick=("mixer", "gmlp"),
    in_process="a request is answered once",
)
