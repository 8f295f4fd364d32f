"""Mistakes in training: losses, batches and optimisers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from mixer_conformance.measure import Array
from mixer_spec.reference import Arithmetic, update
from mixer_spec.training import AdamW, Momentum, TrainState

from .mutant import Known, Weights
from .trainer import Trainer, Update

# --- AdamW --------------------------------------------------------------------------------------

Along = Callable[[AdamW, Array, Array, int], Array]
"""``(optimiser, first moment, second moment, step)``, before any correction, to a step's direction."""


def _only(kind: type[Any], change: Update) -> Update:
    """Another update for one kind of optimiser, the right one for the others."""

    def choose(optimiser: Any, state: TrainState, g: Weights, run: Arithmetic) -> TrainState:
        wrong = change if isinstance(optimiser, kind) else update
        return wrong(optimiser, state, g, run)

    return choose


def _adam_along(along: Along) -> Update:
    """Weights that follow another direction; the moments are right."""

    def adam(o: AdamW, state: TrainState, g: Weights, run: Arithmetic) -> TrainState:
        right = update(o, state, g, run)
        weights = {}
        for name, w in state.weights.items():
            m, v = (right.slots[slot][name] for slot in o.slots)
            step = along(o, m, v, right.step)
            if name.endswith(o.decayed):
                step = step + o.weight_decay * w
            weights[name] = run.cast(w - o.learning_rate * step)
        return replace(right, weights=weights)

    return _only(AdamW, adam)


def _epsilon_in_the_root(o: AdamW, m: Array, v: Array, t: int) -> Array:
    step: Array = m / (1 - o.beta1**t) / np.sqrt(v / (1 - o.beta2**t) + o.epsilon)
    return step


def _epsilon_before_the_correction(o: AdamW, m: Array, v: Array, t: int) -> Array:
    """The correction as a factor of the learning rate, as in the paper's shorter form."""
    step: Array = m * np.sqrt(1 - o.beta2**t) / (1 - o.beta1**t) / (np.sqrt(v) + o.epsilon)
    return step


def _no_correction(o: AdamW, m: Array, v: Array, t: int) -> Array:
    step: Array = m / (np.sqrt(v) + o.epsilon)
    return step


def _first_corrected_alone(o: AdamW, m: Array, v: Array, t: int) -> Array:
    return _no_correction(o, m / (1 - o.beta1**t), v, t)


def _step_off_by_one(o: AdamW, m: Array, v: Array, t: int) -> Array:
    return _no_correction(o, m / (1 - o.beta1 ** (t + 1)), v / (1 - o.beta2 ** (t + 1)), t)


def _no_root(o: AdamW, m: Array, v: Array, t: int) -> Array:
    step: Array = m / (1 - o.beta1**t) / (v / (1 - o.beta2**t) + o.epsilon)
    return step


def _coupled_decay(o: AdamW, state: TrainState, g: Weights, run: Arithmetic) -> TrainState:
    """The decay enters the gradient, as in Adam with an L2 penalty."""
    with_decay = {
        n: a + a.dtype.type(o.weight_decay) * state.weights[n] if n.endswith(o.decayed) else a
        for n, a in g.items()
    }
    return update(replace(o, weight_decay=0.0), state, with_decay, run)


def _reads_adam(**changes: Any) -> Callable[[Any], Any]:
    """AdamW with other numbers."""
    return lambda o: replace(o, **changes) if isinstance(o, AdamW) else o


def _decay_by_itself(optimiser: Any) -> Any:
    """The decay without the learning rate in front of it."""
    if not isinstance(optimiser, AdamW):
        return optimiser
    return replace(optimiser, weight_decay=optimiser.weight_decay / optimiser.learning_rate)


def _betas_swapped(optimiser: Any) -> Any:
    if not isinstance(optimiser, AdamW):
        return optimiser
    return replace(optimiser, beta1=optimiser.beta2, beta2=optimiser.beta1)


# --- momentum -----------------------------------------------------------------------------------


def _reads_momentum(form: Literal["classical", "nesterov"]) -> Callable[[Any], Any]:
    return lambda o: replace(o, form=form) if isinstance(o, Momentum) else o


def _dampened(o: Momentum, state: TrainState, g: Weights, run: Arithmetic) -> TrainState:
    """The gradient times ``1 - decay`` from the second step on, as PyTorch's dampening has it."""
    if state.step:
        g = {n: a * a.dtype.type(1 - o.decay) for n, a in g.items()}
    return update(o, state, g, run)


def _averaged(o: Momentum, state: TrainState, g: Weights, run: Arithmetic) -> TrainState:
    """A moving average: the gradient times ``1 - decay`` in every step."""
    return update(o, state, {n: a * a.dtype.type(1 - o.decay) for n, a in g.items()}, run)


def _holds_the_rate(o: Momentum, state: TrainState, g: Weights, run: Arithmetic) -> TrainState:
    """``m = decay m + learning_rate g``, then ``w - m``: the same weights at a constant rate."""
    rate = {n: a * a.dtype.type(o.learning_rate) for n, a in g.items()}
    return update(replace(o, learning_rate=1.0), state, rate, run)


