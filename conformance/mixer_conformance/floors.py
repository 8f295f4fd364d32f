"""The a-priori rounding floor of each step: what correct float32 arithmetic may do at least.

A yardstick of a few runs of one library can be lucky. The floor is the error that a plain serial
summation would show, so a backend that adds up in another order than NumPy is not at fault.

Everything is relative to the size of the layer's result, in units of the roundoff ``u``, for the
sample that is worst off, as a deviation is. Errors of consecutive layers are independent and add
as the root of the sum of their squares:

- a sum of n products: ``0.41 sqrt(n + 2)``: the partial sums of n terms of random sign grow as
  their root, each is rounded once, and ``sqrt(1/6) = 0.41``;
- an element-wise function of a few operations (GELU, SiLU, exp, dividing by a deviation): 4;
  of one or two (scale, affine, a gate's product): 1 or 2;
- a residual ``x + branch``: the branch's floor by the branch's share of the result, and 1;
- a sum that is a step of its own (stem, head): its floor by ``sqrt(w^2 x^2 + b^2)`` over the size
  of the result, since cancellation makes that smaller than what was added;
- a mean over n tokens: likewise by the size of the tokens over the size of their mean;
- taking a token, joining one, looking up a word, rearranging: nothing, it copies.

Source:
    Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019; the
    constants are fitted to PyTorch, XLA and ONNX Runtime on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mixer_spec import layers
from mixer_spec.graph import Node, Step
from mixer_spec.reference import run_step
from mixer_spec.shapes import Table
from mixer_spec.weights import Weights

from .measure import Array, sample_rms

UNIT_ROUNDOFF = 2.0**-24
"""Half the distance from 1 to the next float32."""

_ELEMENTWISE = 4.0


def root_sum_square(*floors: float) -> float:
    """How independent errors add."""
    return math.hypot(*floors)


def step_floor(node: Node, weights: Weights, incoming: Array, outgoing: Array) -> float:
    """The relative error that one float32 layer may add.

    Args:
        node: a layer at the top level of a step.
        weights: canonical name to array.
        incoming: what the oracle gave it, with a batch axis in front.
        outgoing: what the oracle made of it.
    """
    match node.layer:
        case layers.Residual():
            share = _ratio(outgoing - incoming, outgoing)
            units = root_sum_square(_of_list(node.children) * share, 1.0)
        case layers.MeanPool():
            units = _sum(incoming.shape[1]) * _ratio(incoming, outgoing)
        case layers.PatchEmbed() | layers.LinearEmbed() | layers.Head():
            # The partial sums end in the result, so that they are no smaller where nothing cancels.
            cancelled = _ratio(_added_up(node, weights, incoming), outgoing)
            units = _fan_in(node) * max(1.0, cancelled)
        case layers.LayerNorm():
            # The statistics' own sums count here, where no other layer stands behind the norm.
            units = root_sum_square(_sum(incoming.shape[2]), _ELEMENTWISE)
        case layers.TokenNorm():
            units = root_sum_square(_sum(incoming.shape[1]), _ELEMENTWISE)
        case _:
            units = _of_layer(node)
    return units * UNIT_ROUNDOFF


def _ratio(part: Array, whole: Array) -> float:
    """The size of a part by that of the whole, in the worst sample."""
    sizes = sample_rms(whole)
    return float(
        np.divide(sample_rms(part), sizes, out=np.zeros_like(sizes), where=sizes > 0).max()
    )


def _added_up(node: Node, weights: Weights, x: Array) -> Array:
    """The root of what a linear layer makes of squares: how much it adds up, whatever cancels."""
    squares = {
        f"{node.path}.{name}": np.square(weights[f"{node.path}.{name}"], dtype=np.float64)
        for name in node.own_parameters
    }
    return np.sqrt(run_step(Step("", (node,)), squares, np.square(x)))


def _sum(terms: int) -> float:
    return 0.41 * math.sqrt(terms + 2)


def _of_list(nodes: tuple[Node, ...]) -> float:
    return root_sum_square(*map(_of_layer, nodes))


def _of_layer(node: Node) -> float:
    return _FLOORS[type(node.layer)](node)


def _fan_in(node: Node) -> float:
    """Sums over the fan-in of the layer's kernel."""
    fan_in = node.own_parameters["kernel"].fan_in
    assert fan_in is not None  # a kernel has one
    return _sum(fan_in)


def _gate(node: Node) -> float:
    """The gating half's layers, then one product."""
    return root_sum_square(_of_list(node.children), 1.0)


def _attention(node: Node) -> float:
    """Value, weighted sum and output; and the softmax, which turns the scores' errors relative.

    Scores of size 1 have the absolute error of query, key and their product.
    """
    layer, table = node.layer, node.incoming
    assert isinstance(layer, layers.Attention)
    assert isinstance(table, Table)
    project, mix = _sum(table.channels), _sum(table.tokens)
    score = root_sum_square(project, project, _sum(table.channels // layer.heads))
    softmax = root_sum_square(score, _ELEMENTWISE, mix)
    return root_sum_square(project, softmax, mix, project)


def _constant(units: float) -> Callable[[Node], float]:
    return lambda node: units


_FLOORS: Mapping[type[Any], Callable[[Node], float]] = {
    layers.PatchEmbed: _fan_in,
    layers.TokenEmbed: _constant(0.0),
    layers.LinearEmbed: _fan_in,
    layers.ClassToken: _constant(0.0),
    layers.PositionEmbedding: _constant(1.0),
    # Inside a branch, the statistics' one error per token or channel is small beside the sums that follow.
    layers.LayerNorm: _constant(_ELEMENTWISE),
    layers.TokenNorm: _constant(_ELEMENTWISE),
    layers.Affine: _constant(2.0),
    layers.LayerScale: _constant(1.0),
    layers.Gelu: _constant(_ELEMENTWISE),
    layers.Silu: _constant(_ELEMENTWISE),
    layers.TokenDense: _fan_in,
    layers.UntiedTokenDense: _fan_in,
    layers.ChannelDense: _fan_in,
    layers.DepthwiseConv: _fan_in,
    layers.GroupChannels: _constant(0.0),
    layers.UngroupChannels: _constant(0.0),
    layers.SpatialGate: _gate,
    layers.GatedUnit: _gate,
    layers.Attention: _attention,
    layers.TakeToken: _constant(0.0),
    layers.Head: _fan_in,
}
