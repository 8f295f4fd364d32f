"""One step of training, in plain NumPy: the loss, its gradients, and the optimiser's update."""

from __future__ import annotations

import numpy as np

from mixer_spec.model import ModelSpec
from mixer_spec.training import CrossEntropy, Optimiser, TrainState, check_labels, check_state

from .arithmetic import Arithmetic, Array
from .backward import backward
from .forward import FLOAT64, forward
from .optimisers import update


def train_step(
    spec: ModelSpec,
    state: TrainState,
    inputs: Array,
    labels: Array,
    *,
    loss: CrossEntropy,
    optimiser: Optimiser,
    arithmetic: Arithmetic = FLOAT64,
) -> tuple[float, TrainState]:
    """What every ``train_step`` must compute; see :class:`mixer_spec.backend.Trainable`.

    Args:
        spec: the architecture.
        state: after the step before.
        inputs: images ``[batch, height, width, rgb]``; or sequences.
        labels: ``[batch]``, whole numbers below ``spec.classes``.
        loss: what is differentiated.
        optimiser: how the weights follow the gradients.
        arithmetic: float64, unless noise is to be measured.

    Raises:
        InputError: if the inputs, the labels or the state's slots do not fit.
        WeightsError: if the state's weights do not fit the spec.

    Example:
        >>> from mixer_spec import families, weights
        >>> from mixer_spec.training import Sgd, initial_state
        >>> spec = families.mixer(image_size=8, patch=4, channels=6, depth=1, token_hidden=5,
        ...                       channel_hidden=7, classes=3)
        >>> sgd = Sgd(learning_rate=0.5)
        >>> state = initial_state(sgd, weights.initial(spec))
        >>> before, state = train_step(spec, state, np.ones((2, 8, 8, 3)), np.array([0, 1]),
        ...                            loss=CrossEntropy(label_smoothing=0.0), optimiser=sgd)
        >>> round(before, 4), state.step, state.weights["head.bias"].round(4).tolist()
        (1.0986, 1, [0.0833, 0.0833, -0.1667])
    """
    check_state(spec, optimiser, state)
    logits = forward(spec, state.weights, inputs, arithmetic=arithmetic)["logits"]
    check_labels(spec, len(inputs), labels)
    value, cotangent = cross_entropy(loss, logits, labels, arithmetic)
    gradients = backward(
        spec, state.weights, inputs, {"logits": cotangent}, arithmetic=arithmetic
    ).weights
    return value, update(optimiser, state, gradients, arithmetic)


def cross_entropy(
    loss: CrossEntropy, logits: Array, labels: Array, arithmetic: Arithmetic = FLOAT64
) -> tuple[float, Array]:
    """The loss, and its gradient with respect to the logits ``[batch, class]``.

    Example:
        >>> value, cotangent = cross_entropy(CrossEntropy(label_smoothing=0.0),
        ...                                  np.zeros((1, 4)), np.array([2]))
        >>> round(value, 4), cotangent.tolist()
        (1.3863, [[0.25, 0.25, -0.75, 0.25]])
    """
    number, einsum = arithmetic.dtype, arithmetic.einsum
    batch, classes = logits.shape
    smoothing = number(loss.label_smoothing)
    target = np.full((batch, classes), smoothing / number(classes))
    target[np.arange(batch), labels] += number(1.0) - smoothing

    below = logits - logits.max(axis=1, keepdims=True)
    total = einsum("bk->b", np.exp(below))[:, None]
    value = -einsum("bk,bk->", target, below - np.log(total)) / number(batch)
    cotangent: Array = (np.exp(below) / total - target) / number(batch)
    return float(value), cotangent
