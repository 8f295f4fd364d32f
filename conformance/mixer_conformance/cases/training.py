"""F19: steps of training against float64: the loss, what optimisers remember, and the weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mixer_conformance.findings import Finding, of_bits, of_rule
from mixer_conformance.held import Evidence, Held
from mixer_conformance.measure import Array, rms
from mixer_conformance.problem import Problem
from mixer_conformance.subject import Violation, unchanged
from mixer_conformance.weights import conformance_inputs
from mixer_spec import Backend, ModelSpec
from mixer_spec.backend import Trainable
from mixer_spec.reference import train_step
from mixer_spec.training import (
    AdamW,
    CrossEntropy,
    Momentum,
    Optimiser,
    Sgd,
    TrainState,
    initial_state,
)

from .base import Case, Trial
from .gradients import YARDSTICKS, floor_of
from .zoo import ZooModel

OPTIMISERS: Mapping[str, tuple[Optimiser, int]] = {
    "sgd": (Sgd(learning_rate=2.0**-3), 1),
    "momentum": (Momentum(learning_rate=2.0**-4, decay=0.9, form="classical"), 3),
    "nesterov": (Momentum(learning_rate=2.0**-4, decay=0.9, form="nesterov"), 3),
    "adamw": (
        AdamW(
            learning_rate=2.0**-7,
            beta1=0.9,
            beta2=0.999,
            # Large, since Adam divides the noise of gradients that are nothing by it.
            epsilon=1e-3,
            weight_decay=2.0**-4,
            decayed=("kernel",),
        ),
        3,
    ),
}
"""The optimisers, and how many steps of each are compared."""

_SMOOTHING = 0.125

_SMALLEST = 1e-3
"""The least part of all gradients' size that one is measured in, so that nothing is divided by nothing.
Of no account otherwise: the floor grows as the unit shrinks, and with it the same error is allowed."""

Step = tuple[float, TrainState]
"""The loss before a step, and the state after it."""


def _batches(problem: Problem, steps: int, seed: int) -> list[tuple[Array, Array]]:
    """Another batch for each step, of three inputs and their labels."""
    many = conformance_inputs(problem.spec, 3 * steps, seed).astype(problem.inputs.dtype)
    labels = np.arange(3 * steps) * 5 % problem.spec.classes
    return [(many[3 * i : 3 * i + 3], labels[3 * i : 3 * i + 3]) for i in range(steps)]


def _trained(problem: Problem, name: str, seed: int, run: Callable[..., Step]) -> list[Step]:
    """Each step of ``run(state, inputs, labels, loss=, optimiser=)``."""
    optimiser, steps = OPTIMISERS[name]
    weights = {n: w.astype(problem.precision.dtype) for n, w in problem.weights.items()}
    state, found = initial_state(optimiser, weights), []
    loss = CrossEntropy(label_smoothing=_SMOOTHING)
    for inputs, labels in _batches(problem, steps, seed):
        value, state = run(state, inputs, labels, loss=loss, optimiser=optimiser)
        found.append((value, state))
    return found


def _by_name(step: Step) -> dict[str, Array]:
    """The loss, every slot and every weight."""
    value, state = step
    return {"loss": np.array([float(value)]), **_arrays(state)}


def _arrays(state: TrainState) -> dict[str, Array]:
    slots = {f"{slot} {n}": a for slot, arrays in state.slots.items() for n, a in arrays.items()}
    return {**slots, **state.weights}


@functools.lru_cache(maxsize=64)
def _held(problem: Problem, name: str, seed: int) -> list[dict[str, Held]]:
    """What each step of an optimiser must give, by name."""
    given = functools.partial(_trained, problem, name, seed)
    exact = given(functools.partial(train_step, problem.spec))
    noisy = [
        given(functools.partial(train_step, problem.spec, arithmetic=problem.precision.shuffled(s)))
        for s in range(YARDSTICKS)
    ]
    floors, found = _Floors(problem, name), []
    for right, *runs in zip(exact, *noisy, strict=True):
        others = [_by_name(run) for run in runs]
        found.append(
            {
                what: Held.among(array, [other[what] for other in others], unit, floor)
                for what, array, unit, floor in floors.of(right)
            }
        )
    return found


class _Floors:
    """What rounding may do to a training state at least.

    Args:
        problem: whose backward pass it starts from.
        name: of the optimiser.
    """

    def __init__(self, problem: Problem, name: str) -> None:
        self._optimiser = OPTIMISERS[name][0]
        self._unit = problem.precision.unit
        self._gradient = floor_of(problem)
        self._moved: dict[str, float] = {}  # by all steps so far, for each weight

    def of(self, step: Step) -> Iterator[tuple[str, Array, float, float]]:
        """Of one step after the other: each array's name, itself, its unit and its floor."""
        value, state = step
        yield "loss", np.array([value]), abs(value), self._gradient
        sizes = {
            slot: math.sqrt(np.mean([rms(array) ** 2 for array in arrays.values()]))
            for slot, arrays in state.slots.items()
        }
        for slot, arrays in state.slots.items():
            for name, array in arrays.items():
                unit = max(rms(array), _SMALLEST * sizes[slot])
                yield f"{slot} {name}", array, unit, self._slot(slot, sizes[slot] / unit)
        size = next(iter(sizes.values()), 0.0)
        for name, array in state.weights.items():
            yield name, array, rms(array), self._weight(state, name, size)

    def _slot(self, slot: str, others: float) -> float:
        """Of what is remembered; a square has twice the error.

        Args:
            slot: which one.
            others: the size of all gradients over that of this one, whose noise it shares.
        """
        return self._gradient * math.hypot(1.0, others) * (2 if slot == "second_moment" else 1)

    def _weight(self, state: TrainState, name: str, size: float) -> float:
        """The gradient's floor through the update, in units of the weight.

        Adam divides by the gradient's own size: where that is far below epsilon, an error of the
        gradient moves the weight by the learning rate / epsilon as much.
        """
        optimiser, slope = self._optimiser, 1.0
        if isinstance(optimiser, AdamW):
            size /= 1 - optimiser.beta1**state.step
            second = state.slots["second_moment"][name] / (1 - optimiser.beta2**state.step)
            slope = rms(optimiser.epsilon / (np.sqrt(second) + optimiser.epsilon) ** 2)
        moved = optimiser.learning_rate * slope * self._gradient * size
        self._moved[name] = self._moved.get(name, 0.0) + moved
        return math.hypot(self._unit, self._moved[name] / rms(state.weights[name]))