def _along_the_old(o: Momentum, state: TrainState, g: Weights, run: Arithmetic) -> TrainState:
    """A step along the momentum of the step before."""
    after = update(o, state, g, run)
    rate = o.learning_rate
    weights = {n: run.cast(w - rate * state.slots["momentum"][n]) for n, w in state.weights.items()}
    return replace(after, weights=weights)


# --- any optimiser ------------------------------------------------------------------------------


def _forgetful(optimiser: Any, state: TrainState, g: Weights, run: Arithmetic) -> TrainState:
    """What is remembered begins anew in every step."""
    nothing = {slot: {n: 0 * a for n, a in held.items()} for slot, held in state.slots.items()}
    return update(optimiser, replace(state, slots=nothing), g, run)


def _uphill(optimiser: Any, state: TrainState, g: Weights, run: Arithmetic) -> TrainState:
    return update(optimiser, state, {n: -a for n, a in g.items()}, run)


def _normed(optimiser: Any, state: TrainState, g: Weights, run: Arithmetic) -> TrainState:
    """All gradients together no longer than one tenth."""
    length = float(np.sqrt(sum(np.sum(np.square(a, dtype=np.float64)) for a in g.values())))
    factor = min(1.0, 0.1 / length)
    return update(optimiser, state, {n: a * a.dtype.type(factor) for n, a in g.items()}, run)


def _summed(optimiser: Any, state: TrainState, g: Weights, run: Arithmetic) -> TrainState:
    """Gradients of the sum over the batch of three, beside the loss's right mean."""
    return update(optimiser, state, {n: a * a.dtype.type(3) for n, a in g.items()}, run)


def _in_place(optimiser: Any, state: TrainState, g: Weights, run: Arithmetic) -> TrainState:
    """Right, but the state before becomes the state behind."""
    after = update(optimiser, state, g, run)
    for name, weight in state.weights.items():
        weight[...] = after.weights[name]
    return after


_ROWS: tuple[tuple[str, Trainer, str | None], ...] = (
    *(
        (name, Trainer(update=_adam_along(along)), "stem.kernel")
        for name, along in (
            ("adam's epsilon in the root", _epsilon_in_the_root),
            ("adam's epsilon before the correction", _epsilon_before_the_correction),
            ("adam without bias correction", _no_correction),
            ("adam's first moment corrected alone", _first_corrected_alone),
            ("adam's step off by one", _step_off_by_one),
            ("adam without the root", _no_root),
        )
    ),
    ("decay in the gradient", Trainer(update=_only(AdamW, _coupled_decay)), None),
    ("decay of biases and norms", Trainer(optimiser=_reads_adam(decayed=("",))), "stem.bias"),
    ("decay forgotten", Trainer(optimiser=_reads_adam(weight_decay=0.0)), "stem.kernel"),
    ("decay without the learning rate", Trainer(optimiser=_decay_by_itself), "stem.kernel"),
    ("adam's betas swapped", Trainer(optimiser=_betas_swapped), None),
    ("nesterov forgotten", Trainer(optimiser=_reads_momentum("classical")), "stem.kernel"),
    ("nesterov for classical", Trainer(optimiser=_reads_momentum("nesterov")), "stem.kernel"),
    ("momentum with dampening", Trainer(update=_only(Momentum, _dampened)), None),
    ("momentum as a moving average", Trainer(update=_only(Momentum, _averaged)), None),
    ("momentum holds the learning rate", Trainer(update=_only(Momentum, _holds_the_rate)), None),
    ("a step along the momentum before", Trainer(update=_only(Momentum, _along_the_old)), None),
    ("nothing remembered between steps", Trainer(update=_forgetful), None),
    ("gradients of the loaded weights", Trainer(weights=lambda loaded, now: loaded), "loss"),
    ("weights changed in place", Trainer(update=_in_place), "stem.kernel"),
    ("steps uphill", Trainer(update=_uphill), "stem.kernel"),
    ("gradients clipped to a length", Trainer(update=_normed), "stem.kernel"),
    ("gradients over the batch as a sum", Trainer(update=_summed), "stem.kernel"),
    (
        "label smoothing ignored",
        Trainer(loss=lambda loss: replace(loss, label_smoothing=0.0)),
        "loss",
    ),
    ("the loss as a sum", Trainer(value=lambda value, batch: value * batch), "loss"),
    ("the batch's last input twice", Trainer(batch=lambda x: np.concatenate([x, x[-1:]])), "loss"),
    ("the batch's last input dropped", Trainer(batch=lambda x: x[:-1]), "loss"),
)

TRAININGS: tuple[Known, ...] = tuple(
    Known(name=name, backend=trainer, model="mixer", stage=stage, killer="F19")
    for name, trainer, stage in _ROWS
)
"""Every mistake in training."""
