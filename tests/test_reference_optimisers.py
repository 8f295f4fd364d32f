"""The reference's loss and optimisers against closed forms, PyTorch and Optax, in float64."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch

from mixer_spec import InputError, SpecError, WeightsError, families
from mixer_spec.reference import Arithmetic, Shuffled, cross_entropy, train_step, update
from mixer_spec.reference.optimisers import UPDATE
from mixer_spec.training import AdamW, CrossEntropy, Momentum, Sgd, TrainState, initial_state

Array = np.ndarray[Any, Any]

SPEC = families.mixer(
    image_size=(4, 6), patch=2, channels=4, depth=1, token_hidden=5, channel_hidden=7, classes=3
)
ADAMW = AdamW(
    learning_rate=2**-7,
    beta1=0.9,
    beta2=0.999,
    epsilon=1e-3,
    weight_decay=2**-4,
    decayed=("kernel",),
)
OPTIMISERS = {
    "sgd": Sgd(learning_rate=0.3),
    "momentum": Momentum(learning_rate=0.3, decay=0.9, form="classical"),
    "nesterov": Momentum(learning_rate=0.3, decay=0.9, form="nesterov"),
    "adamw": ADAMW,
    "adamw with a small epsilon": dataclasses.replace(ADAMW, epsilon=1e-8, beta2=0.95),
    "adamw without decay": dataclasses.replace(ADAMW, weight_decay=0.0, decayed=()),
    "adamw that decays all": dataclasses.replace(ADAMW, decayed=("",)),
}
SHAPES = {"head.kernel": (4, 3), "head.bias": (3,), "norm.scale": (4,)}


def drawn(seed: int) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=shape) for name, shape in SHAPES.items()}


def three_steps(optimiser: Any) -> list[TrainState]:
    """The states before and after each of three different gradients."""
    states = [initial_state(optimiser, drawn(0))]
    for step in range(1, 4):
        states.append(update(optimiser, states[-1], drawn(step)))
    return states


def difference(found: Mapping[str, Array], expected: Mapping[str, Any]) -> float:
    assert found.keys() == expected.keys()
    return max(float(np.abs(found[name] - np.asarray(expected[name])).max()) for name in found)


# --- other libraries ------------------------------------------------------------------------


def torch_optimiser(optimiser: Any, tensors: dict[str, torch.Tensor]) -> torch.optim.Optimizer:
    """Written by hand, without the backend's own translation."""
    if isinstance(optimiser, AdamW):
        groups = [
            {"params": [t], "weight_decay": optimiser.weight_decay * n.endswith(optimiser.decayed)}
            for n, t in tensors.items()
        ]
        betas = (optimiser.beta1, optimiser.beta2)
        return torch.optim.AdamW(groups, optimiser.learning_rate, betas, optimiser.epsilon)
    return torch.optim.SGD(
        tensors.values(),
        optimiser.learning_rate,
        momentum=getattr(optimiser, "decay", 0.0),
        nesterov=getattr(optimiser, "form", "classical") == "nesterov",
    )


@pytest.mark.parametrize("name", OPTIMISERS)
def test_three_steps_are_those_of_pytorch(name: str) -> None:
    optimiser = OPTIMISERS[name]
    tensors = {n: torch.tensor(array, requires_grad=True) for n, array in drawn(0).items()}
    theirs = torch_optimiser(optimiser, tensors)
    for step, state in enumerate(three_steps(optimiser)[1:], 1):
        for n, gradient in drawn(step).items():
            tensors[n].grad = torch.tensor(gradient)
        theirs.step()
        assert state.step == step
        assert difference(state.weights, {n: t.detach() for n, t in tensors.items()}) < 1e-15
        for slot, key in (
            ("momentum", "momentum_buffer"),
            ("first_moment", "exp_avg"),
            ("second_moment", "exp_avg_sq"),
        ):
            if slot in optimiser.slots:
                remembered = {n: theirs.state[t][key] for n, t in tensors.items()}
                assert difference(state.slots[slot], remembered) < 1e-15


