"""What every layer kind computes, in plain NumPy: the specification of the numbers.

Each function takes ``(layer, weights, x, run)``: the layer's fields, its own parameters by name,
the incoming array with a batch axis in front, and a :class:`Run` that has the arithmetic and runs
nested layers. Axes: ``[batch, height, width, rgb]``, ``[batch, token]`` for ids,
``[batch, token, channel]``, ``[batch, channel]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from mixer_spec import layers

from .arithmetic import Arithmetic, Array
from .erf import erf

Own = Mapping[str, Array]


class Run(Protocol):
    """What a layer may ask of the evaluation that it is part of."""

    @property
    def arithmetic(self) -> Arithmetic:
        """How to add up."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches that enter; only where the layer demands a grid."""
        ...

    def nested(self, x: Array) -> Array:
        """The layers inside this one, applied to ``x`` one after the other."""
        ...


def patch_embed(layer: layers.PatchEmbed, weights: Own, x: Array, run: Run) -> Array:
    """``[batch, height, width, rgb] -> [batch, token, channel]``."""
    kernel = weights["kernel"].reshape(-1, layer.features)
    return run.arithmetic.matmul(patches(layer, x), kernel) + weights["bias"]


def patches(layer: layers.PatchEmbed, x: Array) -> Array:
    """``[batch, height, width, rgb] -> [batch, token, pixel]``, pixels as in the kernel."""
    (ph, pw), (batch, height, width, rgb) = layer.patch, x.shape
    rows, columns = height // ph, width // pw
    # [batch, row, patch_row, column, patch_column, rgb] -> the two patch axes last but one
    found = x.reshape(batch, rows, ph, columns, pw, rgb).transpose(0, 1, 3, 2, 4, 5)
    return found.reshape(batch, rows * columns, ph * pw * rgb)


def token_embed(layer: layers.TokenEmbed, weights: Own, x: Array, run: Run) -> Array:
    """``[batch, token] -> [batch, token, channel]``: each word's vector."""
    found: Array = weights["embedding"][x]
    return found


def linear_embed(layer: layers.LinearEmbed, weights: Own, x: Array, run: Run) -> Array:
    """``X W + b``."""
    return run.arithmetic.matmul(x, weights["kernel"]) + weights["bias"]


def class_token(layer: layers.ClassToken, weights: Own, x: Array, run: Run) -> Array:
    """Token 0 is the learned one."""
    token = np.broadcast_to(weights["embedding"], (x.shape[0], 1, x.shape[2]))
    return np.concatenate([token, x], axis=1)


def position_embedding(layer: layers.PositionEmbedding, weights: Own, x: Array, run: Run) -> Array:
    """``X + E``."""
    return x + weights["embedding"]


def layer_norm(layer: layers.LayerNorm, weights: Own, x: Array, run: Run) -> Array:
    """Over the channels, with the population's variance in two passes."""
    normed, _ = standardised(x, 2, layer.epsilon, run)
    return normed * weights["scale"] + weights["bias"]


def token_norm(layer: layers.TokenNorm, weights: Own, x: Array, run: Run) -> Array:
    """Over the tokens, with scale and bias along them."""
    normed, _ = standardised(x, 1, layer.epsilon, run)
    return normed * weights["scale"][:, None] + weights["bias"][:, None]


def standardised(x: Array, axis: int, epsilon: float, run: Run) -> tuple[Array, Array]:
    """``x`` with mean 0 and variance 1 along ``axis``, and the deviation it was divided by."""
    centred = x - run.arithmetic.mean(x, axis)
    variance = run.arithmetic.mean(centred * centred, axis)
    deviation = np.sqrt(variance + run.arithmetic.dtype(epsilon))
    return centred / deviation, deviation


def affine(layer: layers.Affine, weights: Own, x: Array, run: Run) -> Array:
    """``x * scale + bias``."""
    return x * weights["scale"] + weights["bias"]


def layer_scale(layer: layers.LayerScale, weights: Own, x: Array, run: Run) -> Array:
    """``x * scale``."""
    return x * weights["scale"]


