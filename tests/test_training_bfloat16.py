"""Training that computes in bfloat16: what is in which dtype, and that it follows float32."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from mixer_jax.training.mesh import placement
from mixer_jax.training.state import State, initial_state
from mixer_jax.training.step import Moment, Rows, make_step
from mixer_spec import families
from mixer_spec.batches import Batches
from mixer_spec.data import open_source
from mixer_spec.recipe import MovingAverage, Recipe, changed
from mixer_spec.recipes import recipe
from mixer_spec.schedule import learning_rate
from mixer_spec.starting import new_weights

SPEC = families.mixer(
    image_size=8, patch=2, channels=32, depth=2, token_hidden=16, channel_hidden=64, classes=10
)
STEPS = 60
SINGLE = changed(
    recipe("digits"),
    {
        "steps": str(STEPS),
        "schedule.warm_up": "10",
        "average.kind": "moving_average",
        "average.decay": "0.9",
    },
)
HALF = changed(SINGLE, {"compute": "bfloat16"})
LAST = 10  # steps, of 64 examples each
PRODUCTS = 10  # that a logit has passed: stem, head, and two for each of four MLPs

# Three standard errors of the mean loss of the last steps, relative. Each product rounds its result
# by at most 2^-8, evenly distributed, and independently of the others and of other examples.
BOUND = 3 * 2**-8 * math.sqrt(PRODUCTS / 3) / math.sqrt(LAST * SINGLE.batch)


@functools.cache
def rows_of_steps() -> list[Rows]:
    batches = Batches(open_source("digits", "train"), SINGLE)
    found = (batches[step] for step in range(STEPS))
    return [Rows(jnp.asarray(each.images), jnp.asarray(each.labels), None) for each in found]


def states(
    settings: Recipe, after: Callable[[State], State] = lambda state: state
) -> Iterator[tuple[State, Any]]:
    """State and metrics of every step, where ``after`` may spoil each state."""
    placed = placement()
    step = make_step(SPEC, settings, placed)
    state = initial_state(SPEC, settings, new_weights(SPEC, settings), placed)
    peak = settings.optimiser.learning_rate
    for number, rows in enumerate(rows_of_steps()):
        rate = learning_rate(settings.schedule, number, steps=STEPS, peak=peak)
        state, metrics = step(state, rows, Moment(np.int32(number), np.float64(rate)))
        yield state, metrics
        state = after(state)


@functools.cache
def losses(settings: Recipe) -> list[float]:
    return [float(metrics.loss) for _, metrics in states(settings)]


def ends(found: list[float]) -> float:
    """The mean loss of the last steps."""
    return float(np.mean(found[-LAST:]))


def in_half(array: jax.Array) -> jax.Array:
    """As if it were kept in bfloat16."""
    return array.astype(jnp.bfloat16).astype(array.dtype)


def test_state_gradients_and_loss_are_in_float32() -> None:
    assert isinstance(HALF.average, MovingAverage)
    state, metrics = next(states(HALF))
    found = {leaf.dtype.name for leaf in jax.tree.leaves(state) if leaf.ndim}
    assert found == {"float32"}
    assert metrics.loss.dtype == metrics.gradient_norm.dtype == jnp.float32
    # and they are no numbers of bfloat16 in a wider coat
    for tree in (state.params, state.optimiser, state.average):
        leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.size > 100]
        assert any(bool((in_half(leaf) != leaf).any()) for leaf in leaves)


def products(jaxpr: Any) -> Iterator[tuple[str, ...]]:
    """The dtypes of the factors of every matrix product, also inside of other programs."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield tuple(each.aval.dtype.name for each in equation.invars)
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


@pytest.mark.parametrize(("settings", "dtype"), [(HALF, "bfloat16"), (SINGLE, "float32")])
def test_every_matrix_product_is_of_the_recipes_dtype(settings: Recipe, dtype: str) -> None:
    placed = placement()
    state = initial_state(SPEC, settings, new_weights(SPEC, settings), placed)
    now = Moment(np.int32(0), np.float64(0.1))
    traced = make_step(SPEC, settings, placed).trace(state, rows_of_steps()[0], now)
    found = list(products(traced.jaxpr.jaxpr))
    # two more of each backward, but for the images
    assert len(found) == 3 * PRODUCTS - 1
    assert set(found) == {(dtype, dtype)}


def test_loss_falls_as_in_float32() -> None:
    single, half = losses(SINGLE), losses(HALF)
    assert ends(single) < 0.75 * single[0]
    assert ends(half) == pytest.approx(ends(single), rel=BOUND)
    assert half != single


def test_weights_that_were_kept_in_bfloat16_would_not_follow() -> None:
    def spoilt(state: State) -> State:
        return state._replace(params=jax.tree.map(in_half, state.params))

    found = [float(metrics.loss) for _, metrics in states(HALF, spoilt)]
    assert abs(ends(found) / ends(losses(SINGLE)) - 1) > 5 * BOUND
