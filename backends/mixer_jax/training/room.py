"""Refuse a training that the devices have no memory for, before they run out of it."""

from __future__ import annotations

from typing import Any

import jax

from mixer_spec import ModelSpec
from mixer_spec.errors import InputError
from mixer_spec.memory import memory_of_machine
from mixer_spec.plan import memory
from mixer_spec.recipe import Recipe

from .mesh import Placement


def check_planned(spec: ModelSpec, recipe: Recipe, placed: Placement) -> None:
    """Refuse what does not fit by the formulas of ``mixer-spec plan``: before anything is made.

    A compiler needs more, see :func:`check_compiled`.

    Raises:
        InputError: with every part of what it would need.
    """
    figures = [*memory(spec, recipe, chips=placed.devices, parameters=placed.parameters)]
    parts = ", ".join(f"{figure.name} {figure.value:.1f}" for figure in figures)
    _check(1e9 * sum(figure.value for figure in figures), f"by the plan: {parts}")


def check_compiled(step: Any, *arguments: Any) -> None:
    """Refuse a jitted step that does not fit as it was compiled: before it is taken.

    JAX keeps what it compiled, so that the step itself is not compiled again.

    Raises:
        InputError: with what the compiler says that it needs.
    """
    found = step.lower(*arguments).compile().memory_analysis()
    if found is None:
        return  # not every platform tells
    between = found.temp_size_in_bytes
    state = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    _check(
        between + state,
        f"by the compiler: state and batch {state / 1e9:.1f}, values between {between / 1e9:.1f}",
    )


def device_memory() -> int:
    """Bytes of one device; where devices are the processor's, its share of the machine's memory."""
    told = jax.local_devices()[0].memory_stats() or {}
    return int(told.get("bytes_limit") or memory_of_machine() // jax.local_device_count())


def _check(needed: float, how: str) -> None:
    held = device_memory()
    if needed > held:
        raise InputError(
            "training",
            f"does not fit into the memory; expected at most {held / 1e9:.1f} GB on each device, "
            f"got {needed / 1e9:.1f} GB ({how}); do a smaller `--set batch`, `--set "
            "accumulation=2` or more, `--set rematerialise=blocks`, `--parameters sharded` on more "
            "devices, or a lower resolution",
        )
