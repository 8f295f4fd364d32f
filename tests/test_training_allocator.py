"""A training step does not ask the system for its memory in every step."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS, WINDOWS = 5, 6  # the heap grows now and then, until it has its size
MIB = 64
LARGE_STEPS = f"""
import resource
from mixer_jax.training.allocator import keep_freed_memory
if {{keep}}:
    assert keep_freed_memory()
import jax, jax.numpy as jnp
step = jax.jit(jax.grad(lambda weight, tokens: jnp.tanh(tokens @ weight).sum()))
weight, tokens = jnp.ones((32, 32)), jnp.ones(({MIB} * 2**18 // 32, 32))
windows = []
for _ in range({WINDOWS}):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({STEPS}):
        step(weight, tokens).block_until_ready()
    windows.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*windows)
"""


def faults(*, keep: bool) -> list[int]:
    """Pages that the system had to bring, by window."""
    text = LARGE_STEPS.format(keep=keep)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about the GNU C library")
def test_the_buffers_of_a_step_stay_where_they_are() -> None:
    pages = STEPS * MIB * 2**20 // 4096
    kept, anew = faults(keep=True), faults(keep=False)
    assert min(kept) < 0.01 * pages
    assert min(anew) > 0.5 * pages  # as it is without
    assert sum(kept) < 0.5 * sum(anew)  # while the heap grows too


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from mixer_jax.training.allocator import keep_freed_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
