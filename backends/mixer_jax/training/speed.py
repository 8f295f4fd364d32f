"""How fast a run is: images a second, and their share of what its devices could do at best (MFU)."""

from __future__ import annotations

import time
from collections import deque

import jax
import jax.numpy as jnp

from mixer_spec import ModelSpec
from mixer_spec.hardware import HARDWARE
from mixer_spec.recipe import Recipe

from .log import Log
from .mesh import Placement

# What JAX calls the chips of mixer_spec.hardware, or a part of it; the first that fits. An H100 on
# a PCIe card is slower than the one in the table, and has another name.
_KINDS = {
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v6": "v6e",
    "A100": "a100",
    "H100 80GB HBM3": "h100",
    "H200": "h200",
}
_SIZE, _SECONDS = 1024, 0.2


class Speed:
    """The speed of one run.

    Args:
        spec: the architecture.
        recipe: batch and dtype.
        placed: over which devices.
        log: that the figures are written to; ``None`` for none.
    """

    def __init__(self, spec: ModelSpec, recipe: Recipe, placed: Placement, log: Log | None) -> None:
        self._log = log
        self._batch = recipe.batch
        peak, self.basis = peak_flops(recipe)
        # Three products for each of the forward pass, of two operations each.
        self._of_peak = 6 * spec.multiply_adds / (peak * placed.devices)
        self._times: deque[tuple[int, float]] = deque(maxlen=50)
        self._now: dict[str, float] = {}

    def at(self, done: int) -> dict[str, float]:
        """Over the last 50 steps; nothing before the second, since the first compiles."""
        self._times.append((done, time.perf_counter()))
        (first, began), (last, ended) = self._times[0], self._times[-1]
        if last > first:
            images = (last - first) * self._batch / (ended - began)
            self._now = {"images_per_second": images, "mfu": images * self._of_peak}
        return self._now

    def log(self, done: int) -> None:
        """Write the figures of :meth:`at` down."""
        if self._log and self._now:
            self._log.speed(done, self._now)


def peak_flops(recipe: Recipe) -> tuple[float, str]:
    """Floating-point operations a second of one device, and where the figure is from.

    The makers' figure for bfloat16 on a known chip; else the rate of a large matrix product of the
    recipe's dtype, measured here and now, on the share of the machine that one device has.
    """
    device = jax.local_devices()[0]
    if recipe.compute == "bfloat16":
        for kind, name in _KINDS.items():
            if kind.lower() in device.device_kind.lower():
                teraflops = HARDWARE[name].teraflops
                return teraflops * 1e12, f"{teraflops:g} TFLOP/s of {name}, as its maker says"
    rate = _measured(recipe.compute)
    # Simulated devices share the cores of one CPU.
    share = rate / jax.local_device_count() if device.platform == "cpu" else rate
    return share, f"{rate / 1e9:.0f} GFLOP/s of a matrix product of {_SIZE}, measured"


def _measured(dtype: str) -> float:
    one = jnp.ones((_SIZE, _SIZE), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a))
    product(one).block_until_ready()
    best = float("inf")
    stop = time.perf_counter() + _SECONDS
    while time.perf_counter() < stop:
        started = time.perf_counter()
        product(one).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2 * _SIZE**3 / best
