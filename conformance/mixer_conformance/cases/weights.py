"""F21, F22 and F27: weights as they were loaded: bits, storage dtypes, names, shapes and counts."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from mixer_conformance.findings import Finding, of_rule
from mixer_conformance.measure import Array
from mixer_conformance.problem import Problem
from mixer_spec import VARIANTS
from mixer_spec.weights import Weights

from .base import EVERY, Case, Trial, on, on_every, on_families, takes_numbers

# --- F21 ---------------------------------------------------------------------------------------


def _telling(weights: Weights) -> dict[str, Array]:
    """Weights with 24-bit values, a negative zero and a subnormal number in every tensor."""
    found = {}
    for name, array in weights.items():
        told = np.nextafter(array, np.float32(9))
        told.flat[0] = -0.0
        told.flat[-1] = 1e-42
        found[name] = told
    return found


def changed_weights(exported: Weights, loaded: Weights) -> Iterator[Finding]:
    """What ``export_weights`` did not give back bit for bit."""
    for name in exported.keys() - loaded.keys():
        yield of_rule(False, f"{name} was exported but never loaded", name)
    for name, array in loaded.items():
        if name not in exported:
            yield of_rule(False, f"{name} is missing from the exported weights", name)
            continue
        back = exported[name]
        if back.shape != array.shape or back.dtype != array.dtype:
            message = (
                f"{name}: expected {array.dtype} {list(array.shape)}, "
                f"got {back.dtype} {list(back.shape)}"
            )
            yield of_rule(False, message, name)
            continue
        one, other = (np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (back, array))
        yield of_rule(
            np.array_equal(one, other),
            f"the exported bits of {name} must be those that were loaded",
            name,
        )


def _round_trip(trial: Trial) -> Iterator[Finding]:
    weights = _telling(trial.standard.weights)
    yield from changed_weights(trial.load(weights).export(), weights)
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        stored = {n: array.astype(dtype) for n, array in trial.standard.weights.items()}
        yield from changed_weights(trial.load(stored).export(), stored)


F21 = Case(
    id="F21",
    title="Weights come back bit for bit, in every storage dtype",
    catches="a kernel transposed twice, names swapped, values cast on the way, tied memory",
    level=0,
    suits=on_families,
    check=_round_trip,
    profiles=EVERY,
    quick=("mixer", "vit"),
)


# --- F22 ---------------------------------------------------------------------------------------


def _dtypes(trial: Trial) -> Iterator[Finding]:
    problem = trial.standard
    brief = trial.effort == "quick"  # an engine that compiles needs a second for each dtype
    for dtype in (ml_dtypes.bfloat16,) if brief else (ml_dtypes.bfloat16, np.float16):
        # Conformance weights have 8 bits, so that nothing is lost and nothing may change.
        stored = {n: array.astype(dtype) for n, array in problem.weights.items()}
        yield trial.judged(
            trial.problem(f"stored {dtype}", functools.partial(Problem.changed, weights=stored))
        )
    if takes_numbers(trial.spec):
        for dtype in (np.float64,) if brief else (np.float64, np.float16):
            coarse = problem.inputs.astype(ml_dtypes.bfloat16).astype(problem.inputs.dtype)
            plain = trial.loaded.logits(coarse)
            cast = trial.loaded.logits(coarse.astype(dtype))
            yield of_rule(
                np.array_equal(plain, cast),
                f"inputs in {np.dtype(dtype).name} must compute what the same values in "
                f"{problem.inputs.dtype} do",
                "inputs",
            )


F22 = Case(
    id="F22",
    title="Weights stored in 16 bits, inputs in 16 and 64: the same function",
    catches="arithmetic that follows the storage dtype, statistics in bfloat16, an output's dtype",
    level=1,
    suits=on("mixer", "signal", "vit", "resmlp", "gmlp"),
    check=_dtypes,
    quick=("mixer",),
)


# --- F27 ---------------------------------------------------------------------------------------


def _structure(trial: Trial) -> Iterator[Finding]:
    exported, expected = trial.loaded.export(), trial.spec.parameters()
    for name, parameter in expected.items():
        shape = exported[name].shape if name in exported else None
        yield of_rule(
            shape == parameter.shape,
            f"{name}: expected {list(parameter.shape)}, got {list(shape) if shape else 'nothing'}",
            name,
        )
    count = sum(array.size for array in exported.values())
    known = trial.spec.parameter_count
    yield of_rule(count == known, f"number of weights: expected {known}, got {count}")
    if trial.model.name in VARIANTS:
        published = VARIANTS[trial.model.name].parameters
        yield of_rule(
            count == published, f"published number of weights: expected {published}, got {count}"
        )


F27 = Case(
    id="F27",
    title="Names, shapes and number of weights",
    catches="token and channel widths mixed up, a block too few, a head of another size",
    level=0,
    suits=on_every,
    check=_structure,
    profiles=EVERY,
)
