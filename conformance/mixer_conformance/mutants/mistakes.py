"""Mistakes in what a layer computes: activations, norms, mixing, gates, scales and pools."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mixer_conformance.measure import Array
from mixer_conformance.precision import to_bfloat16
from mixer_spec import layers
from mixer_spec.reference.erf import erf
from mixer_spec.reference.layers import COMPUTE

_NORM = COMPUTE[layers.LayerNorm]
_STEM = COMPUTE[layers.PatchEmbed]
_CLASS_TOKEN = COMPUTE[layers.ClassToken]
_TOKENS = COMPUTE[layers.TokenDense]
_CONV = COMPUTE[layers.DepthwiseConv]
_UNTIED = COMPUTE[layers.UntiedTokenDense]
_UNIT = COMPUTE[layers.GatedUnit]
_GELU = COMPUTE[layers.Gelu]
_WORDS = COMPUTE[layers.TokenEmbed]

# --- activations ---------------------------------------------------------------------------


def gelu_with_short_constant(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    inner = np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044) * x * x * x)
    return np.float32(0.5) * x * (1 + np.tanh(inner))


def gelu_with_short_root(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """0.798 for the root of 2 / pi."""
    inner = np.float32(0.798) * (x + np.float32(0.044715) * x * x * x)
    return np.float32(0.5) * x * (1 + np.tanh(inner))


def quick_gelu(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return x / (1 + np.exp(np.float32(-1.702) * x))


def relu(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return np.maximum(x, 0)


def silu(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return x / (1 + np.exp(-x))


def gelu_with_a_ceiling(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return np.minimum(_GELU(layer, weights, x, run), np.float32(1.5))


def gelu_from_a_table(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """Steps of 1/256, without interpolation."""
    nearest = np.rint(x * np.float32(256)) / np.float32(256)
    step = np.float32(0.5) * (1 + erf(nearest * np.float32(0.5**0.5)))
    if layer.approximation == "tanh":
        cubic = nearest + np.float32(0.044715) * nearest**3
        step = np.float32(0.5) * (1 + np.tanh(np.float32((2 / np.pi) ** 0.5) * cubic))
    return x * step.astype(x.dtype)


# --- norms ---------------------------------------------------------------------------------


def _normed(x: Array, centred: Array, root: Array, weights: Any) -> Array:
    return centred / root * weights["scale"] + weights["bias"]


def unbiased_norm(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).sum(axis=-1, keepdims=True) / (x.shape[-1] - 1)
    return _normed(x, centred, np.sqrt(variance + x.dtype.type(layer.epsilon)), weights)


def norm_without_mean(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    variance = np.square(x).mean(axis=-1, keepdims=True)
    return _normed(x, x, np.sqrt(variance + x.dtype.type(layer.epsilon)), weights)


def _norm_over(axes: tuple[int, ...]) -> Any:
    def norm(layer: Any, weights: Any, x: Array, run: Any) -> Array:
        centred = x - x.mean(axis=axes, keepdims=True)
        variance = np.square(centred).mean(axis=axes, keepdims=True)
        return _normed(x, centred, np.sqrt(variance + x.dtype.type(layer.epsilon)), weights)

    return norm


norm_over_tokens = _norm_over((1,))
norm_over_everything = _norm_over((1, 2))
norm_over_the_batch = _norm_over((0,))


def norm_without_scale(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return _NORM(layer, {**weights, "scale": np.ones_like(weights["scale"])}, x, run)


def norm_without_bias(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return _NORM(layer, {**weights, "bias": np.zeros_like(weights["bias"])}, x, run)


def norm_without_epsilon(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return _normed(x, centred, np.sqrt(np.square(centred).mean(-1, keepdims=True)), weights)


def epsilon_outside_of_the_root(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    root = np.sqrt(np.square(centred).mean(-1, keepdims=True))
    return _normed(x, centred, root + x.dtype.type(layer.epsilon), weights)


def norm_with_epsilon(epsilon: float) -> Any:
    def norm(layer: Any, weights: Any, x: Array, run: Any) -> Array:
        return _NORM(dataclasses.replace(layer, epsilon=epsilon), weights, x, run)

    return norm


def norm_of_bfloat16_statistics(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """The mean and the variance in half precision, the rest in float32."""
    centred = x - to_bfloat16(x.mean(axis=-1, keepdims=True))
    variance = to_bfloat16(np.square(centred).mean(axis=-1, keepdims=True))
    return _normed(x, centred, np.sqrt(variance + x.dtype.type(layer.epsilon)), weights)


def norm_in_one_pass(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    mean = x.mean(axis=-1, keepdims=True)
    variance = np.maximum(np.square(x).mean(axis=-1, keepdims=True) - mean * mean, 0)
    return _normed(x, x - mean, np.sqrt(variance + x.dtype.type(layer.epsilon)), weights)


def norm_in_one_pass_unclipped(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    mean = x.sum(axis=-1, keepdims=True) * x.dtype.type(1 / x.shape[-1])
    squares = np.square(x).sum(axis=-1, keepdims=True) * x.dtype.type(1 / x.shape[-1])
    variance = squares - mean * mean * x.dtype.type(1 + 2**-20)
    return _normed(x, x - mean, np.sqrt(variance + x.dtype.type(layer.epsilon)), weights)


# --- stems ---------------------------------------------------------------------------------


def column_major_tokens(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    y = _STEM(layer, weights, x, run)
    rows, columns = x.shape[1] // layer.patch[0], x.shape[2] // layer.patch[1]
    return y.reshape(len(y), rows, columns, -1).swapaxes(1, 2).reshape(y.shape)


def channels_first_patches(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    kernel = weights["kernel"]
    height, width, rgb, features = kernel.shape
    mixed = kernel.reshape(rgb, height, width, features).transpose(1, 2, 0, 3)
    return _STEM(layer, {**weights, "kernel": mixed}, x, run)


def flipped_kernel(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return _STEM(layer, {**weights, "kernel": weights["kernel"][::-1, ::-1]}, x, run)


def rows_for_columns(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return _STEM(layer, {**weights, "kernel": weights["kernel"].swapaxes(0, 1)}, x, run)


def class_token_last(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """Behind the patches, so that every position is another token's."""
    return np.roll(_CLASS_TOKEN(layer, weights, x, run), -1, axis=1)


