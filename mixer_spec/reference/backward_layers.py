"""How every layer kind turns the cotangent of what leaves it into that of what enters it.

Each function takes ``(layer, weights, x, dy, run)``: as in ``layers.py``, and the cotangent ``dy``
of the layer's result, of the result's shape. It returns the cotangent of ``x`` and tells
``run.gradient`` each of its own weights' gradients as a sum of products, in the letters of
``einsum``: b batch, s token, c channel, t and o the token and channel that leave, p pixel,
h head, i and j row and column of a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from mixer_spec import layers

from .arithmetic import Array
from .layers import (
    Own,
    Run,
    attention_shares,
    gelu_step,
    group_channels,
    heads,
    joined,
    logistic,
    patches,
    split,
    standardised,
    ungroup_channels,
    windows,
)


class BackwardRun(Run, Protocol):
    """What a layer may ask of the backward pass that it is part of."""

    def gradient(self, name: str, subscripts: str, *factors: Array) -> None:
        """The gradient of the layer's own weight ``name`` is this sum of products."""
        ...

    def nested_backward(self, x: Array, dy: Array) -> Array:
        """The cotangent of ``x``, which enters the layers inside this one, given their result's."""
        ...


# --- stems and embeddings -------------------------------------------------------------------


def patch_embed(
    layer: layers.PatchEmbed, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """``dP = dY W^T``, laid back into the image."""
    run.gradient("kernel", "bsp,bsc->pc", patches(layer, x), dy)
    run.gradient("bias", "bsc->c", dy)
    (ph, pw), (batch, height, width, rgb) = layer.patch, x.shape
    kernel = weights["kernel"].reshape(-1, layer.features)
    dpatches = run.arithmetic.einsum("bsc,pc->bsp", dy, kernel)
    # [batch, row, column, patch_row, patch_column, rgb] -> rows, columns and rgb of the image
    dx = dpatches.reshape(batch, height // ph, width // pw, ph, pw, rgb)
    return dx.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)


def token_embed(
    layer: layers.TokenEmbed, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """Each word's vector gathers the cotangents of its places; ids have no derivative."""
    one_hot = (x[..., None] == np.arange(len(weights["embedding"]))).astype(dy.dtype)
    run.gradient("embedding", "bsw,bsc->wc", one_hot, dy)
    return np.zeros(x.shape, dy.dtype)


def class_token(
    layer: layers.ClassToken, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """Token 0 is the learned one."""
    run.gradient("embedding", "bsc->sc", dy[:, :1])
    return dy[:, 1:]


def position_embedding(
    layer: layers.PositionEmbedding, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """``dE = sum over the batch of dY``."""
    run.gradient("embedding", "bsc->sc", dy)
    return dy


# --- norms, scales and activations ----------------------------------------------------------


def layer_norm(
    layer: layers.LayerNorm, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """Over the channels."""
    normed, deviation = standardised(x, 2, layer.epsilon, run)
    run.gradient("scale", "bsc,bsc->c", normed, dy)
    run.gradient("bias", "bsc->c", dy)
    return _standardised_backward(normed, deviation, dy * weights["scale"], 2, run)


def token_norm(
    layer: layers.TokenNorm, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """Over the tokens."""
    normed, deviation = standardised(x, 1, layer.epsilon, run)
    run.gradient("scale", "bsc,bsc->s", normed, dy)
    run.gradient("bias", "bsc->s", dy)
    return _standardised_backward(normed, deviation, dy * weights["scale"][:, None], 1, run)


def _standardised_backward(
    normed: Array, deviation: Array, dy: Array, axis: int, run: BackwardRun
) -> Array:
    """``(dy - mean(dy) - n mean(n dy)) / deviation``: n moves neither its mean nor its size."""
    mean = run.arithmetic.mean
    dx: Array = (dy - mean(dy, axis) - normed * mean(normed * dy, axis)) / deviation
    return dx


def affine(layer: layers.Affine, weights: Own, x: Array, dy: Array, run: BackwardRun) -> Array:
    """``dx = dy * scale``."""
    run.gradient("scale", "bsc,bsc->c", x, dy)
    run.gradient("bias", "bsc->c", dy)
    return dy * weights["scale"]


def layer_scale(
    layer: layers.LayerScale, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """``dx = dy * scale``."""
    run.gradient("scale", "bsc,bsc->c", x, dy)
    return dy * weights["scale"]


def gelu(layer: layers.Gelu, weights: Own, x: Array, dy: Array, run: BackwardRun) -> Array:
    """``(x (1 + f(x)) / 2)' = (1 + f(x) + x f'(x)) / 2`` for the step ``f``."""
    number = run.arithmetic.dtype
    step = gelu_step(layer, x, run)
    if layer.approximation == "none":  # f = erf(x / sqrt(2))
        slope = number(math.sqrt(2.0 / math.pi)) * np.exp(number(-0.5) * x * x)
    else:  # f = tanh(sqrt(2 / pi) (x + 0.044715 x^3))
        inner = number(1.0) + number(3 * 0.044715) * x * x
        slope = (number(1.0) - step * step) * number(math.sqrt(2.0 / math.pi)) * inner
    dx: Array = dy * number(0.5) * (number(1.0) + step + x * slope)
    return dx


def silu(layer: layers.Silu, weights: Own, x: Array, dy: Array, run: BackwardRun) -> Array:
    """``(x g(x))' = g (1 + x (1 - g))`` for the logistic function ``g``."""
    one, gate = run.arithmetic.dtype(1.0), logistic(x, run)
    dx: Array = dy * gate * (one + x * (one - gate))
    return dx


# --- linear maps and rearrangements ---------------------------------------------------------


def channel_dense(
    layer: layers.ChannelDense | layers.LinearEmbed,
    weights: Own,
    x: Array,
    dy: Array,
    run: BackwardRun,
) -> Array:
    """``dW = X^T dY`` and ``dX = dY W^T``."""
    run.gradient("kernel", "bsc,bso->co", x, dy)
    run.gradient("bias", "bso->o", dy)
    return run.arithmetic.einsum("bso,co->bsc", dy, weights["kernel"])


def token_dense(
    layer: layers.TokenDense, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """``dW = dY X^T`` and ``dX = W^T dY``."""
    run.gradient("kernel", "btc,bsc->ts", dy, x)
    run.gradient("bias", "btc->t", dy)
    return run.arithmetic.einsum("ts,btc->bsc", weights["kernel"], dy)


def untied_token_dense(
    layer: layers.UntiedTokenDense, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """As :func:`token_dense`, for every channel by itself."""
    run.gradient("kernel", "btc,bsc->cts", dy, x)
    run.gradient("bias", "btc->ct", dy)
    return run.arithmetic.einsum("cts,btc->bsc", weights["kernel"], dy)


def depthwise_conv(
    layer: layers.DepthwiseConv, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """What a token gave to its neighbours comes back through the kernel turned around."""
    run.gradient("kernel", "bscij,bsc->ijc", windows(layer, x, run), dy)
    run.gradient("bias", "bsc->c", dy)
    turned = weights["kernel"][::-1, ::-1]
    return run.arithmetic.einsum("bscij,ijc->bsc", windows(layer, dy, run), turned)


def group_channels_backward(
    layer: layers.GroupChannels, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """A rearrangement's cotangent is rearranged back."""
    return ungroup_channels(layers.UngroupChannels(groups=layer.groups), weights, dy, run)


def ungroup_channels_backward(
    layer: layers.UngroupChannels, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """A rearrangement's cotangent is rearranged back."""
    return group_channels(layers.GroupChannels(groups=layer.groups), weights, dy, run)


def attention(
    layer: layers.Attention, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """Back through the output, the shares of the values, their softmax, and query, key, value."""
    einsum = run.arithmetic.einsum
    query, key, value = heads(layer, weights, x, run)
    shares = attention_shares(query, key, run)
    mixed = joined(run.arithmetic.matmul(shares, value))
    run.gradient("out.kernel", "bsc,bso->co", mixed, dy)
    run.gradient("out.bias", "bso->o", dy)

    # t is the token that asks, s the token that is asked, d the channel of a head
    dmixed = split(layer, einsum("bso,co->bsc", dy, weights["out.kernel"]))
    dshares = einsum("bhtd,bhsd->bhts", dmixed, value)
    # Shares sum to 1: what moves all scores of a token alike moves nothing.
    common = einsum("bhts,bhts->bht", shares, dshares)[..., None]
    dscores = shares * (dshares - common) / run.arithmetic.dtype(math.sqrt(query.shape[3]))
    cotangents = {
        "query": einsum("bhts,bhsd->bhtd", dscores, key),
        "key": einsum("bhts,bhtd->bhsd", dscores, query),
        "value": einsum("bhts,bhtd->bhsd", shares, dmixed),
    }
    dx = np.zeros_like(x)
    for name, cotangent in cotangents.items():
        dtable = joined(cotangent)
        run.gradient(f"{name}.kernel", "bsc,bso->co", x, dtable)
        run.gradient(f"{name}.bias", "bso->o", dtable)
        dx += einsum("bso,co->bsc", dtable, weights[f"{name}.kernel"])
    return dx


# --- nesting --------------------------------------------------------------------------------


def spatial_gate(
    layer: layers.SpatialGate, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """``u * layers(v)``: each factor takes the other with it."""
    u, v = np.split(x, 2, axis=-1)
    return np.concatenate([dy * run.nested(v), run.nested_backward(v, dy * u)], axis=-1)


def gated_unit(
    layer: layers.GatedUnit, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """``value * activation(gate)``: each factor takes the other with it."""
    axis = 1 if layer.axis == "token" else 2
    first, second = np.split(x, 2, axis=axis)
    gate, value = (first, second) if layer.gate == "first" else (second, first)
    dgate, dvalue = run.nested_backward(gate, dy * value), dy * run.nested(gate)
    halves = (dgate, dvalue) if layer.gate == "first" else (dvalue, dgate)
    return np.concatenate(halves, axis=axis)


def residual(layer: layers.Residual, weights: Own, x: Array, dy: Array, run: BackwardRun) -> Array:
    """``dX = dY`` and what comes back through the branch."""
    return dy + run.nested_backward(x, dy)


# --- pools and head -------------------------------------------------------------------------


def mean_pool(layer: layers.MeanPool, weights: Own, x: Array, dy: Array, run: BackwardRun) -> Array:
    """Every token has the same part."""
    return np.broadcast_to(dy[:, None] / run.arithmetic.dtype(x.shape[1]), x.shape)


def take_token(
    layer: layers.TakeToken, weights: Own, x: Array, dy: Array, run: BackwardRun
) -> Array:
    """One token has all of it."""
    dx = np.zeros_like(x)
    dx[:, layer.index] = dy
    return dx


def head(layer: layers.Head, weights: Own, x: Array, dy: Array, run: BackwardRun) -> Array:
    """``dW = x^T dy`` and ``dx = dy W^T``."""
    run.gradient("kernel", "bc,bo->co", x, dy)
    run.gradient("bias", "bo->o", dy)
    return run.arithmetic.einsum("bo,co->bc", dy, weights["kernel"])


BACKWARD: Mapping[type[layers.AnyLayer], Callable[[Any, Own, Array, Array, BackwardRun], Array]] = {
    layers.PatchEmbed: patch_embed,
    layers.TokenEmbed: token_embed,
    layers.LinearEmbed: channel_dense,
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
    layers.GroupChannels: group_channels_backward,
    layers.UngroupChannels: ungroup_channels_backward,
    layers.SpatialGate: spatial_gate,
    layers.GatedUnit: gated_unit,
    layers.Attention: attention,
    layers.Residual: residual,
    layers.MeanPool: mean_pool,
    layers.TakeToken: take_token,
    layers.Head: head,
}
