"""Every gradient of the reference, certified by complex steps through the forward pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from mixer_spec import InputError, ModelSpec, Stage, WeightsError, ablations, families
from mixer_spec.layers import (
    Affine,
    Attention,
    ChannelDense,
    DepthwiseConv,
    GatedUnit,
    Gelu,
    Head,
    LayerNorm,
    LayerScale,
    MeanPool,
    Residual,
    Silu,
    SpatialGate,
    TokenDense,
)
from mixer_spec.reference import (
    Arithmetic,
    Shuffled,
    backward,
    backward_step,
    forward,
    gradient_sizes,
    layers,
    run_step,
)
from mixer_spec.reference.backward_layers import BACKWARD
from mixer_spec.shapes import TokenIds, Vectors

Array = np.ndarray[Any, Any]

STEP = 1e-30
SIZE = {"image_size": (4, 6), "patch": 2, "classes": 3}  # a grid of 2 x 3 tokens
MLPS = {"token_hidden": 5, "channel_hidden": 7}
SEQUENCE = {"channels": 4, "depth": 1, "classes": 3, **MLPS}


def pyramid() -> ModelSpec:
    """Transitions, and gates and norms that no paper combines."""
    norm = LayerNorm(epsilon=1e-3)
    gate = GatedUnit(axis="token", gate="first", activation=Gelu(approximation="none"))
    tokens = (Affine(), TokenDense(features=8), gate, TokenDense(features=4), LayerScale())
    inner = SpatialGate(layers=(Silu(), TokenDense(features=4)))
    channels = (norm, inner, ChannelDense(features=6))
    return dataclasses.replace(
        families.mixer(channels=4, depth=1, **MLPS, **SIZE),
        stages=(
            Stage(
                transition=(norm, TokenDense(features=4), ChannelDense(features=6)),
                block=(
                    Residual(name="token_mixing", layers=tokens),
                    Residual(name="channel_mixing", layers=channels),
                ),
                depth=2,
            ),
        ),
    )


SPECS = {
    "mixer": families.mixer(channels=4, depth=2, **MLPS, **SIZE),
    "mixer-erf": families.mixer(channels=4, depth=1, gelu="none", **MLPS, **SIZE),
    "resmlp": families.resmlp(channels=3, depth=1, **SIZE),
    "gmlp": families.gmlp(channels=3, depth=2, **SIZE),
    "gmixer": families.gmixer(channels=4, depth=2, token_hidden=6, channel_hidden=8, **SIZE),
    "vit": families.vit(channels=4, depth=2, heads=2, channel_hidden=5, **SIZE),
    "vit-mean": families.vit(channels=4, depth=1, heads=1, channel_hidden=5, pool="mean", **SIZE),
    "feed-forward": families.feed_forward(channels=3, depth=1, **SIZE),
    "untied": ablations.mixer_untied(channels=4, depth=1, **MLPS, **SIZE),
    "groups": ablations.mixer_grouped(channels=6, depth=1, groups=3, views=False, **MLPS, **SIZE),
    "views": ablations.mixer_grouped(channels=6, depth=1, groups=3, views=True, **MLPS, **SIZE),
    "convolution": ablations.resmlp_ablation(
        channels=4, depth=2, mixing="separable_conv", norm=Affine(), **SIZE
    ),
    "words": families.sequence_mixer(input=TokenIds(tokens=5, vocabulary=7), **SEQUENCE),
    "vectors": families.sequence_mixer(input=Vectors(tokens=5, channels=3), **SEQUENCE),
    "no blocks": families.mixer(channels=4, depth=0, **MLPS, **SIZE),
    "pyramid": pyramid(),
}


def drawn(spec: ModelSpec) -> dict[str, Array]:
    """Weights without a zero or a symmetry anywhere."""
    generator = np.random.default_rng(1)
    return {
        name: name.endswith("scale")
        + generator.normal(0.05, 1.0, parameter.shape) * (parameter.fan_in or 8) ** -0.5
        for name, parameter in spec.parameters().items()
    }


def given(spec: ModelSpec, batch: int = 2) -> Array:
    generator = np.random.default_rng(2)
    if isinstance(spec.input, TokenIds):
        return generator.integers(spec.input.vocabulary, size=(batch, *spec.input.shape))
    return generator.normal(size=(batch, *spec.input.shape))


def drawn_cotangents(spec: ModelSpec, *taps: str, batch: int = 2) -> dict[str, Array]:
    generator = np.random.default_rng(3)
    shapes = {step.tap: step.outgoing.shape for step in spec.steps}
    return {tap: generator.normal(size=(batch, *shapes[tap])) for tap in taps}


# --- complex steps --------------------------------------------------------------------------


def complex_gelu(layer: Gelu, weights: Any, x: Array, run: Any) -> Array:
    """``x Phi(x)`` of complex numbers; erf by Kummer's series, whose terms have one sign."""
    if layer.approximation == "tanh":
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    z = x / math.sqrt(2)
    term, total, n = z, z, 0
    while np.any(np.abs(term) > 1e-18 * np.abs(total)):
        n += 1
        term = term * 2 * z * z / (2 * n + 1)
        total = total + term
    return x / 2 * (1 + 2 / math.sqrt(math.pi) * np.exp(-z * z) * total)


