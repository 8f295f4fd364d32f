"""The forward pass of the reference, whole or one step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mixer_spec.backend import check_inputs
from mixer_spec.graph import Node, Step
from mixer_spec.model import ModelSpec
from mixer_spec.shapes import Table
from mixer_spec.weights import Weights, validate

from .arithmetic import Arithmetic, Array
from .layers import COMPUTE

FLOAT64 = Arithmetic()
"""The oracle's arithmetic."""


@dataclass(frozen=True, slots=True)
class NodeRun:
    """The evaluation of one node: the arithmetic, all weights, and the node itself."""

    arithmetic: Arithmetic
    weights: Weights
    node: Node

    @property
    def grid(self) -> tuple[int, int]:
        table = self.node.incoming
        assert isinstance(table, Table)
        assert table.grid is not None  # the layer's rules see to it
        return table.grid

    @property
    def own(self) -> dict[str, Array]:
        """The node's own parameters by name."""
        # Cast here, one layer at a time: a float64 copy of all of H/14 would be 3.5 GB.
        names = self.node.own_parameters
        return {
            name: self.arithmetic.cast(self.weights[f"{self.node.path}.{name}"]) for name in names
        }

    def nested(self, x: Array) -> Array:
        for child in self.node.children:
            x = run_node(child, self.weights, x, self.arithmetic)
        return x


def run_node(node: Node, weights: Weights, x: Array, arithmetic: Arithmetic) -> Array:
    """One layer at its place, with those inside it."""
    run = NodeRun(arithmetic, weights, node)
    return COMPUTE[type(node.layer)](node.layer, run.own, x, run)


def run_step(step: Step, weights: Weights, x: Array, arithmetic: Arithmetic = FLOAT64) -> Array:
    """One step of a spec: from one tap to the next.

    Args:
        step: out of ``spec.steps``.
        weights: canonical name to array.
        x: what leaves the step before, with a batch axis in front.
        arithmetic: how to add up.
    """
    x = arithmetic.cast(x)
    for node in step.nodes:
        x = run_node(node, weights, x, arithmetic)
    return x


def forward(
    spec: ModelSpec,
    weights: Weights,
    inputs: Array,
    taps: Sequence[str] = (),
    *,
    arithmetic: Arithmetic = FLOAT64,
) -> dict[str, Array]:
    """What every backend must compute.

    Args:
        spec: the architecture.
        weights: canonical name to array.
        inputs: preprocessed images ``[batch, height, width, rgb]``; or sequences.
        taps: names out of ``spec.taps`` to return beside the logits.
        arithmetic: float64, unless noise is to be measured.

    Returns:
        ``"logits"`` ``[batch, class]``, and every tap asked for.

    Raises:
        InputError: if the inputs or taps do not fit the spec.
        WeightsError: if the weights do not fit the spec.

    Example:
        >>> import numpy as np
        >>> from mixer_spec import families, weights
        >>> spec = families.mixer(image_size=8, patch=4, channels=6, depth=1, token_hidden=5,
        ...                       channel_hidden=7, classes=3)
        >>> found = forward(spec, weights.initial(spec), np.ones((2, 8, 8, 3)), taps=["pooled"])
        >>> found["pooled"].shape, found["logits"].tolist()
        ((2, 6), [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    """
    check_inputs(spec, inputs, taps)
    validate(spec, weights)
    found = {}
    x = inputs
    for step in spec.steps:
        x = run_step(step, weights, x, arithmetic)
        if step.tap in taps or step.tap == "logits":
            found[step.tap] = x
    return found
