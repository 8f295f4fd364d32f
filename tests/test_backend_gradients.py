"""JAX and PyTorch differentiate and train what the reference does, and the checks can fail."""

from __future__ import annotations

import builtins
import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from mixer_jax import JaxBackend
from mixer_onnxruntime import OnnxRuntimeBackend
from mixer_spec import (
    InputError,
    MissingExtraError,
    ModelSpec,
    Stage,
    WeightsError,
    ablations,
    families,
)
from mixer_spec.backend import Differentiable, Trainable
from mixer_spec.layers import Affine, ChannelDense, LayerNorm, TokenDense
from mixer_spec.reference import ReferenceBackend, Shuffled, backward, gradient_sizes, train_step
from mixer_spec.shapes import TokenIds, Vectors
from mixer_spec.training import AdamW, CrossEntropy, Momentum, Sgd, TrainState, initial_state
from mixer_torch import TorchBackend, modules

Array = np.ndarray[Any, Any]

SIZE = {"image_size": (4, 6), "patch": 2, "classes": 3}  # a grid of 2 x 3 tokens
MLPS = {"token_hidden": 5, "channel_hidden": 7}
SEQUENCE = {"channels": 4, "depth": 1, "classes": 3, **MLPS}
MIXER = families.mixer(channels=4, depth=1, **MLPS, **SIZE)
TRANSITION = (LayerNorm(epsilon=1e-3), TokenDense(features=6), ChannelDense(features=4))

SPECS = {
    "mixer": MIXER,
    "resmlp": families.resmlp(channels=3, depth=1, **SIZE),
    "gmlp": families.gmlp(channels=3, depth=1, **SIZE),
    "gmixer": families.gmixer(channels=4, depth=1, token_hidden=6, channel_hidden=8, **SIZE),
    "vit": families.vit(channels=4, depth=1, heads=2, channel_hidden=5, **SIZE),
    "feed-forward": families.feed_forward(channels=3, depth=1, **SIZE),
    "untied": ablations.mixer_untied(channels=4, depth=1, **MLPS, **SIZE),
    "views": ablations.mixer_grouped(channels=6, depth=1, groups=3, views=True, **MLPS, **SIZE),
    "convolution": ablations.resmlp_ablation(
        channels=4, depth=1, mixing="separable_conv", norm=Affine(), **SIZE
    ),
    "words": families.sequence_mixer(input=TokenIds(tokens=5, vocabulary=7), **SEQUENCE),
    "vectors": families.sequence_mixer(input=Vectors(tokens=5, channels=3), **SEQUENCE),
    "two stages": dataclasses.replace(
        MIXER,
        stages=(
            dataclasses.replace(MIXER.stages[0], depth=2),
            Stage(transition=TRANSITION, block=MIXER.stages[0].block, depth=1),
        ),
    ),
}
BACKENDS = {
    "jax": JaxBackend(),
    "jax scanned": JaxBackend(scan=True),
    "torch": TorchBackend(),
    "reference": ReferenceBackend(),
}
# XLA compiles each case for a second or two, so JAX takes the slow ones once.
IN_FLOAT64 = [
    (backend, name)
    for backend in BACKENDS
    for name in SPECS
    if backend != "jax scanned" or name in {"words", "two stages"}
]
IN_FLOAT32 = [
    (backend, name)
    for backend in ("jax", "torch", "reference")
    for name in SPECS
    if backend != "jax" or name in {"mixer", "gmlp", "vit"}
]
LOSS = CrossEntropy(label_smoothing=0.1)
OPTIMISERS = {
    "sgd": Sgd(learning_rate=0.25),
    "classical": Momentum(learning_rate=0.25, decay=0.9, form="classical"),
    "nesterov": Momentum(learning_rate=0.25, decay=0.9, form="nesterov"),
    "adamw": AdamW(
        learning_rate=2**-7,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-3,
        weight_decay=2**-4,
        decayed=("kernel",),
    ),
}


def drawn(spec: ModelSpec) -> dict[str, Array]:
    """Weights without a zero or a symmetry anywhere."""
    generator = np.random.default_rng(1)
    return {
        name: (
            name.endswith("scale")
            + generator.normal(0.05, 1.0, parameter.shape) * (parameter.fan_in or 8) ** -0.5
        ).astype(np.float32)
        for name, parameter in spec.parameters().items()
    }