def gelu(layer: layers.Gelu, weights: Own, x: Array, run: Run) -> Array:
    """``x Phi(x)``, by erf or by the tanh approximation."""
    number = run.arithmetic.dtype
    gated: Array = number(0.5) * x * (number(1.0) + gelu_step(layer, x, run))
    return gated


def gelu_step(layer: layers.Gelu, x: Array, run: Run) -> Array:
    """What rises from -1 to 1: ``2 Phi(x) - 1``, or its approximation."""
    # Constants in the arithmetic's own dtype: a float64 scalar would not change a float32 array's
    # dtype, but it would hide where a constant is rounded.
    number = run.arithmetic.dtype
    if layer.approximation == "none":
        return erf(x * number(math.sqrt(0.5)))
    cubic = x + number(0.044715) * x * x * x
    step: Array = np.tanh(number(math.sqrt(2.0 / math.pi)) * cubic)
    return step


def silu(layer: layers.Silu, weights: Own, x: Array, run: Run) -> Array:
    """``x / (1 + exp(-x))``."""
    return x * logistic(x, run)


def logistic(x: Array, run: Run) -> Array:
    """``1 / (1 + exp(-x))``, without overflow for large negative values."""
    small = np.exp(-np.abs(x))
    one = run.arithmetic.dtype(1.0)
    found: Array = np.where(x >= 0, one / (one + small), small / (one + small))
    return found


def token_dense(layer: layers.TokenDense, weights: Own, x: Array, run: Run) -> Array:
    """``W X + b``, with b along the tokens."""
    return run.arithmetic.matmul(weights["kernel"], x) + weights["bias"][:, None]


def untied_token_dense(layer: layers.UntiedTokenDense, weights: Own, x: Array, run: Run) -> Array:
    """``W_c x_c + b_c`` for every channel c."""
    columns = x.transpose(0, 2, 1)[..., None]  # [batch, channel, token, 1]
    mixed = run.arithmetic.matmul(weights["kernel"], columns)[..., 0] + weights["bias"]
    return mixed.transpose(0, 2, 1)


def channel_dense(layer: layers.ChannelDense, weights: Own, x: Array, run: Run) -> Array:
    """``X W + b``, with b along the channels."""
    return run.arithmetic.matmul(x, weights["kernel"]) + weights["bias"]


def depthwise_conv(layer: layers.DepthwiseConv, weights: Own, x: Array, run: Run) -> Array:
    """Every channel's window by every channel's kernel, zeros around the grid."""
    # [batch, token, channel, 1, window] times [channel, window, 1]
    rows = windows(layer, x, run).reshape(*x.shape, 1, -1)
    kernel = weights["kernel"].reshape(-1, x.shape[2]).T[..., None]
    return run.arithmetic.matmul(rows, kernel)[..., 0, 0] + weights["bias"]


