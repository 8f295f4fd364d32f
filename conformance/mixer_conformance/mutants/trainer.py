"""A trainer: the reference with one mistake in going back or in training, behind the protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import numpy as np

from mixer_conformance.measure import Array
from mixer_spec import BackendInfo, ModelSpec
from mixer_spec.reference import Arithmetic, backward, cross_entropy, forward, update
from mixer_spec.reference.backward_layers import BACKWARD
from mixer_spec.training import CrossEntropy, Gradients, Optimiser, TrainState

from .mutant import ONE_AT_A_TIME, Weights, same

Backward = Callable[..., Array]
"""``(layer, own weights, x, dy, run)``, as in ``mixer_spec.reference.backward_layers``."""

Update = Callable[[Any, TrainState, Weights, Arithmetic], TrainState]
"""``(optimiser, state, gradients, arithmetic)``, as ``mixer_spec.reference.update``."""


def _loss_as_it_is(value: float, batch: int) -> float:
    return value


def _of_the_state(loaded: Weights, now: Weights) -> Weights:
    return now


@dataclass(frozen=True, kw_only=True, eq=False)
class Trainer:
    """The reference with one mistake going back; forwards it is right.

    Args:
        spec: as it is read going back.
        backward: what layer kinds do going back instead.
        gradients: as they are returned and used.
        weights: those that a step of training starts from, of the loaded ones and the state's.
        value: the loss, from the right one and the batch size.
        loss: as it is read.
        optimiser: as it is read.
        update: how the state follows the gradients.
        batch: which inputs and labels are used.
        arithmetic: of everything.
    """

    spec: Callable[[ModelSpec], ModelSpec] = same
    backward: Mapping[type[Any], Backward] = field(default_factory=dict)
    gradients: Callable[[Weights], Weights] = same
    weights: Callable[[Weights, Weights], Weights] = _of_the_state
    value: Callable[[float, int], float] = _loss_as_it_is
    loss: Callable[[CrossEntropy], CrossEntropy] = same
    optimiser: Callable[[Any], Any] = same
    update: Update = update
    batch: Callable[[Array], Array] = same
    arithmetic: Arithmetic = field(default_factory=lambda: Arithmetic(np.float32))

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
        return forward(self.spec, self.held, inputs, taps, arithmetic=self.trainer.arithmetic)

    def export_weights(self) -> Weights:
        """See :meth:`mixer_spec.backend.Model.export_weights`."""
        return self.held

    def vjp(self, inputs: Array, cotangents: Mapping[str, Array]) -> Gradients:
        """See :meth:`mixer_spec.backend.Differentiable.vjp`."""
        return self._vjp(self.held, inputs, cotangents)

    def _vjp(self, weights: Any, inputs: Array, cotangents: Mapping[str, Array]) -> Gradients:
        trainer = self.trainer
        spec, arithmetic = trainer.spec(self.spec), trainer.arithmetic
        with ONE_AT_A_TIME, mock.patch.dict(BACKWARD, trainer.backward):
            found = backward(spec, weights, inputs, cotangents, arithmetic=arithmetic)
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
        trainer, arithmetic = self.trainer, self.trainer.arithmetic
        inputs, labels = trainer.batch(inputs), trainer.batch(labels)
        weights = trainer.weights(self.held, dict(state.weights))
        logits = forward(self.spec, weights, inputs, arithmetic=arithmetic)["logits"]
        value, cotangent = cross_entropy(trainer.loss(loss), logits, labels, arithmetic)
        gradients = dict(self._vjp(weights, inputs, {"logits": cotangent}).weights)
        after = trainer.update(trainer.optimiser(optimiser), state, gradients, arithmetic)
        return trainer.value(value, len(inputs)), after