def complex_silu(layer: Silu, weights: Any, x: Array, run: Any) -> Array:
    return x / (1 + np.exp(-x))


@pytest.fixture
def complex_numbers(monkeypatch: pytest.MonkeyPatch) -> Arithmetic:
    """The reference's forward pass for complex numbers, where no layer takes an absolute value."""
    monkeypatch.setitem(layers.COMPUTE, Gelu, complex_gelu)
    monkeypatch.setitem(layers.COMPUTE, Silu, complex_silu)
    return Arithmetic(np.complex128)


def objective(
    spec: ModelSpec,
    weights: Mapping[str, Array],
    inputs: Array,
    cotangents: Mapping[str, Array],
    arithmetic: Arithmetic,
) -> complex:
    total: Any = 0.0
    x = inputs
    for step in spec.steps:
        x = run_step(step, weights, x, arithmetic)
        if step.tap in cotangents:
            total += (x * cotangents[step.tap]).sum()
    return complex(total)


def complex_step_gradients(
    spec: ModelSpec,
    weights: Mapping[str, Array],
    inputs: Array,
    cotangents: Mapping[str, Array],
    arithmetic: Arithmetic,
) -> Iterator[tuple[str, Array]]:
    """``Im f(w + i h) / h`` for each number of each weight, then of the inputs."""
    arrays = {name: array.astype(np.complex128) for name, array in weights.items()}
    if not isinstance(spec.input, TokenIds):
        inputs = arrays["inputs"] = inputs.astype(np.complex128)
    for name, array in arrays.items():
        found = np.empty(array.shape)
        for index in np.ndindex(array.shape):
            array[index] += 1j * STEP
            found[index] = objective(spec, arrays, inputs, cotangents, arithmetic).imag / STEP
            array[index] = array[index].real
        yield name, found


def rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array))))


def errors(
    found: Mapping[str, Array], expected: Mapping[str, Array], sizes: Mapping[str, Array]
) -> dict[str, float]:
    """Each gradient's error in units of the size of its summands."""
    assert found.keys() == expected.keys()
    return {
        name: rms(found[name] - exact) / (rms(sizes[name]) or 1.0)
        for name, exact in expected.items()
    }


def test_the_specs_here_have_every_layer_kind() -> None:
    kinds = {type(node.layer) for spec in SPECS.values() for node in spec.nodes()}
    assert kinds == BACKWARD.keys() == layers.COMPUTE.keys()


