"""From a recipe's optimiser to Optax: clipping, the direction of a step, and the moving average.

The learning rate stays outside: it comes from :func:`mixer_spec.schedule.learning_rate`, the same
number for every backend.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mixer_spec.recipe import ClipByGlobalNorm, Recipe
from mixer_spec.training import AdamW, Momentum, Optimiser, Sgd

Tree = Any
"""A pytree of arrays, nested by the canonical names."""


def direction(recipe: Recipe) -> optax.GradientTransformationExtraArgs:
    """From the gradients of nested parameters to what the learning rate is multiplied with.

    The update of a step is ``w - learning_rate * direction``, as the NumPy optimisers of
    ``mixer_spec.reference`` compute it. It is given ``norm``, see :func:`global_norm`.
    """
    parts = []
    if isinstance(recipe.clip, ClipByGlobalNorm):
        parts.append(_clip(recipe.clip.norm))
    return optax.with_extra_args_support(optax.chain(*parts, *_unscaled(recipe.optimiser_by_rate)))


def global_norm(gradients: Tree) -> jax.Array:
    """The length of all gradients together."""
    return jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradients)))


def _clip(most: float) -> optax.GradientTransformationExtraArgs:
    """As Optax's clip_by_global_norm, but with a norm that was counted already, and one factor.

    To count again reads all gradients once more; to divide each by the norm writes them once more.
    """

    def update(
        gradients: Tree, state: Any, params: Tree | None = None, *, norm: jax.Array, **_: Any
    ) -> tuple[Tree, Any]:
        factor = jnp.where(norm < most, 1.0, most / norm)
        return jax.tree.map(lambda g: g * factor, gradients), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _unscaled(optimiser: Optimiser) -> list[optax.GradientTransformation]:
    match optimiser:
        case Sgd():
            return []
        case Momentum(decay=decay, form=form):
            return [optax.trace(decay, nesterov=form == "nesterov")]
        case AdamW(weight_decay=decay, decayed=ends):
            return [
                adam_moments(optimiser),
                optax.add_decayed_weights(decay, mask=lambda params: decays(params, ends)),
            ]


def decays(params: Tree, ends: tuple[str, ...]) -> Tree:
    """Which of nested parameters decay, by the ends of their names."""
    return jax.tree.map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator=".").endswith(ends),
        params,
    )


class Moments(NamedTuple):
    """What Adam remembers.

    Args:
        steps: taken.
        first: moment, like the parameters.
        second: moment, like the parameters.
    """

    steps: jax.Array
    first: Tree
    second: Tree


def adam_moments(adam: AdamW) -> optax.GradientTransformation:
    """``m' / (sqrt(v') + epsilon)``, as :class:`mixer_spec.training.AdamW` defines it.

    Optax's own computes ``1 - 0.999^t`` as it stands, which in float32 is off by 1e-5 of its value
    in the first steps; ``-expm1(t log 0.999)`` is not.
    """

    def start(params: Tree) -> Moments:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return Moments(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def update(
        gradients: Tree, before: Moments, params: Tree | None = None
    ) -> tuple[Tree, Moments]:
        def moment(decay: float, power: int, old: Tree) -> Tree:
            return jax.tree.map(lambda m, g: decay * m + (1.0 - decay) * g**power, old, gradients)

        steps = before.steps + 1
        first = moment(adam.beta1, 1, before.first)
        second = moment(adam.beta2, 2, before.second)

        def along(m: jax.Array, v: jax.Array) -> jax.Array:
            m, v = m / _correction(adam.beta1, steps, m), v / _correction(adam.beta2, steps, v)
            return m / (jnp.sqrt(v) + adam.epsilon)

        return jax.tree.map(along, first, second), Moments(steps, first, second)

    return optax.GradientTransformation(start, update)


def _correction(decay: float, steps: jax.Array, like: jax.Array) -> jax.Array:
    """``1 - decay^steps``, in the dtype of ``like``."""
    if decay == 0.0:
        return jnp.ones((), like.dtype)
    return -jnp.expm1(steps.astype(like.dtype) * math.log(decay))
