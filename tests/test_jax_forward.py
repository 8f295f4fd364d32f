"""The JAX forward pass against the float64 reference: every layer kind, tap and precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from mixer_jax import JaxBackend, apply_with_taps, from_canonical
from mixer_jax.backend import JaxModel
from mixer_jax.layers import COMPUTE, Own, Run
from mixer_spec import ModelSpec, Stage, ablations, families
from mixer_spec.layers import (
    Affine,
    AnyLayer,
    ChannelDense,
    DepthwiseConv,
    Gelu,
    Head,
    LayerNorm,
    MeanPool,
    PatchEmbed,
    Residual,
    TokenDense,
)
from mixer_spec.reference import Shuffled, forward
from mixer_spec.shapes import Image, TokenIds, Vectors

Arrays = Mapping[str, NDArray[Any]]

_NORM = LayerNorm(epsilon=1e-6)


def _pyramid() -> ModelSpec:
    """Two stages of different widths with a transition between them, an oblong patch, one class."""

    def mixing(features: int) -> tuple[Residual, ...]:
        token_layers = (_NORM, TokenDense(features=6), Gelu(approximation="none"))
        channel_layers = (_NORM, ChannelDense(features=7), Gelu(approximation="tanh"))
        return (
            Residual(name="token_mixing", layers=(*token_layers, TokenDense(features=6))),
            Residual(
                name="channel_mixing", layers=(*channel_layers, ChannelDense(features=features))
            ),
        )

    return ModelSpec(
        input=Image(height=6, width=6, channels=1),
        stem=PatchEmbed(patch=(2, 3), features=5),
        embeddings=(),
        stages=(
            Stage(transition=(), block=mixing(5), depth=2),
            Stage(transition=(_NORM, ChannelDense(features=8)), block=mixing(8), depth=3),
            Stage(transition=(), block=mixing(8), depth=0),
        ),
        norm=_NORM,
        pool=MeanPool(),
        head=Head(classes=1),
    )


_WIDTHS: dict[str, Any] = {"channels": 12, "token_hidden": 5, "channel_hidden": 7, "classes": 3}
_SIZES = {**_WIDTHS, "image_size": (8, 12), "patch": 4}
_SEQUENCE = {**_WIDTHS, "depth": 2}
_RESMLP: dict[str, Any] = {
    "image_size": (9, 15), "patch": 3, "channels": 4, "depth": 2, "classes": 3
}  # fmt: skip

SPECS = {
    "mixer": families.mixer(
        image_size=(8, 12), patch=4, channels=9, depth=3, token_hidden=5, channel_hidden=11,
        classes=3,
    ),
    "resmlp": families.resmlp(image_size=8, patch=4, channels=6, depth=2, classes=3),
    "gmlp": families.gmlp(image_size=(12, 8), patch=4, channels=5, depth=2, classes=3),
    "gmixer": families.gmixer(
        image_size=9, patch=3, channels=7, depth=2, token_hidden=6, channel_hidden=8, classes=1
    ),
    "vit": families.vit(
        image_size=(4, 8), patch=4, channels=6, depth=2, heads=3, channel_hidden=7, classes=3
    ),
    "vit mean": families.vit(
        image_size=(4, 8), patch=4, channels=6, depth=2, heads=2, channel_hidden=7, pool="mean",
        classes=3,
    ),
    "feed forward": families.feed_forward(
        image_size=(8, 12), patch=4, channels=5, depth=2, classes=3
    ),
    "untied": ablations.mixer_untied(**_SIZES, depth=2),
    "grouped": ablations.mixer_grouped(**_SIZES, depth=2, groups=3, views=False),
    "views": ablations.mixer_grouped(**_SIZES, depth=2, groups=2, views=True),
    "shrinking": ablations.mixer_pyramid(**_SIZES, depths=(2, 1), shrink=3),
    "resmlp mlp": ablations.resmlp_ablation(**_RESMLP, mixing="mlp", norm=Affine()),
    "resmlp conv": ablations.resmlp_ablation(**_RESMLP, mixing="conv", norm=Affine()),
    "resmlp sepconv": ablations.resmlp_ablation(**_RESMLP, mixing="separable_conv", norm=_NORM),
    "words": families.sequence_mixer(input=TokenIds(tokens=5, vocabulary=9), **_SEQUENCE),
    "vectors": families.sequence_mixer(input=Vectors(tokens=5, channels=4), **_SEQUENCE),
    "pyramid": _pyramid(),
    "without blocks": families.mixer(
        image_size=4, patch=4, channels=3, depth=0, token_hidden=1, channel_hidden=1, classes=2
    ),
}  # fmt: skip


def _weights(spec: ModelSpec, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Values without a zero or a symmetry; kernels scaled so that the numbers stay near one."""
    generator = np.random.default_rng(seed)
    found = {}
    for name, parameter in spec.parameters().items():
        scale = (parameter.fan_in or 1) ** -0.5
        shift = 1.0 if name.endswith("scale") else 0.0
        values = shift + scale * generator.standard_normal(parameter.shape)
        found[name] = values.astype(np.float32)
    return found