def optax_optimiser(optimiser: Any) -> optax.GradientTransformation:
    if isinstance(optimiser, AdamW):
        return optax.adamw(
            optimiser.learning_rate,
            optimiser.beta1,
            optimiser.beta2,
            optimiser.epsilon,
            weight_decay=optimiser.weight_decay,
            mask={n: n.endswith(optimiser.decayed) for n in SHAPES},
        )
    nesterov = getattr(optimiser, "form", "classical") == "nesterov"
    return optax.sgd(optimiser.learning_rate, getattr(optimiser, "decay", None), nesterov)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_three_steps_are_those_of_optax(name: str) -> None:
    optimiser = OPTIMISERS[name]
    theirs = optax_optimiser(optimiser)
    with jax.enable_x64(True):
        weights: Any = drawn(0)
        remembered = theirs.init(weights)
        for step, state in enumerate(three_steps(optimiser)[1:], 1):
            updates, remembered = theirs.update(drawn(step), remembered, weights)
            weights = optax.apply_updates(weights, updates)
            assert difference(state.weights, weights) < 1e-15
            for slot, key in (
                ("momentum", "trace"),
                ("first_moment", "mu"),
                ("second_moment", "nu"),
            ):
                if slot in optimiser.slots:
                    tree = optax.tree_utils.tree_get(remembered, key)
                    assert difference(state.slots[slot], tree) < 1e-15


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_the_loss_and_its_gradient_are_those_of_pytorch_and_optax(smoothing: float) -> None:
    generator = np.random.default_rng(4)
    logits, labels = generator.normal(size=(5, 7)) * 10, generator.integers(7, size=5)
    value, cotangent = cross_entropy(CrossEntropy(label_smoothing=smoothing), logits, labels)
    tensor = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(
        tensor, torch.tensor(labels), label_smoothing=smoothing
    )
    theirs.backward()
    assert tensor.grad is not None
    assert value == pytest.approx(theirs.item(), rel=1e-14)
    np.testing.assert_allclose(cotangent, tensor.grad, atol=1e-15)
    with jax.enable_x64(True):
        targets = optax.smooth_labels(jax.nn.one_hot(labels, 7), smoothing)
        mean = optax.softmax_cross_entropy(logits, targets).mean()
    assert value == pytest.approx(float(mean), rel=1e-14)


# --- closed forms ---------------------------------------------------------------------------


def test_momentum_under_a_constant_gradient_is_a_geometric_sum() -> None:
    optimiser = Momentum(learning_rate=0.5, decay=0.9, form="classical")
    state = initial_state(optimiser, {"w": np.zeros(1)})
    for _ in range(10):
        state = update(optimiser, state, {"w": np.ones(1)})
    assert state.slots["momentum"]["w"][0] == pytest.approx((1 - 0.9**10) / 0.1)


def test_the_first_step_of_adamw_is_the_sign_of_the_gradient_and_the_decay() -> None:
    optimiser = dataclasses.replace(ADAMW, epsilon=1e-12)
    weights = {"a.kernel": np.array([2.0, 3.0]), "a.bias": np.array([2.0])}
    gradients = {"a.kernel": np.array([1e-3, -7.0]), "a.bias": np.array([5.0])}
    found = update(optimiser, initial_state(optimiser, weights), gradients).weights
    rate, decay = 2**-7, 2**-4
    expected = [2 - rate * (1 + decay * 2), 3 - rate * (-1 + decay * 3)]
    assert found["a.kernel"] == pytest.approx(expected, rel=1e-9)
    assert found["a.bias"] == pytest.approx([2 - rate], rel=1e-9)


def test_the_gradient_of_the_loss_is_its_slope() -> None:
    generator = np.random.default_rng(4)
    logits, labels = generator.normal(size=(3, 4)), np.array([1, 3, 3])
    loss = CrossEntropy(label_smoothing=0.2)
    _, cotangent = cross_entropy(loss, logits, labels)
    for index in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[index] = 1e-6
        above, below = (cross_entropy(loss, logits + s, labels)[0] for s in (step, -step))
        assert cotangent[index] == pytest.approx((above - below) / 2e-6, abs=1e-9)


