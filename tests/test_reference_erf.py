"""The reference's error function of arrays, against the C library's and 50 digits."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from mixer_spec.reference.erf import erf


def units_off(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance in units of float64's last place."""
    return np.abs(found - exact) / np.spacing(np.abs(exact))


@pytest.mark.parametrize("reach", [1e-300, 1e-3, 0.01, 0.1, 1.0, 3.0, 7.0])
def test_it_is_within_two_units_of_the_c_library(reach: float) -> None:
    x = np.random.default_rng(0).uniform(-reach, reach, 50_000)
    exact = np.array([math.erf(value) for value in x])
    assert units_off(erf(x), exact).max() <= 2


def test_it_is_within_two_units_of_50_digits_between_the_points_of_its_table() -> None:
    middles = (np.arange(0, 3072, 5) + 0.5) / 512
    x = np.concatenate([middles, np.nextafter(middles, 0), np.nextafter(middles, 9)])
    with mpmath.workdps(50):
        exact = np.array([float(mpmath.erf(mpmath.mpf(value))) for value in x])
    assert units_off(erf(x), exact).max() <= 2


def test_a_shorter_series_would_be_found() -> None:
    x = np.array([0.5 / 512])
    c, d = 0.0, float(x[0])
    shorter = np.array([math.erf(c) + 2 / math.sqrt(math.pi) * d * (1 - d * d / 3)])
    assert units_off(shorter, np.array([math.erf(d)])) > 100


def test_it_is_odd_and_keeps_what_is_not_finite() -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 6.0, 1e300])
    assert np.array_equal(erf(x), [0, 0, 1, -1, np.nan, 1, 1], equal_nan=True)
    assert np.signbit(erf(x)[:2]).tolist() == [False, True]
    y = np.random.default_rng(1).normal(size=1000)
    assert np.array_equal(erf(-y), -erf(y))


def test_shape_strides_and_dtype_do_not_matter() -> None:
    x = np.random.default_rng(2).normal(size=(3, 70, 200))  # more than one chunk
    exact = np.array([math.erf(value) for value in x.ravel()]).reshape(x.shape)
    for found in (erf(x), erf(x.T).T, erf(x[::-1])[::-1]):
        np.testing.assert_allclose(found, exact, rtol=1e-15)
    single = erf(x.astype(np.float32))
    assert single.dtype == np.float32
    expected = np.array([math.erf(value) for value in x.astype(np.float32).ravel().tolist()])
    assert np.array_equal(single.ravel(), expected.astype(np.float32))
    assert erf(np.zeros((0, 4))).shape == (0, 4)
