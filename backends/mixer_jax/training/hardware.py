"""How fast the devices could be at best: what the share of a run (MFU) is counted from."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp

from mixer_spec.hardware import HARDWARE
from mixer_spec.recipe import Recipe

# What JAX calls the chips of mixer_spec.hardware, or a part of it.
_KINDS = {
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "A100": "a100",
    "H100": "h100",
    "H200": "h200",
}
_SIZE, _SECONDS = 1024, 0.2


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
