"""The state of a run: everything that one step hands to the next, as one pytree.

No generator is in it: every draw is a function of the recipe's seed and the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mixer_jax.params import from_canonical, stack, to_canonical, unstack
from mixer_spec import ModelSpec
from mixer_spec.recipe import MovingAverage, Recipe
from mixer_spec.weights import Weights

from .mesh import Placement
from .optim import Tree, direction

_UNSCANNED = 12  # blocks, at most; those of L and H are more


class State(NamedTuple):
    """What a checkpoint holds.

    Args:
        step: how many steps were taken.
        params: nested, stacked where the blocks are scanned; in float32, or in float64 where the
            recipe computes in it.
        optimiser: what the optimiser remembers.
        average: of the parameters; an empty dict where the recipe has none.
    """

    step: jax.Array
    params: Tree
    optimiser: Any
    average: Tree


def dtype_of(recipe: Recipe) -> type[np.floating[Any]]:
    """What weights, gradients and moments are kept in."""
    return np.float64 if recipe.compute == "float64" else np.float32


def abstract_state(spec: ModelSpec, recipe: Recipe, placed: Placement) -> State:
    """Shapes, dtypes and shardings of a state; nothing is computed."""
    shapes = {
        name: jax.ShapeDtypeStruct(parameter.shape, dtype_of(recipe))
        for name, parameter in spec.parameters().items()
    }
    state: State = jax.eval_shape(
        lambda weights: _fresh(recipe, _nested(spec, recipe, weights)), shapes
    )
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        placed.of(state),
    )


def initial_state(spec: ModelSpec, recipe: Recipe, weights: Weights, placed: Placement) -> State:
    """The state before the first step.

    Args:
        spec: the architecture.
        recipe: how it is trained.
        weights: canonical name to array; converted to the dtype of the state.
        placed: where the arrays go.
    """
    dtype = dtype_of(recipe)
    cast = {name: np.asarray(array, dtype) for name, array in weights.items()}
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(spec, recipe, placed))
    params = jax.tree.map(_spread, _nested(spec, recipe, cast), shardings.params)
    # A program of its own, so that no array of the state shares its memory with another.
    begin = jax.jit(lambda params: _fresh(recipe, params), out_shardings=shardings)
    state: State = begin(params)
    return state


def _nested(spec: ModelSpec, recipe: Recipe, weights: Mapping[str, Any]) -> Tree:
    """The parameters, stacked if the blocks are scanned: if they are many, or computed again.

    A scan compiles one block for all, but each of its steps copies a block's parameters and
    gradients, which costs a tenth of the time on a CPU.
    """
    params = from_canonical(weights)
    scanned = spec.depth > _UNSCANNED or recipe.rematerialise == "blocks"
    return stack(spec, params) if scanned else params


def _fresh(recipe: Recipe, params: Tree) -> State:
    averaged = isinstance(recipe.average, MovingAverage)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimiser=direction(recipe).init(params),
        average=jax.tree.map(jnp.copy, params) if averaged else {},
    )


def _spread(array: NDArray[Any], sharding: jax.NamedSharding) -> jax.Array:
    """An array that every process has whole, as a global one."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def result(spec: ModelSpec, state: State, placed: Placement) -> Weights:
    """The weights that a run ends with, the average where there is one, in canonical names."""
    found = state.average or state.params
    whole = jax.jit(lambda tree: tree, out_shardings=placed.whole())(found)
    return to_canonical(unstack(spec, jax.tree.map(np.asarray, whole)))
