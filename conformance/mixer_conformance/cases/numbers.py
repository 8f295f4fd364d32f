"""F26 and F28: the arithmetic itself: how many bits, which forms, and no error of one sign."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from mixer_conformance.findings import Finding, of_rule
from mixer_conformance.fingerprint import fingerprint, name_of_bits
from mixer_conformance.measure import Array
from mixer_spec.reference import run_step

from .base import FLOATING, WIDE, Case, Trial
from .zoo import PROBE

# --- F26 ---------------------------------------------------------------------------------------


def _arithmetic(trial: Trial) -> Iterator[Finding]:
    seen = fingerprint(trial.subject, trial.spec)
    precision = trial.subject.precision
    for layer, bits in seen.bits.items():
        yield of_rule(
            bits >= precision.exact_operands,
            f"{layer}: a product sees {bits} bits of its operands ({name_of_bits(bits)}); "
            f"{precision.profile} has at least {precision.exact_operands}",
            layer,
        )
    if seen.gelu is None:
        return
    yield of_rule(
        "tanh" in seen.gelu.split(" or "), f"GELU's form: expected tanh, got {seen.gelu}", "gelu"
    )
    if seen.epsilon is not None:
        # 8 bits of a stored norm are 2^-8 of it, and twice that of its square.
        close = math.isclose(seen.epsilon, 1e-6, rel_tol=max(1e-3, 8 * precision.stored))
        yield of_rule(
            close, f"the last norm's epsilon: expected 1e-06, got {seen.epsilon:.3g}", "norm"
        )
    yield of_rule(
        not seen.float16_sums or precision.stored > 0,
        "4096 + 1 must be 4097 where sums are kept in float32",
        "stem",
    )


F26 = Case(
    id="F26",
    title="Fingerprints: bits of every product's operands, GELU's form, epsilon, sums",
    catches="TF32, bfloat16 or float16 in any one layer that the claimed profile does not have",
    level=1,
    suits=lambda model, spec: model.name == PROBE,
    check=_arithmetic,
    profiles=FLOATING,
)


# --- F28 ---------------------------------------------------------------------------------------

_BIAS = 0.12
"""Largest mean error over its root mean square, over all taps: six standard errors.

Independent errors of 28 taps, of 144 values but for the last two, have a standard error of 0.019;
truncation, whose errors are even between 0 and a unit, has -sqrt(3) / 2 = -0.87.
"""


def one_sided(errors: Array, expected: Array) -> float:
    """How far errors of any shape lean away from zero, or towards it if negative, from -1 to 1."""
    size = math.sqrt(float(np.mean(errors**2)))
    return float(np.mean(errors * np.sign(expected))) / size if size else 0.0


def _depth(trial: Trial) -> Iterator[Finding]:
    problem = trial.standard
    found = trial.loaded.forward(problem.inputs)
    growth, leaning = [], []
    previous: Array = problem.inputs
    for standard in problem.standards:
        tap = standard.step.tap
        if tap not in found:
            continue
        exact = run_step(standard.step, problem.weights, previous)
        leaning.append(one_sided(found[tap] - exact, exact))
        previous = found[tap]
        if tap.startswith("blocks."):
            size = math.sqrt(float(np.mean(standard.oracle**2)))
            error = math.sqrt(float(np.mean((found[tap] - standard.oracle) ** 2)))
            growth.append(max(error, 1e-300) / size)
    if not leaning:
        return
    bias = float(np.mean(leaning))
    depths = np.log(np.arange(1, len(growth) + 1))
    slope = float(np.polyfit(depths[1:], np.log(growth)[1:], 1)[0])
    yield Finding(
        abs(bias) / _BIAS if math.isfinite(bias) else math.inf,
        f"errors lean to one side by {bias:.2f} of their size, at most {_BIAS}; they grow with the "
        f"depth to the power {slope:.2f}, independent ones with 0.5",
    )


F28 = Case(
    id="F28",
    title="Errors of twelve blocks lean to no side",
    catches="truncation instead of rounding to nearest, an error too small for one stage to show",
    level=2,
    suits=lambda model, spec: model.name == "deep",
    check=_depth,
    profiles=WIDE,
)
