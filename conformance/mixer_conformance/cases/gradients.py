"""F17 to F19: gradients and training steps against float64, also those that are zero by structure.

A gradient's error is measured in units of the size that it would have if its summands were of
random sign, so that one whose summands cancel is judged by what was added up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mixer_conformance.findings import Finding, of_bits, of_rule
from mixer_conformance.measure import Array, Deviation, rms
from mixer_conformance.problem import Problem
from mixer_conformance.subject import Violation
from mixer_conformance.tolerance import Judgement, Tolerance, worst
from mixer_conformance.weights import conformance_inputs
from mixer_spec import ModelSpec
from mixer_spec.backend import Differentiable, Trainable
from mixer_spec.reference import backward, gradient_sizes, train_step
from mixer_spec.training import (
    AdamW,
    CrossEntropy,
    Gradients,
    Momentum,
    Optimiser,
    Sgd,
    TrainState,
    initial_state,
)

from .base import Case, Trial, on_families
from .exact import whole
from .zoo import ZooModel

_YARDSTICKS = 4
_ENDS = ("logits", "pooled")
"""The taps whose gradients are always looked at."""

_NOTHING = 1e-12
"""The part of its size below which a gradient is zero by structure."""


def _cotangent(problem: Problem, tap: str) -> Array:
    """Numbers of both signs, no two samples alike."""
    shape = next(
        standard.oracle.shape for standard in problem.standards if standard.step.tap == tap
    )
    return (whole(f"cotangent {tap}", shape, 127, -127) / 128).astype(problem.precision.dtype)


def _given_cotangents(problem: Problem, tap: str) -> dict[str, Array]:
    """The tap's cotangent; beside it zeros at the other end that is asked for.

    The same taps each time, so that an engine compiles one program.
    """
    given = {tap: _cotangent(problem, tap)}
    if tap in _ENDS:
        given = {end: given.get(end, 0 * _cotangent(problem, end)) for end in _ENDS}
    return given


def _in_units(found: Array, oracle: Array, unit: float) -> Deviation:
    """The error in a unit of its own; where that is nothing, it must be nothing."""
    error = np.abs(np.asarray(found, np.float64) - oracle)
    if not np.isfinite(error).all():
        return Deviation(math.inf, math.inf, ())
    if unit == 0.0:
        unit = 1.0 if not error.any() else float(np.finfo(np.float64).tiny)
    at = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
    with np.errstate(over="ignore"):
        return Deviation(rms(error) / unit, float(error.max()) / unit, at)


def _judged(
    what: str, found: Array, oracle: Array, noisy: Sequence[Array], unit: float, floor: float
) -> Finding:
    """One array against its oracle, with the noise of float32 runs for a tolerance."""
    if not isinstance(found, np.ndarray) or found.shape != oracle.shape:
        shape = list(np.shape(found))
        return of_rule(False, f"{what}: expected {list(oracle.shape)}, got {shape}", what)
    noise = worst([_in_units(run, oracle, unit) for run in noisy])
    moved = _in_units(found, oracle, unit)
    judgement = Judgement(moved, Tolerance(noise, floor, max(2, oracle.size)))
    return Finding(
        judgement.margin,
        f"{what}: error {moved.rms:.1e} of its size, tolerance {judgement.tolerance.rms:.1e} = 4 x "
        f"max(yardstick {noise.rms:.1e}, floor {floor:.1e})"
        + ("" if judgement.passed else _told(found, oracle)),
        what,
    )


def _told(found: Array, oracle: Array) -> str:
    """Both of a single number; of an array that is the oracle times a number, that number.

    Example:
        >>> _told(np.array([1.0, 2.0]), np.array([3.0, 6.0]))  # a mean for a sum
        '; it is 0.33333 times what is right'
    """
    if oracle.size == 1:
        return f"; expected {oracle.item():.9g}, got {found.item():.9g}"
    size = float(np.vdot(oracle, oracle))
    if size == 0.0 or not np.isfinite(found).all():
        return ""
    factor = float(np.vdot(oracle, found.astype(np.float64))) / size
    if rms(found - factor * oracle) > 1e-3 * rms(found - oracle):
        return ""
    return f"; it is {factor:.5g} times what is right"


def _floor(problem: Problem) -> float:
    """A backward pass adds up about as much as the forward pass in front of it."""
    return 2 * problem.standards[-1].end_to_end.floor


# --- F17 and F18 -------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _standard(problem: Problem, tap: str) -> tuple[Gradients, Mapping[str, Array], list[Gradients]]:
    """The oracle's gradients, their sizes, and those of the noisy runs."""
    cotangents = {tap: _cotangent(problem, tap)}
    given = (problem.spec, problem.weights, problem.inputs, cotangents)
    noisy = [
        backward(*given, arithmetic=problem.precision.shuffled(seed)) for seed in range(_YARDSTICKS)
    ]
    return backward(*given), gradient_sizes(*given), noisy