@pytest.mark.parametrize("name", SPECS)
def test_every_gradient_is_the_one_that_complex_steps_find(
    name: str, complex_numbers: Arithmetic
) -> None:
    spec = SPECS[name]
    weights, inputs = drawn(spec), given(spec)
    # A tap in the middle too, so that cotangents add where the stream goes on.
    cotangents = drawn_cotangents(spec, spec.taps[len(spec.taps) // 2], "pooled", "logits")
    found = backward(spec, weights, inputs, cotangents)
    sizes = gradient_sizes(spec, weights, inputs, cotangents)
    gradients = dict(found.weights)
    if found.inputs is not None:
        gradients["inputs"] = found.inputs
        sizes["inputs"] = found.inputs
    expected = dict(complex_step_gradients(spec, weights, inputs, cotangents, complex_numbers))
    wrong = errors(gradients, expected, sizes)
    assert max(wrong.values()) < 1e-12, wrong


# --- the certificate can fail ---------------------------------------------------------------

RIGHT = dict(BACKWARD)


def without(name: str) -> Any:
    """The layer forgets the gradient of one of its weights."""

    def wrong(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
        dx = RIGHT[type(layer)](layer, weights, x, dy, run)
        path = f"{run.node.path}.{name}"
        run.found[path] = np.zeros_like(run.found[path])
        return dx

    return wrong


def detached(layer: Residual, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    run.nested_backward(x, dy)
    return dy


def norm_without(kept: str) -> Any:
    def wrong(layer: LayerNorm, weights: Any, x: Array, dy: Array, run: Any) -> Array:
        RIGHT[LayerNorm](layer, weights, x, dy, run)
        normed, deviation = layers.standardised(x, 2, layer.epsilon, run)
        g = dy * weights["scale"]
        mean = g.mean(-1, keepdims=True) if kept == "mean" else 0.0
        spread = normed * (normed * g).mean(-1, keepdims=True) if kept == "spread" else 0.0
        return (g - mean - spread) / deviation

    return wrong


def other_gelu(layer: Gelu, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    other = Gelu(approximation="none" if layer.approximation == "tanh" else "tanh")
    return RIGHT[Gelu](other, weights, x, dy, run)


def convolution_not_turned(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    RIGHT[DepthwiseConv](layer, weights, x, dy, run)
    back = {**weights, "kernel": weights["kernel"][::-1, ::-1]}
    return RIGHT[DepthwiseConv](layer, back, x, dy, run)


def softmax_not_centred(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    class Uncentred(Arithmetic):
        def einsum(self, subscripts: str, *factors: Array) -> Array:
            found = super().einsum(subscripts, *factors)
            return found * 0 if subscripts == "bhts,bhts->bht" else found

    changed = dataclasses.replace(run, arithmetic=Uncentred())
    return RIGHT[Attention](layer, weights, x, dy, changed)


def summed_pool(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    return RIGHT[MeanPool](layer, weights, x, dy, run) * x.shape[1]


def both_halves(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    return RIGHT[SpatialGate](layer, weights, x, dy, run)[..., ::-1]


MISTAKES: dict[str, tuple[str, type[Any], Any]] = {
    "no gradient of the token bias": ("mixer", TokenDense, without("bias")),
    "no gradient of the head's bias": ("mixer", Head, without("bias")),
    "no gradient of the norm's scale": ("mixer", LayerNorm, without("scale")),
    "a detached branch": ("mixer", Residual, detached),
    "a norm without its mean term": ("mixer", LayerNorm, norm_without("spread")),
    "a norm without its spread term": ("mixer", LayerNorm, norm_without("mean")),
    "the other GELU backwards, tanh": ("mixer", Gelu, other_gelu),
    "the other GELU backwards, erf": ("mixer-erf", Gelu, other_gelu),
    "a kernel that is not turned": ("convolution", DepthwiseConv, convolution_not_turned),
    "a softmax that is not centred": ("vit", Attention, softmax_not_centred),
    "a pool that sums": ("mixer", MeanPool, summed_pool),
    "swapped halves": ("gmlp", SpatialGate, both_halves),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_backward_pass_is_found(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, kind, wrong = MISTAKES[mistake]
    spec = SPECS[name]
    weights, inputs = drawn(spec), given(spec)
    cotangents = drawn_cotangents(spec, spec.taps[1], "logits")
    right = backward(spec, weights, inputs, cotangents)
    sizes = gradient_sizes(spec, weights, inputs, cotangents)
    monkeypatch.setitem(BACKWARD, kind, wrong)
    found = backward(spec, weights, inputs, cotangents)
    assert max(errors(found.weights, right.weights, sizes).values()) > 1e-5


# --- what the gradients are -----------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_steps_one_by_one_are_the_whole_backward_pass(name: str) -> None:
    spec = SPECS[name]
    weights, inputs = drawn(spec), given(spec)
    cotangents = drawn_cotangents(spec, "stem", "logits")
    whole = backward(spec, weights, inputs, cotangents)
    entering = {"stem": inputs}
    for before, step in zip(spec.steps, spec.steps[1:], strict=False):
        entering[step.tap] = run_step(before, weights, entering[before.tap])
    delta, found = cotangents["logits"], {}
    for step in reversed(spec.steps):
        if step.tap == "stem":
            delta = delta + cotangents["stem"]
        delta, own = backward_step(step, weights, entering[step.tap], delta)
        found |= own
    assert found.keys() == whole.weights.keys()
    for weight, gradient in found.items():
        np.testing.assert_array_equal(gradient, whole.weights[weight])
    if whole.inputs is not None:
        np.testing.assert_array_equal(delta, whole.inputs)


def test_weights_behind_the_last_cotangent_have_zero_gradients() -> None:
    spec = SPECS["mixer"]
    tap = "blocks.0.channel_mixing"
    found = backward(spec, drawn(spec), given(spec), drawn_cotangents(spec, tap))
    for name, gradient in found.weights.items():
        assert gradient.any() == name.startswith(("stem", "blocks.0")), name


def test_gradients_that_the_structure_makes_zero_are_small_beside_their_summands() -> None:
    """A token bias is the same for all channels, and every norm behind it takes that away."""
    spec = SPECS["mixer"]
    weights, inputs = drawn(spec), given(spec)
    cotangents = drawn_cotangents(spec, "logits")
    gradients = backward(spec, weights, inputs, cotangents).weights
    sizes = gradient_sizes(spec, weights, inputs, cotangents)
    dead = "blocks.0.token_mixing.dense_1.bias"
    assert rms(gradients[dead]) < 1e-15
    assert rms(sizes[dead]) > 1e-3
    seen = backward(spec, weights, inputs, drawn_cotangents(spec, "blocks.0.token_mixing"))
    assert rms(seen.weights[dead]) > 0.1


def test_the_size_of_a_gradient_is_the_root_of_its_squared_summands() -> None:
    spec = SPECS["mixer"]
    weights, inputs = drawn(spec), given(spec)
    cotangents = drawn_cotangents(spec, "logits")
    sizes = gradient_sizes(spec, weights, inputs, cotangents)
    pooled = forward(spec, weights, inputs, ["pooled"])["pooled"]
    for channel, label in np.ndindex(4, 3):
        summands = [pooled[b, channel] * cotangents["logits"][b, label] for b in range(2)]
        assert sizes["head.kernel"][channel, label] == pytest.approx(math.hypot(*summands))
    assert sizes["head.bias"] == pytest.approx(np.hypot(*cotangents["logits"]))
    assert sizes.keys() == weights.keys()
    assert all(sizes[name].shape == weights[name].shape for name in weights)


def test_ids_of_words_have_no_gradient_and_absent_words_none_in_their_vectors() -> None:
    spec = SPECS["words"]
    ids = np.array([[0, 1, 1, 2, 0], [1, 2, 2, 2, 5]])
    found = backward(spec, drawn(spec), ids, drawn_cotangents(spec, "logits"))
    assert found.inputs is None
    used = found.weights["stem.embedding"].any(axis=1)
    assert used.tolist() == [True, True, True, False, False, True, False]


@pytest.mark.parametrize("name", SPECS)
def test_any_order_of_summation_is_the_same_function(name: str) -> None:
    spec = SPECS[name]
    weights, inputs = drawn(spec), given(spec)
    cotangents = drawn_cotangents(spec, "pooled", "logits")
    exact = backward(spec, weights, inputs, cotangents).weights
    sizes = gradient_sizes(spec, weights, inputs, cotangents)
    in_float64 = Shuffled(5, np.float64)
    found = backward(spec, weights, inputs, cotangents, arithmetic=in_float64).weights
    assert 0 < max(errors(found, exact, sizes).values()) < 1e-13
    for seed in range(3):
        noisy = backward(spec, weights, inputs, cotangents, arithmetic=Shuffled(seed)).weights
        assert all(gradient.dtype == np.float32 for gradient in noisy.values())
        assert 1e-9 < max(errors(noisy, exact, sizes).values()) < 1e-5


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cotangents", "message"),
    [
        ({}, "cotangents: nothing to differentiate; expected a tap, got none"),
        ({"logit": np.ones((2, 3))}, r"unknown tap 'logit'; expected names like \['stem'"),
        ({"logits": np.ones((1, 3))}, r"logits: wrong shape; expected \[2, 3\], got \[1, 3\]"),
        ({"logits": np.ones((2, 3), int)}, "logits: wrong dtype; expected a floating NumPy array"),
        ({"logits": [[1.0] * 3] * 2}, "logits: wrong dtype; .* got list"),
    ],
)
def test_cotangents_that_do_not_fit_are_refused(cotangents: Any, message: str) -> None:
    spec = SPECS["mixer"]
    with pytest.raises(InputError, match=message):
        backward(spec, drawn(spec), given(spec), cotangents)


def test_inputs_and_weights_that_do_not_fit_are_refused() -> None:
    spec = SPECS["mixer"]
    cotangents = drawn_cotangents(spec, "logits")
    with pytest.raises(InputError, match="inputs: wrong size"):
        backward(spec, drawn(spec), np.ones((2, 6, 4, 3)), cotangents)
    with pytest.raises(WeightsError, match=r"head\.bias"):
        backward(spec, {**drawn(spec), "head.bias": np.ones(4)}, given(spec), cotangents)
