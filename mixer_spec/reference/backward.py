"""The backward pass of the reference: every gradient, by the chain rule written out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from mixer_spec.backend import check_inputs
from mixer_spec.graph import Node, Step
from mixer_spec.model import ModelSpec
from mixer_spec.shapes import TokenIds
from mixer_spec.training import Gradients, check_cotangents
from mixer_spec.weights import Weights, validate

from .arithmetic import Arithmetic, Array
from .backward_layers import BACKWARD
from .forward import FLOAT64, NodeRun, run_node, run_step

Sum = Callable[..., Array]
"""From the letters of an einsum and its factors to what is wanted of that sum of products."""


@dataclass(frozen=True, slots=True)
class _BackwardRun(NodeRun):
    """The backward pass of one node: how to take its sums of products, and those taken so far."""

    take: Sum
    found: dict[str, Array] = field(default_factory=dict)

    def gradient(self, name: str, subscripts: str, *factors: Array) -> None:
        shape = self.node.own_parameters[name].shape
        self.found[f"{self.node.path}.{name}"] = self.take(subscripts, *factors).reshape(shape)

    def nested_backward(self, x: Array, dy: Array) -> Array:
        dx, found = _run_backward(
            self.node.children, self.weights, x, dy, self.arithmetic, self.take
        )
        self.found.update(found)
        return dx


def _run_backward(
    nodes: Iterable[Node], weights: Weights, x: Array, dy: Array, arithmetic: Arithmetic, take: Sum
) -> tuple[Array, dict[str, Array]]:
    """The cotangent of ``x``, which enters the first node, and what ``take`` made of each gradient."""
    entering = []
    for node in nodes:
        entering.append((node, x))
        x = run_node(node, weights, x, arithmetic)
    found: dict[str, Array] = {}
    for node, x in reversed(entering):
        run = _BackwardRun(arithmetic, weights, node, take)
        dy = BACKWARD[type(node.layer)](node.layer, run.own, x, dy, run)
        found |= run.found
    return dy, found


def backward_step(
    step: Step, weights: Weights, x: Array, cotangent: Array, arithmetic: Arithmetic = FLOAT64
) -> tuple[Array, dict[str, Array]]:
    """One step of a spec backwards: from the cotangent of its tap to that of the tap before.

    Args:
        step: out of ``spec.steps``.
        weights: canonical name to array.
        x: what leaves the step before, with a batch axis in front.
        cotangent: of what leaves this step.
        arithmetic: how to add up.

    Returns:
        The cotangent of ``x``, and the gradient of each of the step's weights by canonical name.
    """
    x, cotangent = arithmetic.cast(x), arithmetic.cast(cotangent)
    return _run_backward(step.nodes, weights, x, cotangent, arithmetic, arithmetic.einsum)


def backward(
    spec: ModelSpec,
    weights: Weights,
    inputs: Array,
    cotangents: Mapping[str, Array],
    *,
    arithmetic: Arithmetic = FLOAT64,
) -> Gradients:
    """The gradients of ``sum over taps of sum(cotangent * tap)``; what every ``vjp`` must compute.

    Args:
        spec: the architecture.
        weights: canonical name to array.
        inputs: preprocessed images ``[batch, height, width, rgb]``; or sequences.
        cotangents: tap to array of the tap's shape; taps that are absent count for nothing.
        arithmetic: float64, unless noise is to be measured.

    Raises:
        InputError: if the inputs or cotangents do not fit the spec.
        WeightsError: if the weights do not fit the spec.

    Example:
        >>> import numpy as np
        >>> from mixer_spec import families, weights
        >>> spec = families.mixer(image_size=8, patch=4, channels=6, depth=1, token_hidden=5,
        ...                       channel_hidden=7, classes=3)
        >>> found = backward(spec, weights.initial(spec), np.ones((2, 8, 8, 3)),
        ...                  {"logits": np.ones((2, 3))})
        >>> found.weights["head.bias"]
        array([2., 2., 2.])
    """
    dx, found = _walk(spec, weights, inputs, cotangents, arithmetic, arithmetic.einsum)
    return Gradients(weights=found, inputs=None if isinstance(spec.input, TokenIds) else dx)


def gradient_sizes(
    spec: ModelSpec, weights: Weights, inputs: Array, cotangents: Mapping[str, Array]
) -> dict[str, Array]:
    """The size that each weight's gradient would have if its summands were of random sign.

    The root of the sum of the squared summands, in float64, under the weights' canonical names.
    An error is judged in units of it, because some gradients are zero by structure: a bias that
    every norm behind it removes has summands of ordinary size that cancel.

    Args:
        spec: the architecture.
        weights: canonical name to array.
        inputs: as for :func:`backward`.
        cotangents: as for :func:`backward`.

    Raises:
        InputError: if the inputs or cotangents do not fit the spec.
        WeightsError: if the weights do not fit the spec.
    """

    def root_sum_square(subscripts: str, *factors: Array) -> Array:
        squares = (factor * factor for factor in factors)
        size: Array = np.sqrt(FLOAT64.einsum(subscripts, *squares))
        return size

    return _walk(spec, weights, inputs, cotangents, FLOAT64, root_sum_square)[1]


def _walk(
    spec: ModelSpec,
    weights: Weights,
    inputs: Array,
    cotangents: Mapping[str, Array],
    arithmetic: Arithmetic,
    take: Sum,
) -> tuple[Array, dict[str, Array]]:
    """The cotangent of the inputs, and what ``take`` made of every weight's gradient."""
    check_inputs(spec, inputs)
    check_cotangents(spec, len(inputs), cotangents)
    validate(spec, weights)
    last = max(spec.taps.index(tap) for tap in cotangents)
    entering = []
    x = arithmetic.cast(inputs)
    for step in spec.steps[: last + 1]:
        entering.append((step, x))
        x = run_step(step, weights, x, arithmetic)

    found = {
        name: np.zeros(parameter.shape, arithmetic.dtype)
        for name, parameter in spec.parameters().items()
    }
    dx = np.zeros(x.shape, arithmetic.dtype)
    for step, x in reversed(entering):
        if step.tap in cotangents:
            dx = dx + arithmetic.cast(cotangents[step.tap])
        dx, own = _run_backward(step.nodes, weights, x, dx, arithmetic, take)
        found |= own
    return dx, found
