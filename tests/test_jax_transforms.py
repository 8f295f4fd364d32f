"""JAX's transformations of the forward pass: jit, vmap, grad, sharding, and its own dtypes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax import apply, apply_with_taps, from_canonical, stack, to_canonical, unstack
from mixer_spec import ModelSpec, ablations, families
from mixer_spec.blocks import NORM
from mixer_spec.errors import InputError, WeightsError
from mixer_spec.layers import DepthwiseConv
from mixer_spec.shapes import TokenIds, Vectors

_WIDTHS: dict[str, Any] = {"channels": 4, "token_hidden": 3, "channel_hidden": 5, "classes": 3}
SPECS = {
    "mixer": families.mixer(
        image_size=(8, 4), patch=4, channels=5, depth=2, token_hidden=3, channel_hidden=6, classes=3
    ),
    "resmlp": families.resmlp(image_size=8, patch=4, channels=3, depth=1, classes=3),
    "gmlp": families.gmlp(image_size=(8, 4), patch=4, channels=3, depth=1, classes=3),
    "gmixer": families.gmixer(
        image_size=(8, 4), patch=4, channels=3, depth=1, token_hidden=4, channel_hidden=4, classes=3
    ),
    "vit": families.vit(
        image_size=(8, 4), patch=4, channels=4, depth=1, heads=2, channel_hidden=5, classes=3
    ),
    "feed forward": families.feed_forward(
        image_size=(8, 4), patch=4, channels=4, depth=1, classes=3
    ),
    "untied": ablations.mixer_untied(**_WIDTHS, image_size=(8, 4), patch=4, depth=1),
    "views": ablations.mixer_grouped(
        **_WIDTHS, image_size=(8, 4), patch=4, depth=1, groups=2, views=True
    ),
    "pyramid": ablations.mixer_pyramid(
        **_WIDTHS, image_size=(8, 4), patch=4, depths=(1, 1), shrink=2
    ),
    "conv": ablations.resmlp_ablation(
        image_size=(8, 12), patch=4, channels=6, depth=1, mixing="separable_conv", norm=NORM,
        classes=3,
    ),
    "words": families.sequence_mixer(**_WIDTHS, depth=1, input=TokenIds(tokens=3, vocabulary=4)),
    "vectors": families.sequence_mixer(**_WIDTHS, depth=1, input=Vectors(tokens=3, channels=2)),
}  # fmt: skip


def _params(spec: ModelSpec, dtype: Any = np.float32) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    weights = {
        name: (generator.standard_normal(p.shape) * (p.fan_in or 1) ** -0.5).astype(dtype)
        for name, p in spec.parameters().items()
    }
    return from_canonical(weights)


def _inputs(spec: ModelSpec, batch: int, dtype: Any = np.float32) -> Any:
    generator, shape = np.random.default_rng(1), (batch, *spec.input.shape)
    if isinstance(spec.input, TokenIds):
        return generator.integers(spec.input.vocabulary, size=shape)
    return generator.standard_normal(shape).astype(dtype)


_jitted = jax.jit(apply, static_argnums=0)


@pytest.mark.parametrize("name", ["resmlp", "untied", "conv", "words"])
def test_jit_gives_the_numbers_of_eager_evaluation(name: str) -> None:
    spec = SPECS[name]
    params, inputs = _params(spec), _inputs(spec, 2)
    eager = apply(spec, params, inputs)
    jitted = _jitted(spec, params, inputs)
    np.testing.assert_allclose(jitted, eager, rtol=1e-5)
    assert float(jnp.abs(eager).min()) > 0


@pytest.mark.parametrize("name", ["vit", "untied", "conv", "words"])
def test_vmap_over_single_inputs_gives_the_numbers_of_the_batch(name: str) -> None:
    spec = SPECS[name]
    params, inputs = _params(spec), _inputs(spec, 3)
    single = jax.jit(jax.vmap(lambda one: apply(spec, params, one[None])[0]))(inputs)
    np.testing.assert_allclose(single, _jitted(spec, params, inputs), rtol=1e-5)


def test_vmap_over_stacked_models_gives_the_numbers_of_each() -> None:
    spec = SPECS["mixer"]
    params, images = _params(spec), _inputs(spec, 2)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, params)
    both = jax.tree.map(lambda *leaves: np.stack(leaves), params, doubled)
    found = jax.jit(jax.vmap(lambda one: apply(spec, one, images)))(both)
    np.testing.assert_allclose(found[0], _jitted(spec, params, images), rtol=1e-5)
    np.testing.assert_allclose(found[1], _jitted(spec, doubled, images), rtol=1e-5)
    assert not np.allclose(found[0], found[1])


# A softmax does not see what is added to all of its scores, nor a LayerNorm what is added to all
# channels of a token, so the derivatives by these are zero.
_WITHOUT_EFFECT = {
    "mixer": "token_mixing.dense_1.bias",
    "gmixer": "token_mixing.dense_1.bias",
    "feed forward": "token_mixing.dense_1.bias",
    "pyramid": ("token_mixing.dense_1.bias", "transitions.1.dense_1.bias"),
    "words": "token_mixing.dense_1.bias",
    "vectors": "token_mixing.dense_1.bias",
    "vit": "attention.key.bias",
}


@pytest.mark.parametrize("name", SPECS)
def test_the_gradient_of_every_weight_is_that_of_finite_differences(name: str) -> None:
    spec = SPECS[name]
    with jax.enable_x64(True):
        params, inputs = _params(spec, np.float64), _inputs(spec, 2, np.float64)
        target = np.random.default_rng(2).standard_normal((2, spec.classes))

        @jax.jit
        def loss(weights: dict[str, Any]) -> jax.Array:
            return jnp.square(apply(spec, from_canonical(weights), inputs) - target).sum()

        weights = to_canonical(params)
        gradient = jax.jit(jax.grad(loss))(weights)
        generator = np.random.default_rng(3)
        for weight, value in weights.items():
            direction = generator.standard_normal(value.shape)
            ahead = loss({**weights, weight: value + 1e-5 * direction})
            behind = loss({**weights, weight: value - 1e-5 * direction})
            slope = np.vdot(gradient[weight], direction)
            size = np.linalg.norm(gradient[weight]) * np.linalg.norm(direction)
            no_effect = name in _WITHOUT_EFFECT and weight.endswith(_WITHOUT_EFFECT[name])
            assert (size < 1e-9) == no_effect, weight
            assert abs(slope - float(ahead - behind) / 2e-5) < 1e-7 * size + 1e-9, weight


def test_the_gradient_through_the_scan_is_that_of_the_plain_blocks() -> None:
    spec = SPECS["mixer"]
    with jax.enable_x64(True):
        params, images = _params(spec, np.float64), _inputs(spec, 2, np.float64)

        def loss(params: dict[str, Any]) -> jax.Array:
            return jnp.square(apply(spec, params, images)).sum()

        plain = to_canonical(jax.jit(jax.grad(loss))(params))
        scanned = to_canonical(unstack(spec, jax.jit(jax.grad(loss))(stack(spec, params))))
    assert plain.keys() == scanned.keys()
    for name, gradient in plain.items():
        np.testing.assert_allclose(scanned[name], gradient, rtol=1e-10, atol=1e-12, err_msg=name)


def _primitives(jaxpr: Any) -> list[Any]:
    """Every equation of a jaxpr, those inside its scans and calls too."""
    found = []
    for equation in jaxpr.eqns:
        found.append(equation)
        for value in equation.params.values():
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                found += _primitives(getattr(value, "jaxpr", value))
    return found


@pytest.mark.parametrize("precision", [jax.lax.Precision.HIGHEST, None])
@pytest.mark.parametrize("name", SPECS)
def test_every_matrix_product_has_the_precision_asked_for(name: str, precision: Any) -> None:
    spec = SPECS[name]
    trace = jax.make_jaxpr(lambda p, x: apply(spec, p, x, precision=precision))
    equations = _primitives(trace(_params(spec), _inputs(spec, 2)).jaxpr)
    found = [e.params["precision"] for e in equations if "precision" in e.params]
    products = sum(
        parameter.fan_in is not None
        for node in spec.nodes()
        if not isinstance(node.layer, DepthwiseConv)  # value by value, in full precision anyway
        for parameter in node.own_parameters.values()
    )
    assert len(found) >= products
    assert set(found) == {precision and (precision, precision)}


def test_the_size_of_a_scanned_program_does_not_grow_with_depth() -> None:
    sizes = []
    for depth in (2, 6):
        spec = families.mixer(
            image_size=8, patch=4, channels=5, depth=depth, token_hidden=3, channel_hidden=6
        )
        trace = jax.make_jaxpr(lambda p, x, spec=spec: apply(spec, p, x))
        for params in (stack(spec, _params(spec)), _params(spec)):
            sizes.append(len(_primitives(trace(params, _inputs(spec, 1)).jaxpr)))
    assert sizes[0] == sizes[2]
    assert sizes[1] < sizes[3]


@pytest.mark.parametrize("name", ["mixer", "feed forward", "conv"])
def test_bfloat16_parameters_and_images_stay_bfloat16(name: str) -> None:
    spec = SPECS[name]
    params, images = _params(spec), _inputs(spec, 4)
    halved = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    exact = _jitted(spec, params, images)
    for form in (halved, stack(spec, halved)):
        found = _jitted(spec, form, images.astype(jnp.bfloat16))
        assert found.dtype == jnp.bfloat16
        assert 1e-4 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < 0.05


def test_wrong_images_are_refused_while_tracing() -> None:
    spec = SPECS["mixer"]
    channels_first = jnp.ones((2, 3, 8, 4))
    with pytest.raises(InputError, match=r"channels first: use images.transpose"):
        _jitted(spec, _params(spec), channels_first)
    with pytest.raises(InputError, match="wrong dtype; expected float32, got uint8"):
        apply(spec, _params(spec), jnp.ones((2, 8, 4, 3), jnp.uint8))
    with pytest.raises(InputError, match="unknown taps"):
        apply_with_taps(spec, _params(spec), _inputs(spec, 1), ["blocks.9.token_mixing"])


@pytest.mark.parametrize("scan", [False, True], ids=["plain", "stacked"])
def test_wrong_parameters_are_refused_all_at_once(scan: bool) -> None:
    spec = SPECS["mixer"]
    params = _params(spec)
    params["norm"] = {"scale": np.ones(4, np.float32)}
    params["tail"] = {"bias": np.ones(1, np.float32)}
    if scan:
        params = {**stack(spec, _params(spec)), "norm": params["norm"], "tail": params["tail"]}
    with pytest.raises(WeightsError) as caught:
        _jitted(spec, params, _inputs(spec, 1))
    assert caught.value.where == "params"
    assert "\n".join(caught.value.problems).splitlines() == [
        "- norm.scale [5] (expected)",
        "  + norm.scale [4] (wrong shape)",
        "- norm.bias [5] (missing)",
        "+ tail.bias [1] (not in the spec)",
    ]


_ON_FOUR_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
from mixer_jax import apply, init, stack
from mixer_spec import families
spec = families.mixer(
    image_size=8, patch=4, channels=8, depth=2, token_hidden=4, channel_hidden=12, classes=4
)
params = jax.tree.map(lambda leaf: leaf + jnp.float32(0.1), init(spec, 0))
images = np.random.default_rng(0).standard_normal((8, 8, 8, 3), np.float32)
mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
def shard(leaf):  # the last axis, where it can be cut in four
    axes = (None,) * (leaf.ndim - 1) + ("data",) if leaf.shape[-1] % 4 == 0 else ()
    return jax.device_put(leaf, jax.NamedSharding(mesh, jax.P(*axes)))
run = jax.jit(lambda params, images: apply(spec, params, images))
alone = run(params, images)
batches = jax.device_put(images, jax.NamedSharding(mesh, jax.P("data")))
for form in (params, stack(spec, params)):
    together = run(jax.tree.map(shard, form), batches)
    assert len(together.sharding.device_set) == 4
    np.testing.assert_allclose(together, alone, rtol=1e-5)
print("sharded")
"""


def test_sharded_parameters_and_batches_give_the_same_numbers() -> None:
    # In a process of its own: the number of devices is fixed when JAX starts.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _ON_FOUR_DEVICES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "sharded\n", done.stderr
