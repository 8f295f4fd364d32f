"""What every layer kind computes, in JAX: one pure function for each.

Each function takes ``(layer, own, x, run)``: the layer's fields, its own parameters, the incoming
array with a batch axis in front, and a :class:`Run` that multiplies matrices and runs nested
layers. Axes: ``[batch, height, width, rgb]``, ``[batch, token, channel]``, ``[batch, channel]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from mixer_spec import layers
from mixer_spec.shapes import Shape, Table

Own = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """What a layer may ask of the evaluation that it is part of.

    Args:
        precision: of matrix products, as ``jax.numpy.matmul`` takes it.
        incoming: the shape that enters the layer, without batch.
        nested: the layers inside this one, applied to an array one after the other.
    """

    precision: jax.lax.PrecisionLike
    incoming: Shape
    nested: Callable[[jax.Array], jax.Array]

    def matmul(self, left: jax.Array, right: jax.Array) -> jax.Array:
        """The matrix product over the last axis of ``left`` and the last but one of ``right``."""
        return jnp.matmul(left, right, precision=self.precision)


def patch_embed(layer: layers.PatchEmbed, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``[batch, height, width, rgb] -> [batch, token, channel]``."""
    (ph, pw), (batch, height, width, rgb) = layer.patch, x.shape
    # [batch, row, patch_row, column, patch_column, rgb] -> the two patch axes side by side
    patches = x.reshape(batch, height // ph, ph, width // pw, pw, rgb).swapaxes(2, 3)
    patches = patches.reshape(batch, -1, ph * pw * rgb)
    return run.matmul(patches, own["kernel"].reshape(-1, layer.features)) + own["bias"]


def token_embed(layer: layers.TokenEmbed, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``[batch, token] -> [batch, token, channel]``: each word's vector."""
    return jnp.take(own["embedding"], x, axis=0)


def linear_embed(layer: layers.LinearEmbed, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``X W + b``."""
    return run.matmul(x, own["kernel"]) + own["bias"]


def class_token(layer: layers.ClassToken, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """Token 0 is the learned one."""
    token = jnp.broadcast_to(own["embedding"], (x.shape[0], 1, x.shape[2]))
    return jnp.concatenate([token, x], axis=1)


def position_embedding(
    layer: layers.PositionEmbedding, own: Own, x: jax.Array, run: Run
) -> jax.Array:
    """``X + E``."""
    return x + own["embedding"]


def layer_norm(layer: layers.LayerNorm, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """Over the channels, with the population's variance in two passes."""
    return _normed(x, 2, layer.epsilon) * own["scale"] + own["bias"]


def token_norm(layer: layers.TokenNorm, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """Over the tokens, with scale and bias along them."""
    return _normed(x, 1, layer.epsilon) * own["scale"][:, None] + own["bias"][:, None]


def _normed(x: jax.Array, axis: int, epsilon: float) -> jax.Array:
    """Mean 0 and variance 1 along ``axis``."""
    # Half precisions cannot hold the statistics, so those are never below float32.
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - wide.mean(axis, keepdims=True)
    variance = jnp.square(centred).mean(axis, keepdims=True)
    return (centred / jnp.sqrt(variance + epsilon)).astype(x.dtype)


def affine(layer: layers.Affine, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``x * scale + bias``."""
    return x * own["scale"] + own["bias"]


def layer_scale(layer: layers.LayerScale, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``x * scale``."""
    return x * own["scale"]


def gelu(layer: layers.Gelu, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``x Phi(x)``, by erf or by the tanh approximation."""
    return jax.nn.gelu(x, approximate=layer.approximation == "tanh")


def silu(layer: layers.Silu, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``x / (1 + exp(-x))``."""
    return jax.nn.silu(x)


def token_dense(layer: layers.TokenDense, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``W X + b``, with b along the tokens."""
    kernel = own["kernel"]
    if jax.default_backend() == "cpu":
        # A product for each example, with a copy of the kernel: on a CPU the gradients take half
        # of the time that the transposes of one large product would.
        kernel = jnp.broadcast_to(kernel, (x.shape[0], *kernel.shape))
    return run.matmul(kernel, x) + own["bias"][:, None]


def channel_dense(layer: layers.ChannelDense, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``X W + b``, with b along the channels."""
    return run.matmul(x, own["kernel"]) + own["bias"]


def untied_token_dense(
    layer: layers.UntiedTokenDense, own: Own, x: jax.Array, run: Run
) -> jax.Array:
    """``W_c x_c + b_c`` for every channel c."""
    columns = x.transpose(2, 1, 0)  # [channel, token, batch]
    return (run.matmul(own["kernel"], columns) + own["bias"][..., None]).transpose(2, 1, 0)


def depthwise_conv(layer: layers.DepthwiseConv, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """Every channel's window by every channel's kernel, zeros around the grid."""
    table = run.incoming
    assert isinstance(table, Table)
    assert table.grid is not None
    (rows, columns), (height, width) = table.grid, layer.window
    # A product for each place in the window, which XLA fuses into one loop: on a CPU 10 to 100
    # times as fast as its convolution with a group for each channel.
    around = ((0, 0), (height // 2,) * 2, (width // 2,) * 2, (0, 0))
    image = jnp.pad(x.reshape(x.shape[0], rows, columns, x.shape[2]), around)
    products = (
        image[:, i : i + rows, j : j + columns] * own["kernel"][i, j]
        for i in range(height)
        for j in range(width)
    )
    return sum(products, start=own["bias"]).reshape(x.shape)


def group_channels(layer: layers.GroupChannels, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``y[g S + s, j] = x[s, j groups + g]``."""
    batch, tokens, channels = x.shape
    split = x.reshape(batch, tokens, channels // layer.groups, layer.groups)
    return split.transpose(0, 3, 1, 2).reshape(batch, layer.groups * tokens, -1)


def ungroup_channels(layer: layers.UngroupChannels, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``y[s, j groups + g] = x[g S + s, j]``."""
    batch, tokens, channels = x.shape
    split = x.reshape(batch, layer.groups, tokens // layer.groups, channels)
    return split.transpose(0, 2, 3, 1).reshape(batch, tokens // layer.groups, -1)


def spatial_gate(layer: layers.SpatialGate, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``u * layers(v)`` for the halves ``u, v`` of the channels."""
    u, v = jnp.split(x, 2, axis=-1)
    return u * run.nested(v)


def gated_unit(layer: layers.GatedUnit, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``value * activation(gate)`` for the two halves of an axis."""
    first, second = jnp.split(x, 2, axis=1 if layer.axis == "token" else 2)
    gate, value = (first, second) if layer.gate == "first" else (second, first)
    return value * run.nested(gate)


def attention(layer: layers.Attention, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """Softmax of ``q k / sqrt(size)`` over the tokens, for each head."""
    batch, tokens, channels = x.shape
    size = channels // layer.heads

    def dense(name: str, table: jax.Array) -> jax.Array:
        return run.matmul(table, own[name]["kernel"]) + own[name]["bias"]

    def heads(name: str) -> jax.Array:  # [batch, head, token, size]
        return dense(name, x).reshape(batch, tokens, layer.heads, size).swapaxes(1, 2)

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = run.matmul(query, key.swapaxes(2, 3)) / math.sqrt(size)
    mixed = run.matmul(jax.nn.softmax(scores, axis=-1), value)
    return dense("out", mixed.swapaxes(1, 2).reshape(batch, tokens, channels))


def residual(layer: layers.Residual, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``X + layers(X)``."""
    return x + run.nested(x)


def mean_pool(layer: layers.MeanPool, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``[batch, token, channel] -> [batch, channel]``, the mean over the tokens."""
    return x.mean(axis=1)


def take_token(layer: layers.TakeToken, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``[batch, token, channel] -> [batch, channel]``, one token."""
    return x[:, layer.index]


def head(layer: layers.Head, own: Own, x: jax.Array, run: Run) -> jax.Array:
    """``[batch, channel] -> [batch, class]``: ``x W + b``."""
    return run.matmul(x, own["kernel"]) + own["bias"]


COMPUTE: Mapping[type[layers.AnyLayer], Callable[[Any, Own, jax.Array, Run], jax.Array]] = (
    MappingProxyType(
        {
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
    )
)
