"""Mistakes in going back and in training: gradients, losses and optimisers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import numpy as np

from mixer_conformance.measure import Array
from mixer_spec import BackendInfo, ModelSpec, layers
from mixer_spec.reference import Arithmetic, backward, cross_entropy, forward, update
from mixer_spec.reference.backward_layers import BACKWARD
from mixer_spec.training import (
    AdamW,
    CrossEntropy,
    Gradients,
    Momentum,
    Optimiser,
    TrainState,
)

from .changes import edited
from .mutant import ONE_AT_A_TIME, Known, Weights, same

_FLOAT32 = Arithmetic(np.float32)
Backward = Callable[..., Array]


def _loss_as_it_is(value: float, batch: int) -> float:
    return value


def _right_update(optimiser: Optimiser, state: TrainState, gradients: Weights) -> TrainState:
    return update(optimiser, state, gradients, _FLOAT32)


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """The float32 reference with one mistake going back; forwards it is right.

    Args:
        spec: as it is read going back.
        backward: what layer kinds do going back instead.
        gradients: as they are returned and used.
        value: the loss, from the right one and the batch size.
        loss: as it is read.
        optimiser: as it is read.
        update: how the state follows the gradients.
        batch: which inputs and labels are used.
    """

    spec: Callable[[ModelSpec], ModelSpec] = same
    backward: Mapping[type[Any], Backward] = field(default_factory=dict)
    gradients: Callable[[Weights], Weights] = same
    value: Callable[[float, int], float] = _loss_as_it_is
    loss: Callable[[CrossEntropy], CrossEntropy] = same
    optimiser: Callable[[Any], Any] = same
    update: Callable[[Any, TrainState, Weights], TrainState] = _right_update
    batch: Callable[[Array], Array] = same

    def info(self) -> BackendInfo:
        """See :meth:`mixer_spec.backend.Backend.info`."""
        return BackendInfo(name="mutant", versions={}, device="cpu", profiles=("f32-strict",))

    def load(self, spec: ModelSpec, weights: Weights, *, profile: str) -> Trained:
        """See :meth:`mixer_spec.backend.Backend.load`."""
        return Trained(self, spec, weights)


@dataclass(frozen=True)
class Trained:
    """A trainer's model."""

    trainer: Trainer
    spec: ModelSpec
    held: Weights

    def forward(self, inputs: Array, taps: Sequence[str] = ()) -> Weights:
        """See :meth:`mixer_spec.backend.Model.forward`."""
        return forward(self.spec, self.held, inputs, taps, arithmetic=_FLOAT32)

    def export_weights(self) -> Weights:
        """See :meth:`mixer_spec.backend.Model.export_weights`."""
        return self.held

    def vjp(self, inputs: Array, cotangents: Mapping[str, Array]) -> Gradients:
        """See :meth:`mixer_spec.backend.Differentiable.vjp`."""
        return self._vjp(self.held, inputs, cotangents)

    def _vjp(self, weights: Any, inputs: Array, cotangents: Mapping[str, Array]) -> Gradients:
        trainer = self.trainer
        with ONE_AT_A_TIME, mock.patch.dict(BACKWARD, trainer.backward):
            found = backward(
                trainer.spec(self.spec), weights, inputs, cotangents, arithmetic=_FLOAT32
            )
        return replace(found, weights=trainer.gradients(dict(found.weights)))

    def train_step(
        self,
        state: TrainState,
        inputs: Array,
        labels: Array,
        *,
        loss: CrossEntropy,
        optimiser: Optimiser,
    ) -> tuple[float, TrainState]:
        """See :meth:`mixer_spec.backend.Trainable.train_step`."""
        trainer = self.trainer
        inputs, labels = trainer.batch(inputs), trainer.batch(labels)
        logits = forward(self.spec, state.weights, inputs, arithmetic=_FLOAT32)["logits"]
        value, cotangent = cross_entropy(trainer.loss(loss), logits, labels, _FLOAT32)
        gradients = self._vjp(state.weights, inputs, {"logits": cotangent}).weights
        after = trainer.update(trainer.optimiser(optimiser), state, dict(gradients))
        return trainer.value(value, len(inputs)), after


