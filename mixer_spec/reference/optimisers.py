"""What an optimiser computes, in plain NumPy: the specification of its step.

Source:
    PyTorch 2.13 and Optax 0.2.8 compute these very functions; they differ in what stands beside
    them and in where they round. ``torch.optim.AdamW`` takes the decay off the weight before it
    adds the update, ``optax.adamw`` subtracts both at once: the same number, since both decay the
    weight as it was. ``weight_decay`` of ``torch.optim.Adam`` and ``SGD`` is another function: it
    enters the gradient. PyTorch computes ``1 - beta^t`` in float64, Optax in the default float of
    JAX: in float32 ``1 - 0.999`` is off by 1e-5 of its value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mixer_spec.training import AdamW, Momentum, Optimiser, Sgd, TrainState
from mixer_spec.weights import Weights

from .arithmetic import Arithmetic, Array
from .forward import FLOAT64

Slots = tuple[Array, ...]
"""What is remembered of one weight, in the order of the optimiser's ``slots``."""


def update(
    optimiser: Optimiser, state: TrainState, gradients: Weights, arithmetic: Arithmetic = FLOAT64
) -> TrainState:
    """The state after one more step.

    Args:
        optimiser: how the weights follow the gradients.
        state: after the step before; it stays as it is.
        gradients: of the loss, for every weight.
        arithmetic: whose dtype everything is computed in.
    """
    cast, step = arithmetic.cast, state.step + 1
    weights: dict[str, Array] = {}
    slots: dict[str, dict[str, Array]] = {slot: {} for slot in optimiser.slots}
    for name, weight in state.weights.items():
        before = tuple(cast(state.slots[slot][name]) for slot in optimiser.slots)
        weights[name], after = UPDATE[type(optimiser)](
            optimiser, name, step, cast(weight), cast(gradients[name]), before
        )
        for slot, array in zip(optimiser.slots, after, strict=True):
            slots[slot][name] = array
    return TrainState(step=step, weights=weights, slots=slots)


def sgd(
    optimiser: Sgd, name: str, step: int, w: Array, g: Array, before: Slots
) -> tuple[Array, Slots]:
    """``w - learning_rate * g``."""
    return w - w.dtype.type(optimiser.learning_rate) * g, ()


def momentum(
    optimiser: Momentum, name: str, step: int, w: Array, g: Array, before: Slots
) -> tuple[Array, Slots]:
    """``m = decay * m + g``, and a step along it, or along what it will be next."""
    number, (m,) = w.dtype.type, before
    decay = number(optimiser.decay)
    m = decay * m + g
    along = decay * m + g if optimiser.form == "nesterov" else m
    return w - number(optimiser.learning_rate) * along, (m,)


def adamw(
    optimiser: AdamW, name: str, step: int, w: Array, g: Array, before: Slots
) -> tuple[Array, Slots]:
    """Moments, their bias corrected, and the decay of the weights that decay."""
    number, (m, v) = w.dtype.type, before
    beta1, beta2 = optimiser.beta1, optimiser.beta2
    m = number(beta1) * m + number(1.0 - beta1) * g
    v = number(beta2) * v + number(1.0 - beta2) * g * g
    first, second = m / number(1.0 - beta1**step), v / number(1.0 - beta2**step)
    along = first / (np.sqrt(second) + number(optimiser.epsilon))
    if name.endswith(optimiser.decayed):
        along = along + number(optimiser.weight_decay) * w
    return w - number(optimiser.learning_rate) * along, (m, v)


UPDATE: Mapping[type[Any], Callable[[Any, str, int, Array, Array, Slots], tuple[Array, Slots]]] = {
    Sgd: sgd,
    Momentum: momentum,
    AdamW: adamw,
}
