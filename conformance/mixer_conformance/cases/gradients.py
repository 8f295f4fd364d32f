"""F17 and F18: gradients against float64, also those that are zero by structure.

A gradient's error is measured in units of the size that it would have if its summands were of
random sign, so that one whose summands cancel is judged by what was added up.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from mixer_conformance.findings import Finding
from mixer_conformance.held import Evidence, Held
from mixer_conformance.measure import Array, rms
from mixer_conformance.problem import Problem
from mixer_conformance.subject import Violation, unchanged
from mixer_spec import Backend
from mixer_spec.backend import Differentiable
from mixer_spec.reference import backward, gradient_sizes
from mixer_spec.training import Gradients

from .base import Case, Trial, on_families
from .exact import whole

YARDSTICKS = 4
"""How many noisy backward passes make a yardstick."""

_ENDS = ("logits", "pooled")
"""The taps whose gradients are always looked at."""

_NOTHING = 1e-12
"""The part of its size below which a gradient is zero by structure: 9,000 roundoffs of float64."""


def floor_of(problem: Problem) -> float:
    """Twice that of the logits: going back takes sums of the same lengths, of what went forward.

    Were both errors independent it would be the root of 2; they share the numbers of the forward pass.
    """
    return 2 * problem.standards[-1].end_to_end.floor


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


@functools.lru_cache(maxsize=256)
def _held(problem: Problem, tap: str) -> Mapping[str, Held]:
    """What the gradients of a tap must be: of each weight by its name, and of the ``inputs``."""
    cotangents = {tap: _cotangent(problem, tap)}
    given = (problem.spec, problem.weights, problem.inputs, cotangents)
    noisy = [
        _by_name(backward(*given, arithmetic=problem.precision.shuffled(seed)))
        for seed in range(YARDSTICKS)
    ]
    right, sizes, floor = _by_name(backward(*given)), gradient_sizes(*given), floor_of(problem)
    return {
        name: Held.among(array, [run[name] for run in noisy], rms(sizes.get(name, array)), floor)
        for name, array in right.items()
    }


def _by_name(gradients: Gradients) -> dict[str, Array]:
    """Of every weight, and of the inputs where they have one."""
    of_inputs = {} if gradients.inputs is None else {"inputs": gradients.inputs}
    return {**gradients.weights, **of_inputs}


def _gradients(trial: Trial, tap: str) -> dict[str, Array]:
    """What the backend says that the gradients of a tap are."""
    model: Any = trial.loaded.model
    if not isinstance(model, Differentiable):
        raise Violation("the model has no vjp", "unsupported")
    inputs, cotangents = trial.standard.inputs, _given_cotangents(trial.standard, tap)
    with unchanged("vjp", {"inputs": inputs, **cotangents}):
        found = trial.subject.call("vjp", lambda: model.vjp(inputs, cotangents))
    if not isinstance(found, Gradients):
        raise Violation(f"vjp must return Gradients, got {type(found).__name__}")
    missing = trial.standard.weights.keys() - dict(found.weights).keys()
    if missing:
        raise Violation(f"vjp returned no gradient of {sorted(missing)}", culprit=min(missing))
    return _by_name(found)


def _at(trial: Trial, tap: str) -> Iterator[Finding]:
    """The gradients of one tap, of all weights and the inputs."""
    found = _gradients(trial, tap)
    for name, held in _held(trial.standard, tap).items():
        yield held.finding(name, found.get(name))


def _vjp(trial: Trial) -> Iterator[Finding]:
    whole_model = [finding for end in _ENDS for finding in _at(trial, end)]
    if not all(finding.passed for finding in whole_model):
        yield from _by_taps(trial)
    yield from whole_model


def _by_taps(trial: Trial) -> Iterator[Finding]:
    """Of each tap what is wrong: the mistake is in the step in front of the first one."""
    for tap in trial.spec.taps:
        for finding in _at(trial, tap):
            if not finding.passed:
                yield Finding(finding.margin, f"{tap}: {finding.message}", tap)


def _zeros(trial: Trial) -> Iterator[Finding]:
    found = _gradients(trial, "logits")
    nothing = [
        held.finding(name, found[name])
        for name, held in _held(trial.standard, "logits").items()
        if name != "inputs" and held.unit is not None and rms(held.oracle) <= _NOTHING * held.unit
    ]
    yield from nothing or [Finding(0.0, "no gradient of this model is zero by structure")]


def wrong_gradients(trial: Trial) -> Evidence | None:
    """The gradients of a backend that gets some of them wrong.

    Raises:
        Violation: if the backend raises, hangs or breaks the protocol.
    """
    problem, bad = trial.standard, next(_by_taps(trial), None)
    if bad is None or bad.culprit is None:
        return None
    ask = functools.partial(_asked, problem)
    held = {f"{end}: {n}": one for end in _ENDS for n, one in _held(problem, end).items()}
    found = _of_both_ends(lambda end: _gradients(trial, end))
    return Evidence(stage=bad.culprit, message=bad.message, found=found, held=held, ask=ask)


@functools.lru_cache(maxsize=256)
def _asked(problem: Problem, backend: Backend) -> Mapping[str, Array]:
    """What another backend gives."""
    model: Any = backend.load(problem.spec, problem.weights, profile=problem.precision.profile)
    return _of_both_ends(
        # A copy: there are mistakes that write into it.
        lambda end: _by_name(model.vjp(problem.inputs.copy(), _given_cotangents(problem, end)))
    )


def _of_both_ends(gradients: Any) -> dict[str, Array]:
    return {f"{end}: {name}": array for end in _ENDS for name, array in gradients(end).items()}


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
