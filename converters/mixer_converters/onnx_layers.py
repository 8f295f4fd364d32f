"""What every layer kind is in ONNX's operators: one short function each.

Each function takes ``(layer, here, x)``: the layer's fields, its place in the drawing, and the
value that enters. Axes: ``[batch, rgb, height, width]`` for the image (or
``[batch, height, width, rgb]``), ``[batch, token]`` for ids, ``[batch, token, channel]``,
``[batch, channel]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from mixer_spec import layers
from mixer_spec.shapes import Image

from . import onnx_products
from .onnx_graph import Place


def patch_embed(layer: layers.PatchEmbed, here: Place, x: ir.Value) -> ir.Value:
    """Cut the image into rows of pixels, one a patch; then a matrix product."""
    image = here.node.incoming
    assert isinstance(image, Image)
    (ph, pw), rgb = layer.patch, image.channels
    rows, columns = image.height // ph, image.width // pw
    if here.drawing.input_layout == "NCHW":
        x = here.reshape(x, 0, rgb, rows, ph, columns, pw, part="split")
        order = (0, 2, 4, 3, 5, 1)
    else:
        x = here.reshape(x, 0, rows, ph, columns, pw, rgb, part="split")
        order = (0, 1, 3, 2, 4, 5)
    # [batch, row, column, patch_row, patch_column, rgb]
    x = here.op("Transpose", x, perm=order)
    x = here.reshape(x, 0, rows * columns, ph * pw * rgb, part="flatten")
    kernel = here.parameter("kernel", (ph * pw * rgb, layer.features))
    return here.op("Add", here.op("MatMul", x, kernel), here.parameter("bias"))


def token_embed(layer: layers.TokenEmbed, here: Place, x: ir.Value) -> ir.Value:
    """Each word's vector."""
    return here.op("Gather", here.parameter("embedding"), x, axis=0)


def linear_embed(layer: layers.LinearEmbed, here: Place, x: ir.Value) -> ir.Value:
    """``X W + b``."""
    return onnx_products.dense(here, x)


def class_token(layer: layers.ClassToken, here: Place, x: ir.Value) -> ir.Value:
    """Token 0 is the learned one, the same for every image."""
    batch = here.op("Shape", x, start=0, end=1)
    one_token = here.constant("token_shape", np.array((1, here.table.channels), np.int64))
    shape = here.op("Concat", batch, one_token, part="shape", axis=0)
    token = here.op("Expand", here.parameter("embedding"), shape)
    return here.op("Concat", token, x, axis=1)


def position_embedding(layer: layers.PositionEmbedding, here: Place, x: ir.Value) -> ir.Value:
    """``X + E``."""
    return here.op("Add", x, here.parameter("embedding"))


def layer_norm(layer: layers.LayerNorm, here: Place, x: ir.Value) -> ir.Value:
    """Over the channels."""
    return _normed(x, layer.epsilon, here)


def token_norm(layer: layers.TokenNorm, here: Place, x: ir.Value) -> ir.Value:
    """Over the tokens: LayerNorm of the transposed table."""
    columns = here.op("Transpose", x, part="columns", perm=(0, 2, 1))
    return here.op("Transpose", _normed(columns, layer.epsilon, here), part="rows", perm=(0, 2, 1))


def _normed(x: ir.Value, epsilon: float, here: Place) -> ir.Value:
    """Over the last axis, in float32; epsilon is written, since ONNX's default is another."""
    scale, bias = here.wide_parameter("scale"), here.wide_parameter("bias")
    inputs = (here.wide(x), scale, bias)
    return here.narrow(here.op("LayerNormalization", *inputs, axis=-1, epsilon=epsilon))


def affine(layer: layers.Affine, here: Place, x: ir.Value) -> ir.Value:
    """``x * scale + bias``."""
    return here.op("Add", here.op("Mul", x, here.parameter("scale")), here.parameter("bias"))


def layer_scale(layer: layers.LayerScale, here: Place, x: ir.Value) -> ir.Value:
    """``x * scale``."""
    return here.op("Mul", x, here.parameter("scale"))


def gelu(layer: layers.Gelu, here: Place, x: ir.Value) -> ir.Value:
    """ONNX has the spec's words for the two forms; before opset 20, their formulas."""
    if here.drawing.form.opset >= 20:
        return here.op("Gelu", x, approximate=layer.approximation)
    if layer.approximation == "tanh":
        cube = here.op("Mul", here.op("Mul", x, x), x)
        inner = here.op("Add", x, here.op("Mul", cube, here.number("cubic", 0.044715)))
        inner = here.op("Mul", inner, here.number("root", math.sqrt(2 / math.pi)))
        curve = here.op("Tanh", inner)
    else:
        curve = here.op("Erf", here.op("Div", x, here.number("root", math.sqrt(2))))
    share = here.op("Add", curve, here.number("one", 1.0))
    return here.op("Mul", here.op("Mul", x, share), here.number("half", 0.5))


def silu(layer: layers.Silu, here: Place, x: ir.Value) -> ir.Value:
    """``x sigmoid(x)``."""
    return here.op("Mul", x, here.op("Sigmoid", x))


def token_dense(layer: layers.TokenDense, here: Place, x: ir.Value) -> ir.Value:
    """``W X + b``."""
    return onnx_products.token_dense(here, x, layer.features)


def channel_dense(layer: layers.ChannelDense, here: Place, x: ir.Value) -> ir.Value:
    """``X W + b``."""
    return onnx_products.dense(here, x)