def test_the_loss_of_huge_logits_is_finite() -> None:
    logits = np.array([[1e300, 0.0], [-1e300, 1e300]])
    value, cotangent = cross_entropy(CrossEntropy(label_smoothing=0.0), logits, np.array([0, 1]))
    assert value == 0.0
    assert not cotangent.any()


# --- the comparison can fail ----------------------------------------------------------------


def changed_adamw(**changes: Any) -> Any:
    """AdamW with other fields than it was given."""
    right = UPDATE[AdamW]

    def wrong(optimiser: AdamW, *rest: Any) -> Any:
        return right(dataclasses.replace(optimiser, **changes), *rest)

    return wrong


def written_adamw(mistake: str) -> Any:
    def wrong(o: AdamW, name: str, step: int, w: Array, g: Array, before: Any) -> Any:
        decay = o.weight_decay * w * name.endswith(o.decayed)
        if mistake == "coupled decay":
            g = g + decay
        m = o.beta1 * before[0] + (1 - o.beta1) * g
        v = o.beta2 * before[1] + (1 - o.beta2) * g * g
        t = {"step off by one": step + 1, "no bias correction": math.inf}.get(mistake, step)
        first, second = m / (1 - o.beta1**t), v / (1 - o.beta2**t)
        inside = mistake == "epsilon inside the root"
        along = first / (np.sqrt(second + o.epsilon) if inside else np.sqrt(second) + o.epsilon)
        if mistake != "coupled decay":
            along = along + decay / (o.learning_rate if mistake == "decay without rate" else 1)
        return w - o.learning_rate * along, (m, v)

    return wrong


