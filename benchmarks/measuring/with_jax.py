"""The JAX contenders, ready to run; the threads are those of the processor's cores we may use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mixer_jax

from .contender import PRODUCT, Contender, Task
from .plain_flax import PlainMixer, params
from .sizes import sizes_of


def backend(task: Task) -> Contender:
    """``mixer_jax.apply`` under ``jit``."""
    own = jax.tree.map(jnp.array, mixer_jax.from_canonical(task.weights))
    return _contender(functools.partial(mixer_jax.apply, task.spec), own, task)


def plain(task: Task) -> Contender:
    """The plain Flax module under ``jit``."""
    sizes = sizes_of(task.spec)
    module = PlainMixer(sizes)

    def apply(own: Any, images: jax.Array) -> Any:
        return module.apply({"params": own}, images)

    return _contender(apply, params(task.weights, sizes.depth), task)


def _contender(apply: Callable[[Any, jax.Array], Any], own: Any, task: Task) -> Contender:
    compiled = jax.jit(apply)
    product = jax.jit(jnp.matmul)
    images = jnp.array(task.images)
    rows, inner, columns = PRODUCT
    left, right = jnp.ones((rows, inner)), jnp.ones((inner, columns))
    return Contender(
        lambda: np.asarray(compiled(own, images)),
        lambda: product(left, right).block_until_ready(),
    )
