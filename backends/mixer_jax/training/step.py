"""One step of a run, compiled: gradients in parts, clipping, the optimiser, and the average."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.forward import Index, Training, apply
from mixer_spec import ModelSpec
from mixer_spec.recipe import MovingAverage, Recipe

from .losses import losses
from .mesh import AXIS, Placement, check_batch
from .optim import Tree, direction, global_norm
from .state import State, abstract_state, dtype_of


class Rows(NamedTuple):
    """The examples of a step, all cut along their first axis.

    Args:
        images: ``[row, height, width, rgb]``; uint8 as photos have them, or as the model takes them.
        labels: ``[row, class]``.
        factors: ``[row, branch]``, see :func:`mixer_spec.stochastic_depth.branch_factors`.
    """

    images: jax.Array
    labels: jax.Array
    factors: jax.Array | None


class Moment(NamedTuple):
    """Where in the run a step is.

    Args:
        step: from 0; the state must be there.
        rate: the learning rate.
    """

    step: Any
    rate: Any


class Metrics(NamedTuple):
    """What a step tells: of the weights before it.

    Args:
        loss: the mean over the global batch.
        gradient_norm: of all weights together, before clipping.
        taken: whether both are numbers. Where not, the state stays as it was, and every later step
            is refused too.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    taken: jax.Array


Step = Callable[[State, Rows, Moment], tuple[State, Metrics]]
"""From a state, which is given up, to the next."""


@functools.lru_cache(maxsize=8)
def make_step(spec: ModelSpec, recipe: Recipe, placed: Placement) -> Step:
    """The compiled step of a run; the same one for equal arguments.

    Raises:
        InputError: if the batch does not divide over the devices and the parts of a step.
    """
    check_batch(recipe.batch, recipe.accumulation, placed.devices)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(spec, recipe, placed))
    towards = direction(recipe)

    def updated(state: State, gradients: Tree, norm: jax.Array, rate: jax.Array) -> State:
        along, optimiser = towards.update(gradients, state.optimiser, state.params, norm=norm)
        params = jax.tree.map(lambda w, d: w - rate.astype(w.dtype) * d, state.params, along)
        average = state.average
        if isinstance(recipe.average, MovingAverage):
            decay = recipe.average.decay
            average = jax.tree.map(lambda a, w: decay * a + (1 - decay) * w, average, params)
        return State(state.step + 1, params, optimiser, average)

    def step(state: State, rows: Rows, now: Moment) -> tuple[State, Metrics]:
        loss, gradients = _gradients(spec, recipe, placed, state.params, rows)
        norm = global_norm(gradients)
        taken = jnp.isfinite(loss) & jnp.isfinite(norm) & (state.step == now.step)
        after = jax.lax.cond(
            taken, updated, lambda state, *_: state, state, gradients, norm, now.rate
        )
        return after, Metrics(loss, norm, taken)

    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, placed.whole()))


def _gradients(
    spec: ModelSpec, recipe: Recipe, placed: Placement, params: Tree, rows: Rows
) -> tuple[jax.Array, Tree]:
    """The mean loss of the batch and its gradients, part after part."""
    if recipe.accumulation == 1:
        return jax.value_and_grad(_loss, argnums=2)(spec, recipe, params, rows)
    parts = jax.tree.map(lambda array: _parts(array, recipe.accumulation, placed), rows)

    def add(total: Any, part: Rows) -> tuple[Any, None]:
        found = jax.value_and_grad(_loss, argnums=2)(spec, recipe, params, part)
        return jax.tree.map(jnp.add, total, found), None

    zeros = jnp.zeros((), dtype_of(recipe)), jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, parts)[0]


def _parts(array: jax.Array, count: int, placed: Placement) -> jax.Array:
    """``[row, ...] -> [part, row, ...]``; each device keeps its rows, some for every part."""
    split = array.reshape(len(array) // count, count, *array.shape[1:]).swapaxes(0, 1)
    cut = jax.NamedSharding(placed.mesh, jax.P(None, AXIS))
    return jax.lax.with_sharding_constraint(split, cut)


def _loss(spec: ModelSpec, recipe: Recipe, params: Tree, rows: Rows) -> jax.Array:
    """The sum of these examples' losses over the size of the global batch."""
    logits = forward(spec, recipe, params, rows.images, rows.factors)
    return losses(recipe.loss, logits, rows.labels.astype(logits.dtype)).sum() / recipe.batch


def forward(
    spec: ModelSpec,
    recipe: Recipe,
    params: Tree,
    images: jax.Array,
    factors: jax.Array | None = None,
) -> jax.Array:
    """The logits ``[row, class]`` in the dtype of the state, computed as the recipe says."""
    compute = jnp.dtype(recipe.compute)
    half = compute == jnp.bfloat16
    logits = apply(
        spec,
        jax.tree.map(lambda leaf: leaf.astype(compute), params),
        pixels(recipe, images).astype(compute),
        precision=None if half else jax.lax.Precision.HIGHEST,
        training=Training(
            branch=_branch(factors, compute), rematerialise=recipe.rematerialise == "blocks"
        ),
    )
    return logits.astype(dtype_of(recipe))


def pixels(recipe: Recipe, images: jax.Array) -> jax.Array:
    """The images ``[row, height, width, rgb]`` as the model takes them; uint8 is normalised."""
    if images.dtype != jnp.uint8:
        return images
    of, dtype = recipe.data.evaluation, dtype_of(recipe)
    mean, std = (np.array(values, dtype) for values in (of.mean, of.std))
    return (images.astype(dtype) / 255 - mean) / std


def _branch(factors: jax.Array | None, compute: Any) -> Callable[[jax.Array, Index], jax.Array]:
    """Each branch's output times the factor of its example."""
    if factors is None:
        return Training().branch
    given = factors.astype(compute)
    return lambda output, index: output * given[:, index, None, None]
