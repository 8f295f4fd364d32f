"""F05 to F09: inputs that make small mistakes large: tiny, shifted, constant, huge, subnormal."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from mixer_conformance.carried import Carried
from mixer_conformance.findings import Finding, of_rule, of_taps
from mixer_conformance.judge import Standard, float64_step, judge
from mixer_conformance.measure import Array, sample_rms
from mixer_conformance.problem import Problem
from mixer_conformance.tolerance import carried_runs
from mixer_spec import ModelSpec
from mixer_spec.graph import Node
from mixer_spec.layers import ClassToken, LayerNorm, SpatialGate, TokenNorm
from mixer_spec.weights import Weights

from .base import WIDE, Case, Trial, branch_ends, has, on_small, scaled, takes_numbers, zeros
from .zoo import ZooModel

_ADDED = ("stem.bias", "stem.class_token.embedding", "stem.position.embedding", "stem.embedding")


def _added(weights: Weights) -> list[str]:
    """The weights that are the stem's output, or are added to it."""
    return [name for name in weights if name in _ADDED]


def _with_norm(model: ZooModel, spec: ModelSpec) -> bool:
    return on_small(model, spec) and has(spec, LayerNorm, TokenNorm)


# --- F05 ---------------------------------------------------------------------------------------


def _small_stream(problem: Problem) -> Problem:
    """A stream of about 2**-11 all the way, so that every norm's variance is near 1e-6."""
    weights = problem.weights
    changed = scaled(weights, 2.0**-10, _added(weights))
    for names in branch_ends(problem.spec).values():
        changed |= scaled(weights, 2.0**-12, names)
    for node in problem.spec.nodes():
        before = [child.path for child in node.children if "dense" in child.name]
        if any(isinstance(child.layer, SpatialGate) for child in node.children):
            inner = [name for name in weights if name.startswith(before[0] + ".")]
            changed |= scaled(weights, 2.0**-10, inner)
    changed |= _transitions(problem)
    inputs = problem.inputs
    if takes_numbers(problem.spec):
        inputs = inputs * inputs.dtype.type(2.0**-10)
        changed |= zeros(weights, [name for name in weights if name == "stem.bias"])
    return problem.changed(weights=changed, inputs=inputs)


def _transitions(problem: Problem) -> dict[str, Array]:
    """The last layer of each transition, whose output is the stream behind it."""
    changed: dict[str, Array] = {}
    for step in problem.spec.steps:
        for node in step.nodes[:-1]:
            if node.path.startswith("transitions.") and node.name == "dense_1":
                names = [f"{node.path}.{name}" for name in node.own_parameters]
                changed |= scaled(problem.weights, 2.0**-12, names)
    return changed


F05 = Case(
    id="F05",
    title="A stream so small that epsilon decides: inputs x 2^-10, branches x 2^-12",
    catches="another epsilon, in one norm or all; epsilon missing or outside of the root",
    level=1,
    suits=_with_norm,
    check=lambda trial: [trial.judged(trial.problem("small stream", _small_stream))],
)


# --- F06 ---------------------------------------------------------------------------------------


def _large_mean(problem: Problem, by: float) -> Problem:
    weights = problem.weights
    names = [n for n in _added(weights) if n != "stem.position.embedding"]
    return problem.changed(weights={name: weights[name] + np.float32(by) for name in names})


def _conditioned(problem: Problem) -> tuple[Standard, ...]:
    """The standards with floors for a norm of numbers far from zero.

    A relative error of its input becomes ``kappa`` times as large in a norm's output, with
    ``kappa = sqrt(mean^2 + variance) / sqrt(variance + epsilon)``, whether that error was made
    before the norm or in its own mean. The mean's is the same for all channels of a token, so that
    it may grow by more than the independent noise that is carried along.
    """
    found: list[Standard] = []
    before, total = problem.inputs.astype(np.float64), 0.0
    errors = Carried(problem.inputs, carried_runs(problem.spec))
    for standard in problem.standards:
        own = standard.local.floor
        magnified = np.max([_kappa(before, node) for node in standard.step.nodes], axis=0)
        if magnified.any():
            if standard.oracle.shape == before.shape and standard.step.tap.startswith("blocks."):
                branch = sample_rms(standard.oracle - before)
                magnified = magnified * branch / sample_rms(standard.oracle)
            worst = float(magnified.max())
            # The mean's sum, and the difference or the two products with the deviation.
            sums = 0.41 * math.sqrt(before.shape[-1] + 2)
            unit = problem.precision.unit * worst
            own = math.hypot(own, sums * unit, unit)
            total *= math.hypot(1.0, worst)
        total = math.hypot(total, own)
        exact, _ = float64_step(standard.step, problem.weights, errors.tables)
        carried = errors.floor(list(exact), standard.oracle, own)
        local = replace(standard.local, floor=own)
        end_to_end = replace(standard.end_to_end, floor=max(total, carried))
        found.append(replace(standard, local=local, end_to_end=end_to_end))
        before = standard.oracle
    return tuple(found)


def _kappa(x: Array, node: Node) -> Array:
    """How much the first norm in a node magnifies, ``[sample]``; 0 without one."""
    for inner in node.walk():
        match inner.layer:
            case LayerNorm(epsilon=epsilon):
                axis = -1
            case TokenNorm(epsilon=epsilon):
                axis = 1
            case _:
                continue
        size = np.mean(np.square(x), axis=axis)
        each = size / (np.var(x, axis=axis) + epsilon)
        kappa: Array = np.sqrt(each.reshape(len(x), -1).mean(axis=1))
        return kappa
    return np.zeros(len(x))