def _inputs(spec: ModelSpec, batch: int) -> NDArray[Any]:
    generator, shape = np.random.default_rng(7), (batch, *spec.input.shape)
    if isinstance(spec.input, TokenIds):
        return generator.integers(spec.input.vocabulary, size=shape)
    return generator.standard_normal(shape, np.float32)


def _rms(x: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def _relative_errors(found: Arrays, truth: Arrays) -> dict[str, float]:
    assert found.keys() == truth.keys()
    assert {tap: x.shape for tap, x in found.items()} == {t: x.shape for t, x in truth.items()}
    return {tap: _rms(found[tap] - truth[tap]) / _rms(truth[tap]) for tap in truth}


def _worst_margin(found: Arrays, spec: ModelSpec, weights: Arrays, inputs: NDArray[Any]) -> float:
    """The largest error of a tap as a share of its tolerance: four times the noise of float32.

    The noise is the worst of four float32 runs of the reference that add up in different orders,
    and at least the rounding of the tap itself.
    """
    truth = forward(spec, weights, inputs, spec.taps)
    noise = dict.fromkeys(truth, 2.0 ** (-24))
    for seed in range(4):
        run = forward(spec, weights, inputs, spec.taps, arithmetic=Shuffled(seed))
        noise = {tap: max(noise[tap], e) for tap, e in _relative_errors(run, truth).items()}
    errors = _relative_errors(found, truth)
    return max(errors[tap] / (4 * noise[tap]) for tap in truth)


def _load(spec: ModelSpec, weights: Arrays, *, scan: bool = False, **kwargs: Any) -> JaxModel:
    return JaxBackend(scan=scan).load(spec, weights, **kwargs)


def test_the_specs_under_test_hold_the_whole_vocabulary() -> None:
    used = {type(node.layer) for spec in SPECS.values() for node in spec.nodes()}
    assert used == set(get_args(AnyLayer)) == set(COMPUTE)


@pytest.mark.parametrize(("scan", "batch"), [(False, 3), (True, 1)], ids=["plain", "scanned"])
@pytest.mark.parametrize("name", SPECS)
def test_every_tap_agrees_with_the_reference_in_float64(name: str, scan: bool, batch: int) -> None:
    spec = SPECS[name]
    weights, inputs = _weights(spec), _inputs(spec, batch)
    found = _load(spec, weights, scan=scan, profile="f64").forward(inputs, spec.taps)
    assert {x.dtype for x in found.values()} == {np.dtype(np.float64)}
    errors = _relative_errors(found, forward(spec, weights, inputs, spec.taps))
    assert max(errors.values()) < 1e-12, errors


@pytest.mark.parametrize("name", SPECS)
def test_every_tap_is_within_the_noise_of_float32(name: str) -> None:
    spec = SPECS[name]
    weights, inputs = _weights(spec), _inputs(spec, 3)
    found = _load(spec, weights).forward(inputs, spec.taps)
    assert {x.dtype for x in found.values()} == {np.dtype(np.float32)}
    assert _worst_margin(found, spec, weights, inputs) < 1


def _other_gelu(spec: ModelSpec) -> ModelSpec:
    return ModelSpec.from_json(spec.to_json().replace('"tanh"', '"none"'))


def _other_epsilon(spec: ModelSpec) -> ModelSpec:
    return ModelSpec.from_json(spec.to_json().replace("1e-06", "1e-05"))


def _other_gate(spec: ModelSpec) -> ModelSpec:
    return ModelSpec.from_json(spec.to_json().replace('"second"', '"first"'))


@pytest.mark.parametrize(
    ("name", "change"),
    [("mixer", _other_gelu), ("mixer", _other_epsilon), ("gmixer", _other_gate)],
)
def test_another_function_is_beyond_the_noise(
    name: str, change: Callable[[ModelSpec], ModelSpec]
) -> None:
    spec = SPECS[name]
    assert change(spec) != spec
    weights, inputs = _weights(spec), _inputs(spec, 3)
    found = _load(change(spec), weights).forward(inputs, spec.taps)
    assert _worst_margin(found, spec, weights, inputs) > 4


@pytest.mark.parametrize(
    ("name", "weight", "axes"),
    [
        ("resmlp", "blocks.0.token_mixing.dense_0.kernel", (1, 0)),
        ("resmlp", "stem.kernel", (1, 0, 2, 3)),
        ("vit", "blocks.1.token_mixing.attention.key.kernel", (1, 0)),
        ("resmlp conv", "blocks.0.token_mixing.conv.kernel", (1, 0, 2)),
    ],
)
def test_a_transposed_kernel_is_beyond_the_noise(
    name: str, weight: str, axes: tuple[int, ...]
) -> None:
    spec = SPECS[name]
    weights, inputs = _weights(spec), _inputs(spec, 3)
    wrong = {**weights, weight: weights[weight].transpose(axes)}
    found = _load(spec, wrong).forward(inputs, spec.taps)
    assert _worst_margin(found, spec, weights, inputs) > 4


# Oblong grids and windows, windows wider than the grid, one row, one channel; and more than
# 32,768 windows, where XLA's own fusion of small products with a sum is wrong (jax-ml/jax#39103).
@pytest.mark.parametrize(
    ("batch", "grid", "channels", "window"),
    [
        (2, (2, 3), 5, (3, 3)),
        (3, (5, 7), 1, (1, 5)),
        (2, (1, 6), 3, (5, 3)),
        (2, (4, 4), 3, (7, 9)),
        (9, (3, 3), 4, (1, 1)),
        (40, (30, 30), 3, (3, 3)),
        (33_000, (1, 1), 2, (3, 3)),
    ],
)
def test_a_convolution_jitted_mapped_or_not_is_the_references(
    batch: int, grid: tuple[int, int], channels: int, window: tuple[int, int]
) -> None:
    rows, columns = grid
    block = Residual(name="token_mixing", layers=(DepthwiseConv(window=window),))
    spec = ModelSpec(
        input=Image(height=rows, width=columns, channels=1),
        stem=PatchEmbed(patch=(1, 1), features=channels),
        embeddings=(),
        stages=(Stage(transition=(), block=(block,), depth=1),),
        norm=_NORM,
        pool=MeanPool(),
        head=Head(classes=1),
    )
    weights, inputs, tap = _weights(spec), _inputs(spec, batch), "blocks.0.token_mixing"
    params = from_canonical(weights)
    truth = forward(spec, weights, inputs, [tap])[tap]

    def run(x: jax.Array) -> jax.Array:
        return apply_with_taps(spec, params, x, [tap], precision="highest")[tap]

    ways = {"eager": run, "jit": jax.jit(run), "vmap": jax.jit(jax.vmap(lambda x: run(x[None])[0]))}
    for way, compute in ways.items():
        assert np.abs(np.asarray(compute(inputs)) - truth).max() < 3e-6 * np.abs(truth).max(), way


def _one_pass_layer_norm(layer: LayerNorm, own: Own, x: jax.Array, run: Run) -> jax.Array:
    mean = x.mean(axis=-1, keepdims=True)
    variance = (x * x).mean(axis=-1, keepdims=True) - mean * mean
    normed: jax.Array = (x - mean) / jnp.sqrt(variance + layer.epsilon)
    return jnp.add(normed * own["scale"], own["bias"])


def test_tokens_with_a_large_mean_keep_their_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SPECS["mixer"]
    weights, images = _weights(spec), _inputs(spec, 3)
    weights["stem.bias"] = weights["stem.bias"] + np.float32(100)

    def margin() -> float:
        params = from_canonical(weights)
        run = jax.jit(lambda x: apply_with_taps(spec, params, x, spec.taps, precision="highest"))
        found = {tap: np.asarray(x) for tap, x in run(images).items()}
        return _worst_margin(found, spec, weights, images)

    assert margin() < 1
    monkeypatch.setattr("mixer_jax.forward.COMPUTE", {**COMPUTE, LayerNorm: _one_pass_layer_norm})
    assert margin() > 4


@pytest.mark.parametrize("name", ["mixer", "vit", "shrinking", "resmlp conv", "words", "pyramid"])
def test_a_scan_over_the_blocks_gives_the_same_numbers(name: str) -> None:
    spec = SPECS[name]
    weights, inputs = _weights(spec), _inputs(spec, 3)
    plain = _load(spec, weights).forward(inputs, spec.taps)
    scanned = _load(spec, weights, scan=True).forward(inputs, spec.taps)
    assert _worst_margin(scanned, spec, weights, inputs) < 1
    assert max(_relative_errors(scanned, plain).values()) < 1e-6


@pytest.mark.parametrize("scan", [False, True], ids=["plain", "scanned"])
def test_only_the_taps_asked_for_are_returned(scan: bool) -> None:
    spec = SPECS["pyramid"]
    weights, images = _weights(spec), _inputs(spec, 2)
    wanted = ["blocks.3.channel_mixing", "stem"]
    found = _load(spec, weights, scan=scan, profile="f64").forward(images, wanted)
    assert set(found) == {*wanted, "logits"}
    truth = forward(spec, weights, images, wanted)
    assert max(_relative_errors(found, truth).values()) < 1e-12


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_other_dtypes_are_converted_to_the_profile(dtype: str) -> None:
    spec = SPECS["mixer"]
    weights = {name: array.astype(jnp.dtype(dtype)) for name, array in _weights(spec).items()}
    images = _inputs(spec, 2)
    single = _load(spec, weights).forward(images, spec.taps)
    rounded = {name: array.astype(np.float32) for name, array in weights.items()}
    assert {x.dtype for x in single.values()} == {np.dtype(np.float32)}
    assert _worst_margin(single, spec, rounded, images) < 1
    double = _load(spec, weights, profile="f64").forward(images, spec.taps)
    truth = forward(spec, weights, images, spec.taps)
    assert max(_relative_errors(double, truth).values()) < 1e-12
