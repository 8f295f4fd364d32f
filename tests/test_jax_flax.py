"""The Flax face: the names and numbers of the pure functions, in Flax's and Optax's habits."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from numpy.typing import NDArray

from mixer_jax import SpecModule, apply, from_canonical, init, stack, to_canonical
from mixer_spec import families
from mixer_spec.errors import InputError, WeightsError

SPEC = families.mixer(
    image_size=8, patch=4, channels=6, depth=2, token_hidden=5, channel_hidden=7, classes=3
)
MODULE = SpecModule(SPEC)
IMAGES = np.random.default_rng(0).standard_normal((4, 8, 8, 3), np.float32)


def _noisy() -> dict[str, object]:
    generator = np.random.default_rng(1)
    shapes = {name: parameter.shape for name, parameter in SPEC.parameters().items()}
    return from_canonical(
        {name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    )


def test_init_makes_the_canonical_names_and_shapes() -> None:
    variables = jax.eval_shape(MODULE.init, jax.random.key(0), IMAGES)
    assert set(variables) == {"params"}
    shapes = {name: array.shape for name, array in to_canonical(variables["params"]).items()}
    assert shapes == {name: parameter.shape for name, parameter in SPEC.parameters().items()}


def test_the_values_depend_on_the_key_and_on_nothing_else() -> None:
    small = families.mixer(
        image_size=8, patch=4, channels=6, depth=0, token_hidden=1, channel_hidden=1, classes=3
    )
    make = jax.jit(SpecModule(small).init)

    def kernel(seed: int) -> NDArray[np.float32]:
        return np.asarray(make(jax.random.key(seed), IMAGES)["params"]["stem"]["kernel"])

    np.testing.assert_array_equal(kernel(0), kernel(0))
    assert not np.allclose(kernel(0), kernel(1))


def test_apply_gives_the_numbers_of_the_pure_function() -> None:
    params = _noisy()
    expected = jax.jit(apply, static_argnums=0)(SPEC, params, IMAGES)
    for form in (params, stack(SPEC, params)):
        found = jax.jit(MODULE.apply)({"params": form}, IMAGES)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_precision_reaches_the_matrix_products() -> None:
    params = {"params": _noisy()}
    for precision in (None, "highest"):
        program = str(jax.make_jaxpr(SpecModule(SPEC, precision).apply)(params, IMAGES))
        assert ("Precision.HIGHEST" in program) == (precision == "highest")


def test_it_works_inside_another_module() -> None:
    class Calibrated(nn.Module):
        @nn.compact
        def __call__(self, images: jax.Array) -> jax.Array:
            logits = SpecModule(SPEC, name="mixer")(images)
            return jnp.multiply(logits, self.param("temperature", nn.initializers.ones, ()))

    variables = jax.eval_shape(Calibrated().init, jax.random.key(0), IMAGES)
    assert set(variables["params"]) == {"mixer", "temperature"}
    params = {"mixer": _noisy(), "temperature": jnp.float32(2)}
    found = jax.jit(Calibrated().apply)({"params": params}, IMAGES)
    expected = 2 * jax.jit(apply, static_argnums=0)(SPEC, params["mixer"], IMAGES)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_train_state_learns_to_tell_images_apart() -> None:
    labels = np.array([0, 1, 2, 1])
    state = TrainState.create(  # type: ignore[no-untyped-call]
        apply_fn=MODULE.apply, params=init(SPEC, 0), tx=optax.adam(1e-2)
    )

    @jax.jit
    def step(state: TrainState) -> tuple[TrainState, jax.Array]:
        def loss(params: object) -> jax.Array:
            logits = state.apply_fn({"params": params}, IMAGES)
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

        value, gradient = jax.value_and_grad(loss)(state.params)
        updated: TrainState = state.apply_gradients(grads=gradient)  # type: ignore[no-untyped-call]
        return updated, value

    losses = []
    for _ in range(40):
        state, value = step(state)
        losses.append(float(value))
    assert losses[0] == pytest.approx(np.log(3))  # the head begins with zeros
    assert losses[-1] < 0.1
    assert to_canonical(state.params).keys() == SPEC.parameters().keys()


def test_missing_parameters_and_wrong_images_are_errors_of_this_project() -> None:
    with pytest.raises(WeightsError, match=r"stem.kernel \[4, 4, 3, 6\] \(missing\)"):
        MODULE.apply({"params": {}}, IMAGES)
    with pytest.raises(InputError, match="inputs: wrong size"):
        jax.eval_shape(MODULE.init, jax.random.key(0), IMAGES[:, :4])