def windows(layer: layers.DepthwiseConv, x: Array, run: Run) -> Array:
    """``[batch, token, channel, row, column]``: the window around each token."""
    (height, width), (batch, tokens, channels) = layer.window, x.shape
    image = x.reshape(batch, *run.grid, channels)
    around = ((0, 0), (height // 2,) * 2, (width // 2,) * 2, (0, 0))
    found = np.lib.stride_tricks.sliding_window_view(np.pad(image, around), layer.window, (1, 2))
    return found.reshape(batch, tokens, channels, height, width)


def group_channels(layer: layers.GroupChannels, weights: Own, x: Array, run: Run) -> Array:
    """``y[g S + s, j] = x[s, j groups + g]``."""
    batch, tokens, channels = x.shape
    split = x.reshape(batch, tokens, channels // layer.groups, layer.groups)
    return split.transpose(0, 3, 1, 2).reshape(batch, layer.groups * tokens, -1)


def ungroup_channels(layer: layers.UngroupChannels, weights: Own, x: Array, run: Run) -> Array:
    """``y[s, j groups + g] = x[g S + s, j]``."""
    batch, tokens, channels = x.shape
    split = x.reshape(batch, layer.groups, tokens // layer.groups, channels)
    return split.transpose(0, 2, 3, 1).reshape(batch, tokens // layer.groups, -1)


def spatial_gate(layer: layers.SpatialGate, weights: Own, x: Array, run: Run) -> Array:
    """``u * layers(v)`` for the halves ``u, v`` of the channels."""
    u, v = np.split(x, 2, axis=-1)
    return u * run.nested(v)


def gated_unit(layer: layers.GatedUnit, weights: Own, x: Array, run: Run) -> Array:
    """``value * activation(gate)`` for the two halves of an axis."""
    first, second = np.split(x, 2, axis=1 if layer.axis == "token" else 2)
    gate, value = (first, second) if layer.gate == "first" else (second, first)
    return value * run.nested(gate)


def attention(layer: layers.Attention, weights: Own, x: Array, run: Run) -> Array:
    """Softmax of ``q k / sqrt(size)`` over the tokens, for each head."""
    query, key, value = heads(layer, weights, x, run)
    mixed = joined(run.arithmetic.matmul(attention_shares(query, key, run), value))
    return run.arithmetic.matmul(mixed, weights["out.kernel"]) + weights["out.bias"]


def heads(layer: layers.Attention, weights: Own, x: Array, run: Run) -> tuple[Array, Array, Array]:
    """Query, key and value, each ``[batch, head, token, size]``."""
    dense = (
        run.arithmetic.matmul(x, weights[f"{name}.kernel"]) + weights[f"{name}.bias"]
        for name in ("query", "key", "value")
    )
    query, key, value = (split(layer, table) for table in dense)
    return query, key, value


def split(layer: layers.Attention, x: Array) -> Array:
    """``[batch, token, channel] -> [batch, head, token, size]``."""
    return x.reshape(*x.shape[:2], layer.heads, -1).transpose(0, 2, 1, 3)


def joined(x: Array) -> Array:
    """``[batch, head, token, size] -> [batch, token, channel]``."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def attention_shares(query: Array, key: Array, run: Run) -> Array:
    """``[batch, head, token, token of the key]``: how much of each value a token takes."""
    dtype = run.arithmetic.dtype
    tokens, size = query.shape[2:]
    scores = run.arithmetic.matmul(query, key.swapaxes(2, 3)) / dtype(math.sqrt(size))
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    # The mean times the length is the sum, in the arithmetic's order.
    total = run.arithmetic.mean(powers, axis=-1) * dtype(tokens)
    shares: Array = powers / total
    return shares


def residual(layer: layers.Residual, weights: Own, x: Array, run: Run) -> Array:
    """``X + layers(X)``."""
    return x + run.nested(x)


def mean_pool(layer: layers.MeanPool, weights: Own, x: Array, run: Run) -> Array:
    """``[batch, token, channel] -> [batch, channel]``, the mean over the tokens."""
    return run.arithmetic.mean(x, axis=1)[:, 0]


def take_token(layer: layers.TakeToken, weights: Own, x: Array, run: Run) -> Array:
    """``[batch, token, channel] -> [batch, channel]``, one token."""
    return x[:, layer.index]


def head(layer: layers.Head, weights: Own, x: Array, run: Run) -> Array:
    """``[batch, channel] -> [batch, class]``: ``x W + b``."""
    return run.arithmetic.matmul(x, weights["kernel"]) + weights["bias"]


COMPUTE: Mapping[type[layers.AnyLayer], Callable[[Any, Own, Array, Run], Array]] = {
    layers.PatchEmbed: patch_embed,
    layers.TokenEmbed: token_embed,
    layers.LinearEmbed: linear_embed,
    layers.ClassToken: class_token,
    layers.PositionEmbedding: position_embedding,
    layers.LayerNorm: layer_norm,
    layers.TokenNorm: token_norm,
    layers.Affine: affine,
    layers.LayerScale: layer_scale,
    layers.Gelu: gelu,
    layers.Silu: silu,
    layers.TokenDense: token_dense,
    layers.UntiedTokenDense: untied_token_dense,
    layers.ChannelDense: channel_dense,
    layers.DepthwiseConv: depthwise_conv,
    layers.GroupChannels: group_channels,
    layers.UngroupChannels: ungroup_channels,
    layers.SpatialGate: spatial_gate,
    layers.GatedUnit: gated_unit,
    layers.Attention: attention,
    layers.Residual: residual,
    layers.MeanPool: mean_pool,
    layers.TakeToken: take_token,
    layers.Head: head,
}