MISTAKES = {
    "decay of all weights": changed_adamw(decayed=("",)),
    "decay of none": changed_adamw(decayed=()),
    "moments swapped": changed_adamw(beta1=0.999, beta2=0.9),
    **{
        mistake: written_adamw(mistake)
        for mistake in (
            "coupled decay",
            "step off by one",
            "no bias correction",
            "epsilon inside the root",
            "decay without rate",
        )
    },
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_adamw_is_found(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = three_steps(ADAMW)[-1]
    monkeypatch.setitem(UPDATE, AdamW, MISTAKES[mistake])
    assert difference(three_steps(ADAMW)[-1].weights, right.weights) > 1e-6


def test_the_right_adamw_written_again_is_not_called_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = three_steps(ADAMW)[-1]
    monkeypatch.setitem(UPDATE, AdamW, written_adamw("nothing"))
    assert difference(three_steps(ADAMW)[-1].weights, right.weights) < 1e-15


def test_every_optimiser_leaves_another_state() -> None:
    ends = [three_steps(optimiser)[-1].weights for optimiser in OPTIMISERS.values()]
    for i, one in enumerate(ends):
        for other in ends[:i]:
            assert difference(one, other) > 1e-6


# --- a step of training ---------------------------------------------------------------------


def model_weights() -> dict[str, Array]:
    generator = np.random.default_rng(5)
    return {n: generator.normal(0.1, 0.4, p.shape) for n, p in SPEC.parameters().items()}


INPUTS = np.random.default_rng(6).normal(size=(4, 4, 6, 3))
LABELS = np.array([2, 0, 1, 1])
LOSS = CrossEntropy(label_smoothing=0.1)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_training_lowers_the_loss_and_leaves_the_state_before_alone(name: str) -> None:
    optimiser = OPTIMISERS[name]
    first = state = initial_state(optimiser, model_weights())
    losses = []
    for _ in range(8):
        value, state = train_step(SPEC, state, INPUTS, LABELS, loss=LOSS, optimiser=optimiser)
        losses.append(value)
    assert losses[-1] < losses[0] - 0.01
    assert state.step == 8
    assert first.step == 0
    assert difference(first.weights, model_weights()) == 0.0
    assert not any(a.any() for arrays in first.slots.values() for a in arrays.values())


def test_the_loss_is_a_mean_so_a_batch_twice_is_the_same_step() -> None:
    state = initial_state(ADAMW, model_weights())
    twice = np.concatenate([INPUTS, INPUTS]), np.concatenate([LABELS, LABELS])
    one, after_one = train_step(SPEC, state, INPUTS, LABELS, loss=LOSS, optimiser=ADAMW)
    two, after_two = train_step(SPEC, state, *twice, loss=LOSS, optimiser=ADAMW)
    # A sum of eight losses, or of eight gradients, has seven roundings of 2^-53; of numbers below 1.
    assert two == pytest.approx(one, rel=7 * 2**-53, abs=0)
    assert difference(after_one.weights, after_two.weights) < 7 * 2**-53


def test_float32_stays_float32_and_close() -> None:
    weights = model_weights()
    state = initial_state(ADAMW, weights)
    exact, after = train_step(SPEC, state, INPUTS, LABELS, loss=LOSS, optimiser=ADAMW)
    for arithmetic in (Arithmetic(np.float32), Shuffled(3)):
        value, rounded = train_step(
            SPEC, state, INPUTS, LABELS, loss=LOSS, optimiser=ADAMW, arithmetic=arithmetic
        )
        arrays = [*rounded.weights.values(), *rounded.slots["first_moment"].values()]
        assert {array.dtype for array in arrays} == {np.dtype(np.float32)}
        assert value == pytest.approx(exact, rel=1e-6)
        assert 0 < difference(rounded.weights, after.weights) < 1e-5


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS.astype(float), r"labels: wrong dtype; expected whole numbers \(int64\), got float"),
        ([0, 1, 2, 0], "labels: wrong dtype; .* got list"),
        (LABELS[:3], r"labels: wrong shape; expected \[4\], got \[3\]"),
        (LABELS + 1, "labels: outside of the classes; expected 0 to 2, got 1 to 3"),
        (LABELS - 1, "labels: outside of the classes; expected 0 to 2, got -1 to 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Any, message: str) -> None:
    state = initial_state(ADAMW, model_weights())
    with pytest.raises(InputError, match=message):
        train_step(SPEC, state, INPUTS, labels, loss=LOSS, optimiser=ADAMW)


def test_another_optimisers_state_is_refused() -> None:
    state = initial_state(OPTIMISERS["momentum"], model_weights())
    with pytest.raises(
        InputError,
        match=r"state: slots of another optimiser; expected \['first_moment', 'second_moment'\] "
        r"for adamw, got \['momentum'\]",
    ):
        train_step(SPEC, state, INPUTS, LABELS, loss=LOSS, optimiser=ADAMW)


def test_a_state_whose_arrays_do_not_fit_is_refused() -> None:
    optimiser = OPTIMISERS["momentum"]
    state = initial_state(optimiser, model_weights())
    broken = {**state.slots["momentum"], "head.bias": np.zeros(4)}
    state = dataclasses.replace(state, slots={"momentum": broken})
    with pytest.raises(WeightsError, match=r"state\.slots\.momentum: .*head\.bias"):
        train_step(SPEC, state, INPUTS, LABELS, loss=LOSS, optimiser=optimiser)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sgd(learning_rate=0.0), "learning_rate is too small; expected above 0"),
        (lambda: dataclasses.replace(ADAMW, beta2=1.0), "beta2 is too large; expected below 1"),
        (lambda: dataclasses.replace(ADAMW, epsilon=0.0), "epsilon is too small"),
        (lambda: dataclasses.replace(ADAMW, weight_decay=-1.0), "weight_decay is too small"),
        (lambda: CrossEntropy(label_smoothing=1.5), "label_smoothing is too large"),
        (lambda: Momentum(learning_rate=1.0, decay=0.0, form="classical"), "decay is too small"),
        (lambda: Momentum(learning_rate=1.0, decay=0.5, form="fast"), "form must be one of"),
    ],
)
def test_an_optimiser_that_makes_no_sense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimiser_is_data(name: str) -> None:
    optimiser = OPTIMISERS[name]
    assert type(optimiser).from_data(optimiser.to_data(), "optimiser") == optimiser