def _steps(trial: Trial, name: str) -> list[Step]:
    """What the backend makes of each step of an optimiser."""
    model: Any = trial.loaded.model
    if not isinstance(model, Trainable):
        raise Violation("the model has no train_step", "unsupported")

    def run(state: TrainState, inputs: Array, labels: Array, **named: Any) -> Step:
        given = {"inputs": inputs, "labels": labels, **_arrays(state)}
        with unchanged("train_step", given):
            found: Any = trial.subject.call(
                "train_step", lambda: model.train_step(state, inputs, labels, **named)
            )
        match found:
            case (float() | int() | np.number() | np.ndarray() as value, TrainState() as after) if (
                np.ndim(value) == 0
            ):
                return float(value), after
        raise Violation(f"train_step must return a number and a TrainState, got {_types(found)}")

    return _trained(trial.standard, name, trial.seed, run)


def _types(found: Any) -> str:
    if isinstance(found, tuple):
        return f"({', '.join(type(part).__name__ for part in found)})"
    return type(found).__name__


def _optimisers(trial: Trial) -> Iterator[Finding]:
    problem = trial.standard
    before = trial.loaded.logits(problem.inputs).copy()
    for name in OPTIMISERS:
        yield from _judged(trial, name)
    after = trial.loaded.logits(problem.inputs)
    yield of_bits(after, before, "the loaded model after train_step", "weights")


def _judged(trial: Trial, name: str) -> Iterator[Finding]:
    """Loss, number of steps, every slot and every weight."""
    steps = _steps(trial, name)
    for number, (step, held) in enumerate(
        zip(steps, _held(trial.standard, name, trial.seed), strict=True), 1
    ):
        given, what = _by_name(step), f"{name}, step {number}"
        for key, one in held.items():
            finding = one.finding(key, given.get(key))
            yield Finding(finding.margin, f"{what}: {finding.message}", finding.culprit)
            if key == "loss":
                taken = step[1].step
                message = f"{what}: expected step {number}, got {taken}"
                yield of_rule(taken == number, message, "step")


def wrong_steps(trial: Trial) -> Evidence | None:
    """The steps of training of a backend that gets some of them wrong.

    Raises:
        Violation: if the backend raises, hangs or breaks the protocol.
    """
    problem, seed = trial.standard, trial.seed
    judged = (finding for name in OPTIMISERS for finding in _judged(trial, name))
    bad = next((finding for finding in judged if not finding.passed), None)
    if bad is None or bad.culprit is None:
        return None
    return Evidence(
        stage=bad.culprit,
        message=bad.message,
        found=_of_all(lambda name: map(_by_name, _steps(trial, name))),
        held=_of_all(lambda name: _held(problem, name, seed)),
        ask=functools.partial(_asked, problem, seed),
    )


@functools.lru_cache(maxsize=64)
def _asked(problem: Problem, seed: int, backend: Backend) -> Mapping[str, Array]:
    """What another backend gives."""
    model: Any = backend.load(problem.spec, problem.weights, profile=problem.precision.profile)
    return _of_all(lambda name: map(_by_name, _trained(problem, name, seed, model.train_step)))


def _of_all(steps: Callable[[str], Any]) -> dict[str, Any]:
    """What every step of every optimiser gives, by names that tell them apart."""
    return {
        f"{name}, step {number}: {key}": one
        for name in OPTIMISERS
        for number, step in enumerate(steps(name), 1)
        for key, one in step.items()
    }


def _trains(model: ZooModel, spec: ModelSpec) -> bool:
    return model.name in ("mixer", "resmlp", "gmlp", "vit", "words")


F19 = Case(
    id="F19",
    title="Steps of SGD, momentum and AdamW: the loss, what they remember, and the weights",
    catches="epsilon in the root, no bias correction, decay of biases or in the gradient, a sum "
    "for a mean",
    level=4,
    suits=_trains,
    check=_optimisers,
    profiles=("f64", "f32-strict"),
    quick=("mixer",),
)