def words_from_one(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """The first word has the number 1, and the last falls out of the table."""
    return _WORDS(layer, weights, np.maximum(x - 1, 0), run)


def unknown_word_first(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """Word 0 is taken for padding."""
    return _WORDS(layer, weights, x, run) * (x > 0)[..., None]


# --- mixing --------------------------------------------------------------------------------


def bias_after_transpose(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """The token bias along the channels, which only fits where both are equal."""
    if weights["bias"].shape != x.shape[-1:]:
        return _TOKENS(layer, weights, x, run)
    return weights["kernel"] @ x + weights["bias"]


def reshaped_before(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """The table read as ``[channel, token]`` without a transpose."""
    batch, tokens, channels = x.shape
    return _TOKENS(layer, weights, x.reshape(batch, channels, tokens).swapaxes(1, 2), run)


def reshaped_behind(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    y = _TOKENS(layer, weights, x, run)
    return y.swapaxes(1, 2).reshape(y.shape)


def without_the_last_token(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """A vector loop that leaves out its tail."""
    kernel = weights["kernel"].copy()
    kernel[:, -1] = 0
    return _TOKENS(layer, {**weights, "kernel": kernel}, x, run)


def bias_twice(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return _TOKENS(layer, {**weights, "bias": 2 * weights["bias"]}, x, run)


def one_kernel_for_all(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    kernel = np.repeat(weights["kernel"][:1], len(weights["kernel"]), axis=0)
    return _UNTIED(layer, {**weights, "kernel": kernel}, x, run)


def neighbouring_groups(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """Halves of the channels in a row instead of every second one."""
    batch, tokens, channels = x.shape
    split = x.reshape(batch, tokens, layer.groups, channels // layer.groups)
    return split.transpose(0, 2, 1, 3).reshape(batch, layer.groups * tokens, -1)


def neighbouring_ungroup(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    batch, tokens, channels = x.shape
    split = x.reshape(batch, layer.groups, tokens // layer.groups, channels)
    return split.transpose(0, 2, 1, 3).reshape(batch, tokens // layer.groups, -1)


def groups_backwards(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """The last group's tokens first."""
    parts = [x[..., group :: layer.groups] for group in range(layer.groups)]
    return np.concatenate(parts[::-1], axis=1)


def true_convolution(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return _CONV(layer, {**weights, "kernel": weights["kernel"][::-1, ::-1]}, x, run)


def convolution_transposed(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return _CONV(layer, {**weights, "kernel": weights["kernel"].swapaxes(0, 1)}, x, run)


def convolution_around_the_edge(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """The grid goes on at its other side instead of with zeros."""
    rows, columns = run.grid
    image = x.reshape(len(x), rows, columns, -1)
    height, width = layer.window
    total = np.zeros_like(image) + weights["bias"]
    for i in range(height):
        for j in range(width):
            shifted = np.roll(image, (height // 2 - i, width // 2 - j), axis=(1, 2))
            total = total + shifted * weights["kernel"][i, j]
    return total.reshape(x.shape)


def convolution_from_the_edge(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """The grid's outermost tokens repeated around it instead of zeros."""
    rows, columns = run.grid
    high, wide = (side // 2 for side in layer.window)
    image = x.reshape(len(x), rows, columns, -1)
    image = np.pad(image, ((0, 0), (high, high), (wide, wide), (0, 0)), "edge")
    total = np.zeros((len(x), rows, columns, x.shape[-1]), x.dtype) + weights["bias"]
    for i in range(layer.window[0]):
        for j in range(layer.window[1]):
            total = total + image[:, i : i + rows, j : j + columns] * weights["kernel"][i, j]
    return total.reshape(x.shape)


def convolution_on_the_grid_turned(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """Rows and columns of the grid exchanged, as for tokens in column-major order."""
    rows, columns = run.grid
    turned = x.reshape(len(x), columns, rows, -1).swapaxes(1, 2).reshape(x.shape)
    y = _CONV(layer, weights, turned, run)
    return y.reshape(len(x), rows, columns, -1).swapaxes(1, 2).reshape(x.shape)


def one_convolution(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """The first channel's kernel for all."""
    kernel = weights["kernel"]
    shared = np.broadcast_to(kernel[..., :1], kernel.shape)
    return _CONV(layer, {**weights, "kernel": shared}, x, run)


# --- gates and scales ----------------------------------------------------------------------


def bias_before_scale(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return (x + weights["bias"]) * weights["scale"]


def affine_as_norm(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return _NORM(layers.LayerNorm(epsilon=1e-6), weights, x, run)


def gate_on_the_first_half(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    u, v = np.split(x, 2, axis=-1)
    return run.nested(u) * v


def gate_added(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    u, v = np.split(x, 2, axis=-1)
    return u + run.nested(v)


def gate_interleaved(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return x[..., ::2] * run.nested(x[..., 1::2])


def gate_around_one(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """A one added to the gate, as its bias is at first."""
    u, v = np.split(x, 2, axis=-1)
    return u * (1 + run.nested(v))


def unit_on_the_other_axis(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """The two halves of the tokens taken in turn."""
    axis = 1 if layer.axis == "token" else 2
    half = x.shape[axis] // 2
    order = np.arange(2 * half).reshape(half, 2).T.ravel()
    return _UNIT(layer, weights, np.take(x, order, axis=axis), run)


# --- pools ---------------------------------------------------------------------------------


def pooled_by_maximum(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return x.max(axis=1)


def pooled_by_one_more(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return x.sum(axis=1) / np.float32(x.shape[1] + 1)


def pooled_from_the_first(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return x[:, 0]


def pooled_without_the_last(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return x[:, :-1].mean(axis=1)


def pooled_as_a_sum(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return x.sum(axis=1)


def pooled_without_the_class_token(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return x[:, 1:].mean(axis=1)
