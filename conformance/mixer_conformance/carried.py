"""How far rounding errors carry: float64 runs in which every step errs by its floor.

What a step adds is small, and the steps behind it may make it large: a norm of numbers that are
nearly equal, logits whose terms cancel. A library whose own errors are smaller there, as NumPy's
are in a norm, does not show how much that is. So the floor of all steps is measured, on runs that
are exact but for noise of each step's floor.
"""

from __future__ import annotations

import math

import numpy as np

from mixer_spec.reference import FLOAT64

from .floors import root_sum_square
from .measure import Array, sample_rms


class Carried:
    """The floor of all steps up to one, step after step.

    Args:
        inputs: with a batch axis in front.
        runs: how many; without any, errors are taken to grow by nothing.
    """

    def __init__(self, inputs: Array, runs: int) -> None:
        self.tables: list[Array] = [FLOAT64.cast(inputs)] * runs
        self._generators = [np.random.default_rng(run) for run in range(runs)]
        self._plain = 0.0

    def floor(self, exact: list[Array], oracle: Array, own: float) -> float:
        """The floor from the inputs on, the worst sample's; at least what the steps add.

        Args:
            exact: what float64 makes of each of ``tables`` in this step.
            oracle: this step's result without any error.
            own: the floor of this step alone.
        """
        self._plain = root_sum_square(self._plain, own)
        size = sample_rms(oracle)
        noise = own * size.reshape(-1, *[1] * (oracle.ndim - 1))
        self.tables = [
            table + noise * generator.standard_normal(table.shape)
            for table, generator in zip(exact, self._generators, strict=True)
        ]
        errors = [sample_rms(table - oracle) for table in self.tables]
        if not errors:
            return self._plain
        error = np.sqrt(np.mean(np.square(errors), axis=0))
        moved = float(np.divide(error, size, out=np.zeros_like(size), where=size > 0).max())
        return max(self._plain, moved) if math.isfinite(moved) else self._plain