def given(spec: ModelSpec, seed: int = 2) -> Array:
    generator = np.random.default_rng(seed)
    if isinstance(spec.input, TokenIds):
        return generator.integers(spec.input.vocabulary, size=(2, *spec.input.shape))
    return generator.normal(size=(2, *spec.input.shape)).astype(np.float32)


def drawn_cotangents(spec: ModelSpec) -> dict[str, Array]:
    """On the logits, and beside the head and in the middle, where they join the stream."""
    generator = np.random.default_rng(3)
    taps = {spec.taps[len(spec.taps) // 2], "pooled", "logits"}
    return {
        step.tap: generator.normal(size=(2, *step.outgoing.shape)).astype(np.float32)
        for step in spec.steps
        if step.tap in taps
    }


def rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


class Exact:
    """The oracle's gradients of one case, and how to hold others against them."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec, self.weights, self.inputs = spec, drawn(spec), given(spec)
        self.cotangents = drawn_cotangents(spec)
        self.gradients = self.with_inputs(
            backward(spec, self.weights, self.inputs, self.cotangents)
        )
        self.sizes = gradient_sizes(spec, self.weights, self.inputs, self.cotangents)
        self.sizes["inputs"] = self.gradients.get("inputs", np.ones(1))

    @staticmethod
    def with_inputs(gradients: Any) -> dict[str, Array]:
        found = dict(gradients.weights)
        return found if gradients.inputs is None else {**found, "inputs": gradients.inputs}

    def errors(self, gradients: Any) -> dict[str, float]:
        """Each gradient's error in units of the size of its summands."""
        found = self.with_inputs(gradients)
        assert found.keys() == self.gradients.keys()
        for name, exact in self.gradients.items():
            assert found[name].shape == exact.shape, name
        return {
            name: rms(found[name] - exact) / (rms(self.sizes[name]) or 1.0)
            for name, exact in self.gradients.items()
        }

    def tolerances(self) -> dict[str, float]:
        """Four times what float32 does in sixteen orders; at least a few roundings."""
        runs = [
            self.errors(
                backward(
                    self.spec,
                    self.weights,
                    self.inputs,
                    self.cotangents,
                    arithmetic=Shuffled(seed),
                )
            )
            for seed in range(16)
        ]
        return {name: 4 * max(2**-23, *(run[name] for run in runs)) for name in self.gradients}


def vjp(backend: Any, exact: Exact, profile: str) -> Any:
    model = backend.load(exact.spec, exact.weights, profile=profile)
    return model.vjp(exact.inputs, exact.cotangents)


# --- gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "name"), IN_FLOAT64)
def test_float64_gradients_are_the_references(backend: str, name: str) -> None:
    exact = Exact(SPECS[name])
    found = vjp(BACKENDS[backend], exact, "f64")
    assert {gradient.dtype.name for gradient in exact.with_inputs(found).values()} == {"float64"}
    errors = exact.errors(found)
    assert max(errors.values()) < 1e-11, errors


@pytest.mark.parametrize(("backend", "name"), IN_FLOAT32)
def test_float32_gradients_are_within_the_noise_of_float32(backend: str, name: str) -> None:
    exact = Exact(SPECS[name])
    found = vjp(BACKENDS[backend], exact, "f32-strict")
    assert {gradient.dtype.name for gradient in exact.with_inputs(found).values()} == {"float32"}
    errors, tolerances = exact.errors(found), exact.tolerances()
    margins = {name: errors[name] / tolerances[name] for name in errors}
    assert max(margins.values()) < 1, margins


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_leave_the_model_and_the_arrays_as_they_were(backend: str) -> None:
    exact = Exact(MIXER)
    arrays = [exact.inputs, *exact.cotangents.values(), *exact.weights.values()]
    for array in arrays:
        array.flags.writeable = False
    model = BACKENDS[backend].load(MIXER, exact.weights, profile="f32-strict")
    before = model.forward(exact.inputs)["logits"]
    first, second = (model.vjp(exact.inputs, exact.cotangents).weights for _ in range(2))
    np.testing.assert_array_equal(model.forward(exact.inputs)["logits"], before)
    for name, array in model.export_weights().items():
        np.testing.assert_array_equal(array, exact.weights[name])
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_weight_behind_the_tap_has_a_gradient_of_zeros(backend: str) -> None:
    exact = Exact(MIXER)
    exact.cotangents = {"stem": np.ones((2, 6, 4))}
    found = vjp(BACKENDS[backend], exact, "f64").weights
    assert found.keys() == MIXER.parameters().keys()
    assert all(found[name].any() == name.startswith("stem") for name in found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_arrays_of_another_layout_or_byte_order_are_the_same_numbers(backend: str) -> None:
    exact = Exact(MIXER)
    model = BACKENDS[backend].load(MIXER, exact.weights)
    plain = model.vjp(exact.inputs, exact.cotangents).weights
    turned = {
        tap: np.asfortranarray(array.astype(">f4")) for tap, array in exact.cotangents.items()
    }
    found = model.vjp(exact.inputs.astype(">f4")[:, ::-1][:, ::-1], turned).weights
    for name, gradient in plain.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_does_not_fit_is_refused(backend: str) -> None:
    exact = Exact(MIXER)
    model = BACKENDS[backend].load(MIXER, exact.weights)
    with pytest.raises(InputError, match="inputs: wrong size"):
        model.vjp(np.ones((2, 6, 4, 3)), exact.cotangents)
    with pytest.raises(InputError, match="cotangents: unknown tap 'logit'"):
        model.vjp(exact.inputs, {"logit": np.ones((2, 3))})
    state = initial_state(OPTIMISERS["sgd"], exact.weights)
    options: dict[str, Any] = {"loss": LOSS, "optimiser": OPTIMISERS["sgd"]}
    with pytest.raises(InputError, match="labels: outside of the classes"):
        model.train_step(state, exact.inputs, np.array([0, 3]), **options)
    other = {**options, "optimiser": OPTIMISERS["adamw"]}
    with pytest.raises(InputError, match="state: slots of another optimiser"):
        model.train_step(state, exact.inputs, np.array([0, 1]), **other)
    broken = dataclasses.replace(state, weights={})
    with pytest.raises(WeightsError, match=r"state\.weights"):
        model.train_step(broken, exact.inputs, np.array([0, 1]), **options)


def test_protocols_tell_what_a_backend_can_do() -> None:
    exact = Exact(MIXER)
    for backend in BACKENDS.values():
        model = backend.load(MIXER, exact.weights)
        assert isinstance(model, Differentiable)
        assert isinstance(model, Trainable)
    forward_only = OnnxRuntimeBackend().load(MIXER, exact.weights)
    assert not isinstance(forward_only, Differentiable)
    assert not isinstance(forward_only, Trainable)


# --- the checks can fail --------------------------------------------------------------------


class DetachedResidual(modules.Residual):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.nested(x).detach()


class StoppedNorm(modules.LayerNorm):
    """The statistics are taken for constants."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True).detach()
        variance = x.var(-1, correction=0, keepdim=True).detach()
        return centred / torch.sqrt(variance + self.epsilon) * self.scale + self.bias


class FrozenBias(modules.ChannelDense):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.kernel + self.bias.detach()


class OtherGeluBackwards(modules.Gelu):
    """The tanh GELU's value with the erf GELU's slope."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        other = torch.nn.functional.gelu(x)
        return other + (super().forward(x) - other).detach()


class SummedPool(modules.MeanPool):
    """The mean's value with the sum's slope."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = x.sum(dim=1)
        return total + (x.mean(dim=1) - total).detach()


@pytest.mark.parametrize(
    "wrong", [DetachedResidual, StoppedNorm, FrozenBias, OtherGeluBackwards, SummedPool]
)
def test_a_wrong_derivative_of_a_right_value_is_found(
    wrong: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = Exact(MIXER)
    backend = TorchBackend()
    right = backend.load(MIXER, exact.weights, profile="f64").forward(exact.inputs)["logits"]
    (kind,) = (k for k, module in modules.MODULES.items() if module is wrong.__base__)
    monkeypatch.setitem(modules.MODULES, kind, wrong)
    model = backend.load(MIXER, exact.weights, profile="f64")
    np.testing.assert_allclose(model.forward(exact.inputs)["logits"], right, rtol=1e-12)
    assert max(exact.errors(model.vjp(exact.inputs, exact.cotangents)).values()) > 1e-6
    single = vjp(backend, exact, "f32-strict")
    errors, tolerances = exact.errors(single), exact.tolerances()
    assert max(errors[name] / tolerances[name] for name in errors) > 10


# --- steps of training ----------------------------------------------------------------------


def difference(found: TrainState, expected: TrainState) -> float:
    """The largest difference of any weight and anything remembered."""
    assert found.step == expected.step
    assert found.slots.keys() == expected.slots.keys()
    pairs = [(found.weights, expected.weights)]
    pairs += [(found.slots[slot], expected.slots[slot]) for slot in expected.slots]
    for one, other in pairs:
        assert one.keys() == other.keys()
    return max(float(np.abs(one[k] - other[k]).max()) for one, other in pairs for k in one)


def trained(step: Any, optimiser: Any, spec: ModelSpec) -> tuple[list[float], TrainState]:
    """Three steps on three different batches."""
    state, losses = initial_state(optimiser, drawn(spec)), []
    for number, labels in enumerate([[0, 2], [1, 1], [2, 0]]):
        value, state = step(
            state, given(spec, number), np.array(labels), loss=LOSS, optimiser=optimiser
        )
        losses.append(value)
    return losses, state


def reference_step(spec: ModelSpec, **options: Any) -> Any:
    def step(state: TrainState, inputs: Array, labels: Array, **rest: Any) -> Any:
        return train_step(spec, state, inputs, labels, **rest, **options)

    return step


def spec_for(optimiser: str) -> ModelSpec:
    return SPECS["words" if optimiser == "classical" else "mixer"]


@pytest.mark.parametrize(
    ("backend", "optimiser"),
    [(b, o) for b in BACKENDS for o in OPTIMISERS if b != "jax scanned" or o == "adamw"],
)
def test_three_steps_in_float64_are_the_references(backend: str, optimiser: str) -> None:
    spec = spec_for(optimiser)
    model = BACKENDS[backend].load(spec, drawn(spec), profile="f64")
    losses, state = trained(model.train_step, OPTIMISERS[optimiser], spec)
    exact_losses, exact = trained(reference_step(spec), OPTIMISERS[optimiser], spec)
    assert difference(state, exact) < 1e-12
    assert losses == pytest.approx(exact_losses, rel=1e-12)
    assert dtypes(state) == {"float64"}


@pytest.mark.parametrize(
    ("backend", "optimiser"),
    [("jax", "adamw"), *((b, o) for b in ("torch", "reference") for o in OPTIMISERS)],
)
def test_three_steps_in_float32_are_within_its_noise(backend: str, optimiser: str) -> None:
    spec = spec_for(optimiser)
    model = BACKENDS[backend].load(spec, drawn(spec), profile="f32-strict")
    losses, state = trained(model.train_step, OPTIMISERS[optimiser], spec)
    exact_losses, exact = trained(reference_step(spec), OPTIMISERS[optimiser], spec)
    noisy = (
        trained(reference_step(spec, arithmetic=Shuffled(seed)), OPTIMISERS[optimiser], spec)[1]
        for seed in range(8)
    )
    assert difference(state, exact) < 4 * max(difference(run, exact) for run in noisy)
    assert losses == pytest.approx(exact_losses, rel=1e-5)
    assert dtypes(state) == {"float32"}


def dtypes(state: TrainState) -> set[str]:
    trees: list[Mapping[str, Array]] = [state.weights, *state.slots.values()]
    return {array.dtype.name for tree in trees for array in tree.values()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_changes_neither_the_state_nor_the_model(backend: str) -> None:
    weights, inputs = drawn(MIXER), given(MIXER)
    model = BACKENDS[backend].load(MIXER, weights)
    before = model.forward(inputs)["logits"]
    state = initial_state(OPTIMISERS["adamw"], weights)
    for array in (*weights.values(), *state.slots["first_moment"].values(), inputs):
        array.flags.writeable = False
    options: dict[str, Any] = {"loss": LOSS, "optimiser": OPTIMISERS["adamw"]}
    one, other = (model.train_step(state, inputs, np.array([0, 1]), **options) for _ in range(2))
    assert one[0] == other[0]
    assert difference(one[1], other[1]) == 0.0
    assert difference(one[1], dataclasses.replace(state, step=1)) > 0.0
    np.testing.assert_array_equal(model.forward(inputs)["logits"], before)


def test_a_missing_optax_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_optax(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "optax":
            raise ModuleNotFoundError("No module named 'optax'", name="optax")
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("mixer_jax.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sys.modules["mixer_jax"], "training", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_optax)
    model = JaxBackend().load(MIXER, drawn(MIXER))
    sgd = OPTIMISERS["sgd"]
    state = initial_state(sgd, drawn(MIXER))
    with pytest.raises(MissingExtraError, match=r'pip install "mixer-spec\[train\]"'):
        model.train_step(state, given(MIXER), np.array([0, 1]), loss=LOSS, optimiser=sgd)