def _shifted(trial: Trial) -> Iterator[Finding]:
    for by in (64.0, 1024.0):
        problem = trial.problem(f"shifted by {by:g}", functools.partial(_large_mean, by=by))
        yield _judged(trial, problem)


def _judged(trial: Trial, problem: Problem) -> Finding:
    taps = trial.load(problem.weights).forward(problem.inputs)
    return of_taps(judge(problem.weights, problem.inputs, [taps], _conditioned(problem))[0])


F06 = Case(
    id="F06",
    title="A stream with a mean far from zero: the stem's bias + 64, + 1024",
    catches="the variance in one pass, as the mean of squares less the square of the mean",
    level=1,
    suits=_with_norm,
    check=_shifted,
    profiles=("f64", "f32-strict"),
    quick=("mixer", "vit"),
)


# --- F07 ---------------------------------------------------------------------------------------


def _constant(problem: Problem, value: float) -> Problem:
    weights = problem.weights
    changed = zeros(weights, _added(weights))
    for name in changed:
        if name != "stem.position.embedding":
            changed[name] += np.float32(value)
    inputs = problem.inputs * 0 if takes_numbers(problem.spec) else problem.inputs
    return problem.changed(weights=changed, inputs=inputs)


def _constants(trial: Trial) -> Iterator[Finding]:
    yield _judged(trial, trial.problem("all zero", lambda problem: _constant(problem, 0.0)))
    # Its norms divide a rounding error by the root of epsilon: only NaN and infinity are wrong.
    flat = trial.problem("all 1000", lambda problem: _constant(problem, 1000.0))
    found = trial.load(flat.weights).forward(flat.inputs)
    for tap, table in found.items():
        yield of_rule(
            bool(np.isfinite(table).all()), f"{tap} of a constant input must be finite", tap
        )


F07 = Case(
    id="F07",
    title="Variance zero: an input of zeros, and a stream that is 1000 everywhere",
    catches="0 / 0, the root of a variance that cancellation made negative",
    level=1,
    suits=on_small,
    check=_constants,
    quick=("mixer", "gmlp", "resmlp"),
)


# --- F08 ---------------------------------------------------------------------------------------


def _times(problem: Problem, factor: float) -> Problem:
    return problem.changed(inputs=problem.inputs * problem.inputs.dtype.type(factor))


def _ladder(trial: Trial) -> Iterator[Finding]:
    for power in (-20, -10, 10, 20, 40):
        larger = functools.partial(_times, factor=2.0**power)
        yield trial.judged(trial.problem(f"x 2^{power}", larger))


F08 = Case(
    id="F08",
    title="Inputs x 2^-20 to 2^40",
    catches="a clipped, normalised or cast input, float16 within, an activation with a ceiling",
    level=1,
    suits=lambda model, spec: on_small(model, spec) and takes_numbers(spec),
    check=_ladder,
    profiles=WIDE,
    quick=("mixer", "resmlp"),
)


# --- F09 ---------------------------------------------------------------------------------------

_TINIEST_NORMAL = 2.0**-126


def _subnormal(problem: Problem) -> Problem:
    names = [name for name in problem.weights if name in _ADDED]
    return problem.changed(
        weights=zeros(problem.weights, names), inputs=problem.inputs * np.float32(2.0**-130)
    )


def _flushed(trial: Trial) -> Iterator[Finding]:
    problem = trial.problem("subnormal", _subnormal)
    found = trial.load(problem.weights).forward(problem.inputs)
    # Subnormal numbers may be flushed to zero: each product may lose the smallest normal number.
    kernel = problem.weights["stem.kernel"]
    products = kernel.size // kernel.shape[-1]
    allowed = products * _TINIEST_NORMAL * float(np.abs(kernel).max())
    if "stem" in found:
        error = float(np.abs(found["stem"] - problem.oracle["stem"]).max())
        yield Finding(
            error / allowed if np.isfinite(error) else np.inf,
            f"stem of subnormal inputs: error {error:.1e}, allowed {allowed:.1e} = "
            f"{products} products x 2^-126 x the largest weight",
            "stem",
        )
        found = {tap: table for tap, table in found.items() if tap != "stem"}
    later = [tap for tap in problem.judge(found) if tap.judgements]
    for tap in later:
        for judgement in tap.judgements:
            margin = judgement.margin
            message = f"{tap.tap} of subnormal inputs: {margin:.2g} of the tolerance"
            yield Finding(margin, message, tap.tap)


F09 = Case(
    id="F09",
    title="Inputs so small that they are subnormal, kept or flushed to zero",
    catches="an input divided by its own size, a slow path with other results, NaN from 0 / 0",
    level=1,
    suits=lambda model, spec: (
        model.group == "Z1" and takes_numbers(spec) and not has(spec, ClassToken)
    ),
    check=_flushed,
    profiles=("f32-strict", "f32-tf32", "f32-bf16mm"),
    quick=("mixer",),
)


def telling_problems(trial: Trial) -> Iterator[Problem]:
    """Conformance inputs, then the changes above that make small mistakes large."""
    yield trial.standard
    if has(trial.spec, LayerNorm, TokenNorm):
        yield trial.problem("small stream", _small_stream)
    if takes_numbers(trial.spec):
        yield trial.problem("x 2^10", functools.partial(_times, factor=2.0**10))
