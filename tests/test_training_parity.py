"""The same recipe in JAX, in PyTorch and with the optimisers of NumPy gives the same training."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest
from numpy.typing import NDArray

from mixer_jax.training.mesh import placement
from mixer_jax.training.state import initial_state, result
from mixer_jax.training.step import Moment, Rows, make_step
from mixer_spec import families, reference
from mixer_spec.batches import Batch, Batches
from mixer_spec.data import open_source
from mixer_spec.recipe import (
    ClipByGlobalNorm,
    MovingAverage,
    NoClip,
    NoStochasticDepth,
    Recipe,
    SigmoidCrossEntropy,
    StochasticDepth,
    changed,
)
from mixer_spec.recipe_parts import NoMixup
from mixer_spec.recipes import recipe
from mixer_spec.reference.backward import backward
from mixer_spec.reference.optimisers import update
from mixer_spec.schedule import learning_rate
from mixer_spec.starting import new_weights
from mixer_spec.stochastic_depth import branch_factors
from mixer_spec.training import CrossEntropy, Momentum, TrainState
from mixer_spec.training import initial_state as zeros
from mixer_torch.reference_loop import run as run_torch

SPEC = families.mixer(
    image_size=8, patch=4, channels=12, depth=2, token_hidden=6, channel_hidden=20, classes=10
)
STEPS = 20
# What a bias behind token mixing adds is the same for all channels, and the next norm takes it out:
# its gradient is rounding alone, which Adam divides by an epsilon that must not be as small.
DIGITS = changed(
    recipe("digits"),
    {
        "compute": "float64",
        "batch": "16",
        "steps": "30",
        "schedule.warm_up": "5",
        "optimiser.epsilon": "1e-5",
    },
)
ADAM = dataclasses.replace(
    DIGITS,
    loss=CrossEntropy(label_smoothing=0.1),
    stochastic_depth=StochasticDepth(rate=0.4, grows="per_branch", rescale="kept"),
    clip=ClipByGlobalNorm(norm=0.5),
    average=MovingAverage(decay=0.9),
    accumulation=2,
    rematerialise="blocks",  # the blocks are scanned, where the others are not
)
MOMENTUM = dataclasses.replace(
    DIGITS,
    loss=SigmoidCrossEntropy(),
    optimiser=Momentum(learning_rate=0.03, decay=0.9, form="classical"),
    stochastic_depth=StochasticDepth(rate=0.4, grows="per_block", rescale="none"),
)
PLAIN = dataclasses.replace(DIGITS, clip=NoClip(), mixup=NoMixup())


@functools.cache
def run_jax(settings: Recipe) -> tuple[list[float], Mapping[str, NDArray[Any]]]:
    spec, weights, batches = SPEC, started(settings), batches_of(settings)
    found = []
    with jax.enable_x64(settings.compute == "float64"):
        placed = placement()
        step = make_step(spec, settings, placed)
        state = initial_state(spec, settings, weights, placed)
        dtype = np.float64 if settings.compute == "float64" else np.float32
        for number, batch in enumerate(batches):
            factors = branch_factors(spec, settings, number)
            images = batch.images
            rows = Rows(
                images if images.dtype == np.uint8 else images.astype(dtype),
                batch.labels,
                None if factors is None else factors.astype(dtype),
            )
            state, metrics = step(
                state, rows, Moment(np.int32(number), np.float64(rate(settings, number)))
            )
            assert metrics.taken
            found.append(float(metrics.loss))
        return found, result(spec, state, placed)


def rate(settings: Recipe, step: int) -> float:
    peak = settings.optimiser.learning_rate
    return learning_rate(settings.schedule, step, steps=settings.steps, peak=peak)


def started(settings: Recipe) -> dict[str, NDArray[Any]]:
    """Initial weights with a head that is not zero, so that every gradient is alive."""
    generator = np.random.default_rng(3)
    weights = dict(new_weights(SPEC, settings))
    shape = weights["head.kernel"].shape
    return {**weights, "head.kernel": generator.normal(0, 0.3, shape).astype(np.float32)}


@functools.cache
def batches_of(settings: Recipe) -> list[Batch]:
    found = Batches(open_source("digits", "train"), settings)
    return [found[step] for step in range(STEPS)]


@pytest.mark.parametrize("settings", [ADAM, MOMENTUM, PLAIN], ids=["adamw", "momentum", "plain"])
def test_torch_and_jax_agree_to_1e_10(settings: Recipe) -> None:
    weights, batches = started(settings), batches_of(settings)
    losses, ends = run_jax(settings)
    theirs, their_ends = run_torch(SPEC, settings, weights, batches)
    np.testing.assert_allclose(losses, theirs, rtol=1e-10)
    for name, array in ends.items():
        np.testing.assert_allclose(array, their_ends[name], rtol=0, atol=1e-10, err_msg=name)


def test_other_meaning_of_one_field_is_seen() -> None:
    weights, batches = started(ADAM), batches_of(ADAM)
    losses, _ = run_jax(ADAM)
    for other in (
        dataclasses.replace(ADAM, clip=NoClip()),
        dataclasses.replace(ADAM, loss=CrossEntropy(label_smoothing=0.0)),
        dataclasses.replace(ADAM, stochastic_depth=NoStochasticDepth()),
        dataclasses.replace(ADAM, optimiser=dataclasses.replace(ADAM.optimiser, decayed=("",))),
    ):
        theirs, _ = run_torch(SPEC, other, weights, batches)
        assert np.abs(np.array(losses) - theirs).max() > 1e-6


def test_numpy_optimisers_agree_to_1e_10() -> None:
    settings = PLAIN
    weights, batches = started(settings), batches_of(settings)
    losses, ends = run_jax(settings)
    wide = {name: array.astype(np.float64) for name, array in weights.items()}
    state: TrainState = zeros(settings.optimiser, wide)
    for number, (batch, loss) in enumerate(zip(batches, losses, strict=True)):
        images = batch.images.astype(np.float64)
        logits = reference.forward(SPEC, state.weights, images)["logits"]
        value, cotangent = softmax_cross_entropy(logits, batch.labels)
        assert loss == pytest.approx(value, rel=1e-10)
        gradients = backward(SPEC, state.weights, images, {"logits": cotangent}).weights
        peak = settings.optimiser
        if rate(settings, number) == 0:  # an optimiser's rate is above 0
            optimiser = dataclasses.replace(peak, learning_rate=5e-324)
        else:
            optimiser = dataclasses.replace(peak, learning_rate=rate(settings, number))
        state = update(optimiser, state, gradients)
    for name, array in ends.items():
        np.testing.assert_allclose(array, state.weights[name], rtol=0, atol=1e-10, err_msg=name)


def softmax_cross_entropy(logits: NDArray[Any], labels: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    below = logits - logits.max(axis=1, keepdims=True)
    log_softmax = below - np.log(np.exp(below).sum(axis=1, keepdims=True))
    value = -(labels * log_softmax).sum() / len(labels)
    return float(value), (np.exp(log_softmax) - labels) / len(labels)


def test_float32_follows_float64_within_rounding() -> None:
    settings = dataclasses.replace(ADAM, compute="float32")
    weights, batches = started(settings), batches_of(settings)
    losses, _ = run_jax(settings)
    exact, _ = run_jax(ADAM)
    theirs, _ = run_torch(SPEC, settings, weights, batches)
    np.testing.assert_allclose(losses, exact, rtol=1e-4)
    np.testing.assert_allclose(losses, theirs, rtol=1e-4)
