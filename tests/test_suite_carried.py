"""Rounding errors that later steps make larger: right backends are not accused of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mixer_conformance.audit import trial_of
from mixer_conformance.carried import Carried
from mixer_conformance.cases import CASES
from mixer_conformance.suite import run_case
from mixer_spec import load_backend


def floors(*factors: float, runs: int, own: float = 1e-7) -> list[float]:
    """Of steps that multiply a stream's distance from 1 by a factor each."""
    inputs = np.ones((2, 4, 500))
    errors, found = Carried(inputs, runs), []
    for factor in factors:
        exact = [1 + factor * (table - 1) for table in errors.tables]
        found.append(errors.floor(exact, inputs, own))
    return found


def test_errors_that_nothing_makes_larger_add_up_as_their_squares() -> None:
    assert floors(1, 1, 1, runs=8) == pytest.approx([1e-7, 2**0.5 * 1e-7, 3**0.5 * 1e-7], rel=0.05)
    assert floors(1, 1, 1, runs=0) == pytest.approx([1e-7, 2**0.5 * 1e-7, 3**0.5 * 1e-7])


def test_a_step_that_makes_errors_larger_is_seen() -> None:
    expected = [1e-7, math.hypot(50, 1) * 1e-7, math.hypot(50, 1, 1) * 1e-7]
    assert floors(1, 50, 1, runs=8) == pytest.approx(expected, rel=0.05)


def test_a_step_that_makes_errors_smaller_lowers_no_floor() -> None:
    assert floors(1, 0, runs=8) == pytest.approx([1e-7, 2**0.5 * 1e-7], rel=0.05)


def test_infinities_and_zeros_leave_the_plain_floor() -> None:
    errors = Carried(np.zeros((1, 3)), 4)
    assert errors.floor(errors.tables, np.zeros((1, 3)), 1e-7) == 1e-7
    with np.errstate(invalid="ignore"):
        infinite = np.full((1, 3), np.inf)
        assert errors.floor([infinite] * 4, infinite, 1e-7) == pytest.approx(2**0.5 * 1e-7)


@pytest.mark.parametrize(
    ("backend", "case", "model", "seed"),
    [
        ("torch", "F08", "mixer", 33),  # was at 1.92 of its tolerance
        ("torch", "F08", "gmixer", 29),  # 1.06
        ("torch", "F08", "one_class", 50),  # 1.06
        ("torch", "F06", "one_class", 47),  # 1.12
        ("torch", "F06", "one_class", 64),  # 1.34
        ("torch", "F07", "feed_forward", 2),  # 0.79
        ("jax", "F07", "tiny", 25),  # 0.73
    ],
)
def test_a_seed_that_accused_a_right_backend_does_no_more(
    backend: str, case: str, model: str, seed: int
) -> None:
    trial = trial_of(load_backend(backend), model, profile="f32-strict", limit=600, seed=seed)
    result = run_case(CASES[case], trial)
    assert result.status == "pass"
    assert result.margin is not None
    assert result.margin < 0.6