# --- going back --------------------------------------------------------------------------------

_RESIDUAL_BACK = BACKWARD[layers.Residual]
_NORM_BACK = BACKWARD[layers.LayerNorm]
_POOL_BACK = BACKWARD[layers.MeanPool]


def _norm_without_its_mean(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    dx = _NORM_BACK(layer, weights, x, dy, run)
    centred = x - x.mean(axis=-1, keepdims=True)
    root = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + x.dtype.type(layer.epsilon))
    return dx + (dy * weights["scale"] / root).mean(axis=-1, keepdims=True)


def _detached_norm(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    """The mean and the deviation taken for constants."""
    _NORM_BACK(layer, weights, x, dy, run)
    root = np.sqrt(x.var(axis=-1, keepdims=True) + x.dtype.type(layer.epsilon))
    return dy * weights["scale"] / root


def _detached_branch(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    """The branch's weights learn, and nothing in front of it through it."""
    _RESIDUAL_BACK(layer, weights, x, dy, run)
    return dy


def _pool_as_a_sum(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    return _POOL_BACK(layer, weights, x, dy, run) * x.dtype.type(x.shape[1])


def _frozen(end: str) -> Callable[[Weights], Weights]:
    return lambda found: {n: 0 * g if n.endswith(end) else g for n, g in found.items()}


def _clipped(found: Weights) -> Weights:
    return {name: np.clip(g, -0.05, 0.05) for name, g in found.items()}


_TOKENS0 = "blocks.0.token_mixing"

BACKWARDS = tuple(
    Known(name=name, backend=trainer, model="mixer", stage=stage, killer="F17")
    for name, trainer, stage in (
        ("gelu by erf going back", Trainer(spec=edited('"tanh"', '"none"')), _TOKENS0),
        (
            "a norm without its mean going back",
            Trainer(backward={layers.LayerNorm: _norm_without_its_mean}),
            _TOKENS0,
        ),
        (
            "a norm's statistics as constants",
            Trainer(backward={layers.LayerNorm: _detached_norm}),
            _TOKENS0,
        ),
        (
            "a branch detached",
            Trainer(backward={layers.Residual: _detached_branch}),
            _TOKENS0,
        ),
        ("the pool's mean as a sum", Trainer(backward={layers.MeanPool: _pool_as_a_sum}), "pooled"),
        ("norms that do not learn", Trainer(gradients=_frozen("norm.scale")), _TOKENS0),
        ("a head's bias that does not learn", Trainer(gradients=_frozen("head.bias")), "logits"),
        ("gradients clipped", Trainer(gradients=_clipped), "stem"),
        (
            "a gradient missing",
            Trainer(gradients=lambda g: {n: a for n, a in g.items() if n != "norm.bias"}),
            "norm.bias",
        ),
        (
            "gradients over the batch as a mean",
            Trainer(gradients=lambda g: {n: a / np.float32(3) for n, a in g.items()}),
            "stem",
        ),
    )
)

# --- training ----------------------------------------------------------------------------------


def _adam(change: Callable[..., TrainState]) -> Callable[[Any, TrainState, Weights], TrainState]:
    """Another update for AdamW, the right one for the others."""

    def choose(optimiser: Any, state: TrainState, gradients: Weights) -> TrainState:
        right = _right_update(optimiser, state, gradients)
        return change(optimiser, state, gradients, right) if isinstance(optimiser, AdamW) else right

    return choose


def _stepped(
    optimiser: AdamW,
    state: TrainState,
    right: TrainState,
    along: Callable[[Array, Array, int], Array],
) -> TrainState:
    """Weights that follow ``along(first, second, step)`` of the right moments."""
    weights = {}
    for name, w in state.weights.items():
        m, v = (right.slots[slot][name] for slot in optimiser.slots)
        step = along(m, v, right.step)
        if name.endswith(optimiser.decayed):
            step = step + optimiser.weight_decay * w
        weights[name] = (w - optimiser.learning_rate * step).astype(np.float32)
    return replace(right, weights=weights)


def _epsilon_in_the_root(o: AdamW, state: TrainState, g: Weights, right: TrainState) -> TrainState:
    return _stepped(
        o,
        state,
        right,
        lambda m, v, t: m / (1 - o.beta1**t) / np.sqrt(v / (1 - o.beta2**t) + o.epsilon),
    )


def _no_correction(o: AdamW, state: TrainState, g: Weights, right: TrainState) -> TrainState:
    return _stepped(o, state, right, lambda m, v, t: m / (np.sqrt(v) + o.epsilon))


def _step_off_by_one(o: AdamW, state: TrainState, g: Weights, right: TrainState) -> TrainState:
    return _stepped(
        o,
        state,
        right,
        lambda m, v, t: (
            m / (1 - o.beta1 ** (t + 1)) / (np.sqrt(v / (1 - o.beta2 ** (t + 1))) + o.epsilon)
        ),
    )


def _coupled_decay(o: AdamW, state: TrainState, g: Weights, right: TrainState) -> TrainState:
    """The decay enters the gradient, as in Adam with an L2 penalty."""
    with_decay = {
        n: a + np.float32(o.weight_decay) * state.weights[n] if n.endswith(o.decayed) else a
        for n, a in g.items()
    }
    return _right_update(replace(o, weight_decay=0.0), state, with_decay)


def _decays_all(optimiser: Any) -> Any:
    return replace(optimiser, decayed=("",)) if isinstance(optimiser, AdamW) else optimiser


def _decays_nothing(optimiser: Any) -> Any:
    return replace(optimiser, weight_decay=0.0) if isinstance(optimiser, AdamW) else optimiser


def _classical(optimiser: Any) -> Any:
    return replace(optimiser, form="classical") if isinstance(optimiser, Momentum) else optimiser


def _dampened(optimiser: Any, state: TrainState, gradients: Weights) -> TrainState:
    if isinstance(optimiser, Momentum) and state.step:
        gradients = {n: g * np.float32(1 - optimiser.decay) for n, g in gradients.items()}
    return _right_update(optimiser, state, gradients)


TRAININGS = tuple(
    Known(name=name, backend=trainer, model="mixer", stage=stage, killer="F19")
    for name, trainer, stage in (
        ("adam's epsilon in the root", Trainer(update=_adam(_epsilon_in_the_root)), None),
        ("adam without bias correction", Trainer(update=_adam(_no_correction)), None),
        ("adam's step off by one", Trainer(update=_adam(_step_off_by_one)), None),
        ("decay in the gradient", Trainer(update=_adam(_coupled_decay)), None),
        ("decay of biases and norms", Trainer(optimiser=_decays_all), "stem.bias"),
        ("decay forgotten", Trainer(optimiser=_decays_nothing), "stem.kernel"),
        ("nesterov forgotten", Trainer(optimiser=_classical), "stem.kernel"),
        ("momentum with dampening", Trainer(update=_dampened), None),
        (
            "label smoothing ignored",
            Trainer(loss=lambda loss: replace(loss, label_smoothing=0.0)),
            "loss",
        ),
        ("the loss as a sum", Trainer(value=lambda value, batch: value * batch), "loss"),
        (
            "the batch's last input twice",
            Trainer(batch=lambda x: np.concatenate([x, x[-1:]])),
            "loss",
        ),
    )
)

TRAINED: tuple[Known, ...] = (*BACKWARDS, *TRAININGS)
"""Every mistake in going back and in training."""