def untied_token_dense(layer: layers.UntiedTokenDense, here: Place, x: ir.Value) -> ir.Value:
    """``W_c x_c + b_c``: one product for each channel, in which a row is an image.

    ONNX Runtime transposes the kernel once, at load. With images as columns nothing is transposed
    but activations, and batches of 8 and more take two to four times as long.
    """
    rows = here.op("Transpose", x, part="rows", perm=(2, 0, 1))  # [channel, batch, token]
    kernel = here.op("Transpose", here.parameter("kernel"), part="kernel", perm=(0, 2, 1))
    bias = here.parameter("bias", (here.table.channels, 1, layer.features))
    mixed = here.op("Add", here.op("MatMul", rows, kernel), bias)
    return here.op("Transpose", mixed, part="tokens", perm=(1, 2, 0))


def depthwise_conv(layer: layers.DepthwiseConv, here: Place, x: ir.Value) -> ir.Value:
    """ONNX's convolution has channels first; ONNX Runtime transposes the kernel once, at load."""
    table, (height, width) = here.table, layer.window
    assert table.grid is not None
    # In float32: before opset 22 there is no convolution in bfloat16.
    image = here.reshape(here.wide(x), 0, *table.grid, table.channels, part="grid")
    image = here.op("Transpose", image, part="grid", perm=(0, 3, 1, 2))
    kernel = here.wide_parameter("kernel", (height, width, 1, table.channels))
    kernel = here.op("Transpose", kernel, part="kernel", perm=(3, 2, 0, 1))
    pads = (height // 2, width // 2) * 2
    bias = here.wide_parameter("bias")
    found = here.op("Conv", image, kernel, bias, group=table.channels, pads=pads)
    rows = here.op("Transpose", found, part="tokens", perm=(0, 2, 3, 1))
    return here.narrow(here.reshape(rows, 0, *table.shape, part="tokens"))


def group_channels(layer: layers.GroupChannels, here: Place, x: ir.Value) -> ir.Value:
    """``y[g S + s, j] = x[s, j groups + g]``."""
    tokens, channels = here.table.shape
    split = here.reshape(x, 0, tokens, channels // layer.groups, layer.groups, part="split")
    split = here.op("Transpose", split, perm=(0, 3, 1, 2))
    return here.reshape(split, 0, tokens * layer.groups, channels // layer.groups)


def ungroup_channels(layer: layers.UngroupChannels, here: Place, x: ir.Value) -> ir.Value:
    """``y[s, j groups + g] = x[g S + s, j]``."""
    tokens, channels = here.table.shape
    split = here.reshape(x, 0, layer.groups, tokens // layer.groups, channels, part="split")
    split = here.op("Transpose", split, perm=(0, 2, 3, 1))
    return here.reshape(split, 0, tokens // layer.groups, channels * layer.groups)


def spatial_gate(layer: layers.SpatialGate, here: Place, x: ir.Value) -> ir.Value:
    """``u * layers(v)`` for the halves ``u, v`` of the channels."""
    u, v = here.halves(x, axis=2)
    return here.op("Mul", u, here.nested(v))


def gated_unit(layer: layers.GatedUnit, here: Place, x: ir.Value) -> ir.Value:
    """``value * activation(gate)`` for the two halves of an axis."""
    first, second = here.halves(x, axis=1 if layer.axis == "token" else 2)
    gate, value = (first, second) if layer.gate == "first" else (second, first)
    return here.op("Mul", value, here.nested(gate))


def attention(layer: layers.Attention, here: Place, x: ir.Value) -> ir.Value:
    """Softmax of ``q k / sqrt(size)`` over the tokens, for each head."""
    tokens, channels = here.table.shape
    size = channels // layer.heads

    def heads(part: str, *order: int) -> ir.Value:
        split = here.reshape(
            onnx_products.dense(here, x, part), 0, tokens, layer.heads, size, part=part
        )
        return here.op("Transpose", split, part=part, perm=order)

    query = heads("query", 0, 2, 1, 3)  # [batch, head, token, size]
    key = heads("key", 0, 2, 3, 1)  # [batch, head, size, token]
    value = heads("value", 0, 2, 1, 3)
    root = here.number("sqrt_size", math.sqrt(size))
    scores = here.op("Div", here.op("MatMul", query, key, part="scores"), root, part="scores")
    shares = here.narrow(here.op("Softmax", here.wide(scores), axis=-1))
    mixed = here.op("MatMul", shares, value, part="mixed")
    rows = here.op("Transpose", mixed, part="mixed", perm=(0, 2, 1, 3))
    rows = here.reshape(rows, 0, tokens, channels, part="mixed")
    return onnx_products.dense(here, rows, "out")


def residual(layer: layers.Residual, here: Place, x: ir.Value) -> ir.Value:
    """``X + layers(X)``."""
    return here.op("Add", x, here.nested(x))


def mean_pool(layer: layers.MeanPool, here: Place, x: ir.Value) -> ir.Value:
    """The mean over the tokens, in float32: ``[batch, token, channel] -> [batch, channel]``."""
    if here.drawing.form.opset >= 18:
        axes = here.constant("axes", np.array((1,), np.int64))
        return here.narrow(here.op("ReduceMean", here.wide(x), axes, keepdims=0))
    return here.narrow(here.op("ReduceMean", here.wide(x), axes=(1,), keepdims=0))


def take_token(layer: layers.TakeToken, here: Place, x: ir.Value) -> ir.Value:
    """One token: ``[batch, token, channel] -> [batch, channel]``."""
    index = here.constant("index", np.array(layer.index, np.int64))
    return here.op("Gather", x, index, axis=1)


def head(layer: layers.Head, here: Place, x: ir.Value) -> ir.Value:
    """``x W + b``: ``[batch, channel] -> [batch, class]``."""
    return onnx_products.dense(here, x)


DRAW: Mapping[type[layers.AnyLayer], Callable[[Any, Place, ir.Value], ir.Value]] = {
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
