"""A training that the devices have no memory for is refused before it runs out of it."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest

from mixer_jax.training import room
from mixer_jax.training.mesh import placement
from mixer_jax.training.room import check_compiled, check_planned, device_memory
from mixer_spec import InputError, families
from mixer_spec.memory import memory_of_machine
from mixer_spec.plan import memory
from mixer_spec.recipes import recipe

SPEC = families.mixer(
    image_size=8, patch=2, channels=16, depth=2, token_hidden=8, channel_hidden=32, classes=10
)
DIGITS = recipe("digits")


def test_what_is_needed_is_what_the_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = math.ceil(1e9 * sum(part.value for part in memory(SPEC, DIGITS, chips=1)))
    alone = placement(devices=jax.devices()[:1])
    monkeypatch.setattr(room, "device_memory", lambda: needed)
    check_planned(SPEC, DIGITS, alone)
    monkeypatch.setattr(room, "device_memory", lambda: needed - 1)
    with pytest.raises(InputError, match=r"by the plan: weights .* gradients .* activations"):
        check_planned(SPEC, DIGITS, alone)


def test_what_is_needed_is_what_the_compiler_says(monkeypatch: pytest.MonkeyPatch) -> None:
    @jax.jit
    def cubed(table: jax.Array) -> jax.Array:
        return (table @ table) @ table

    table = jnp.ones((256, 256))
    least = 3 * table.nbytes  # what enters, what is between, what leaves
    monkeypatch.setattr(room, "device_memory", lambda: 2 * least)
    check_compiled(cubed, table)
    monkeypatch.setattr(room, "device_memory", lambda: least - 1)
    with pytest.raises(InputError, match=r"by the compiler: state and batch .* values between"):
        check_compiled(cubed, table)


def test_devices_of_the_processor_share_the_machines_memory() -> None:
    assert device_memory() == memory_of_machine() // jax.local_device_count()