def _gradients(trial: Trial, tap: str) -> Gradients:
    model: Any = trial.loaded.model
    if not isinstance(model, Differentiable):
        raise Violation("the model has no vjp", "unsupported")
    cotangents = _given_cotangents(trial.standard, tap)
    found = trial.subject.call("vjp", lambda: model.vjp(trial.standard.inputs, cotangents))
    missing = trial.standard.weights.keys() - dict(found.weights).keys()
    if missing:
        raise Violation(f"vjp returned no gradient of {sorted(missing)}", culprit=min(missing))
    return found


def _at(trial: Trial, tap: str, *, zeros: bool) -> Iterator[Finding]:
    """The gradients of one tap: of all weights and the inputs, or of those that are nothing."""
    problem = trial.standard
    oracle, sizes, noisy = _standard(problem, tap)
    found = _gradients(trial, tap)
    for name, expected in oracle.weights.items():
        unit = rms(sizes[name])
        if not zeros or rms(expected) <= _NOTHING * unit:
            runs = [run.weights[name] for run in noisy]
            array = found.weights[name]
            yield _judged(name, array, expected, runs, unit, _floor(problem))
    if oracle.inputs is not None and not zeros:
        runs = [run.inputs for run in noisy if run.inputs is not None]
        given: Any = found.inputs
        unit = rms(oracle.inputs)
        yield _judged("inputs", given, oracle.inputs, runs, unit, _floor(problem))


def _vjp(trial: Trial) -> Iterator[Finding]:
    whole_model = [finding for end in _ENDS for finding in _at(trial, end, zeros=False)]
    if all(finding.passed for finding in whole_model):
        yield from whole_model
        return
    # The first tap whose gradients are wrong has the mistake in the step in front of it.
    for tap in trial.spec.taps:
        for finding in _at(trial, tap, zeros=False):
            if not finding.passed:
                yield Finding(finding.margin, f"{tap}: {finding.message}", tap)
    yield from whole_model


def _zeros(trial: Trial) -> Iterator[Finding]:
    found = list(_at(trial, "logits", zeros=True))
    yield from found or [Finding(0.0, "no gradient of this model is zero by structure")]


F17 = Case(
    id="F17",
    title="Gradients of all weights and the inputs, from the logits and from the pooled features",
    catches="another form of GELU or of a norm going back, a detached branch, a missing gradient",
    level=3,
    suits=on_families,
    check=_vjp,
    profiles=("f64", "f32-strict"),
    quick=("mixer", "gmlp"),
)

F18 = Case(
    id="F18",
    title="Gradients that are zero by structure: a token bias that norms remove, a key's bias",
    catches="a norm that lets its mean through going back; false alarms of relative errors",
    level=3,
    suits=on_families,
    check=_zeros,
    profiles=("f64", "f32-strict"),
    quick=("mixer",),
)

# --- F19 ---------------------------------------------------------------------------------------

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


def _batches(problem: Problem, steps: int, seed: int) -> list[tuple[Array, Array]]:
    """Another batch for each step, of three inputs and their labels."""
    many = conformance_inputs(problem.spec, 3 * steps, seed).astype(problem.inputs.dtype)
    labels = np.arange(3 * steps) * 5 % problem.spec.classes
    return [(many[3 * i : 3 * i + 3], labels[3 * i : 3 * i + 3]) for i in range(steps)]


def _trained(problem: Problem, name: str, seed: int, run: Any) -> list[tuple[float, TrainState]]:
    """Loss and state after each step of ``run(state, inputs, labels, loss=, optimiser=)``."""
    optimiser, steps = OPTIMISERS[name]
    weights = {n: w.astype(problem.precision.dtype) for n, w in problem.weights.items()}
    state, found = initial_state(optimiser, weights), []
    loss = CrossEntropy(label_smoothing=_SMOOTHING)
    for inputs, labels in _batches(problem, steps, seed):
        value, state = run(state, inputs, labels, loss=loss, optimiser=optimiser)
        found.append((value, state))
    return found


@functools.lru_cache(maxsize=64)
def _training(problem: Problem, name: str, seed: int) -> Any:
    """The oracle's steps, and those of the noisy runs."""
    given = functools.partial(_trained, problem, name, seed)
    exact = given(functools.partial(train_step, problem.spec))
    noisy = [
        given(functools.partial(train_step, problem.spec, arithmetic=problem.precision.shuffled(s)))
        for s in range(_YARDSTICKS)
    ]
    return exact, noisy


def _optimisers(trial: Trial) -> Iterator[Finding]:
    model: Any = trial.loaded.model
    if not isinstance(model, Trainable):
        raise Violation("the model has no train_step", "unsupported")
    problem = trial.standard
    before = trial.loaded.logits(problem.inputs).copy()
    for name in OPTIMISERS:
        exact, noisy = _training(problem, name, trial.seed)
        floors = _Floors(problem, name)
        found = _trained(
            problem,
            name,
            trial.seed,
            lambda *given, **named: trial.subject.call(
                "train_step", lambda: model.train_step(*given, **named)
            ),
        )
        for step, (mine, right) in enumerate(zip(found, exact, strict=True), 1):
            others = [run[step - 1] for run in noisy]
            yield from _state(f"{name}, step {step}", mine, right, others, floors)
    after = trial.loaded.logits(problem.inputs)
    yield of_bits(after, before, "the loaded model after train_step", "weights")


class _Floors:
    """What rounding may do to a training state at least.

    Args:
        problem: whose backward pass it starts from.
        name: of the optimiser.
    """

    def __init__(self, problem: Problem, name: str) -> None:
        self._optimiser = OPTIMISERS[name][0]
        self._unit = problem.precision.unit
        self._gradient = _floor(problem)
        self._moved: dict[str, float] = {}  # by all steps so far, for each weight

    def slot(self, slot: str, others: float = 0.0) -> float:
        """Of what is remembered; a square has twice the error.

        Args:
            slot: which one.
            others: the size of all gradients over that of this one, whose noise it shares.
        """
        return self._gradient * math.hypot(1.0, others) * (2 if slot == "second_moment" else 1)

    def weight(self, state: TrainState, name: str, size: float) -> float:
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


def _state(
    what: str,
    found: tuple[float, TrainState],
    exact: tuple[float, TrainState],
    noisy: Sequence[tuple[float, TrainState]],
    floors: _Floors,
) -> Iterator[Finding]:
    """Loss, number of steps, every slot and every weight."""
    losses = [np.array([value]) for value, _ in noisy]
    loss, right = np.array([float(found[0])]), np.array([exact[0]])
    yield _named(_judged("loss", loss, right, losses, abs(exact[0]), floors.slot("loss")), what)
    state = exact[1]
    yield of_rule(
        found[1].step == state.step,
        f"{what}: expected step {state.step}, got {found[1].step}",
        "step",
    )
    sizes = {
        slot: math.sqrt(np.mean([rms(array) ** 2 for array in arrays.values()]))
        for slot, arrays in state.slots.items()
    }
    for slot, arrays in state.slots.items():
        for name, array in arrays.items():
            runs = [other.slots[slot][name] for _, other in noisy]
            # A gradient that is nothing by structure has errors of the others' size.
            unit = max(rms(array), 1e-3 * sizes[slot])
            mine = found[1].slots[slot][name]
            floor = floors.slot(slot, sizes[slot] / unit)
            yield _named(_judged(f"{slot} {name}", mine, array, runs, unit, floor), what)
    size = next(iter(sizes.values()), 0.0)
    for name, array in state.weights.items():
        runs = [other.weights[name] for _, other in noisy]
        floor = floors.weight(state, name, size)
        mine = found[1].weights[name]
        yield _named(_judged(name, mine, array, runs, rms(array), floor), what)


def _named(finding: Finding, what: str) -> Finding:
    return Finding(finding.margin, f"{what}: {finding.message}", finding.culprit)


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
