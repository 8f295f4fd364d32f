"""Mistakes in going back: gradients of a model that is right forwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mixer_conformance.measure import Array
from mixer_spec import layers
from mixer_spec.reference.backward_layers import BACKWARD

from .changes import edited
from .mutant import Known, Weights
from .trainer import Trainer

_TOKENS0, _CHANNELS0 = "blocks.0.token_mixing", "blocks.0.channel_mixing"

_RESIDUAL = BACKWARD[layers.Residual]
_NORM = BACKWARD[layers.LayerNorm]
_POOL = BACKWARD[layers.MeanPool]
_STEM = BACKWARD[layers.PatchEmbed]
_POSITIONS = BACKWARD[layers.PositionEmbedding]
_CHANNELS = BACKWARD[layers.ChannelDense]
_CONV = BACKWARD[layers.DepthwiseConv]
_GATE = BACKWARD[layers.SpatialGate]
_UNIT = BACKWARD[layers.GatedUnit]
_AFFINE = BACKWARD[layers.Affine]
_SCALE = BACKWARD[layers.LayerScale]
_WORDS = BACKWARD[layers.TokenEmbed]

# --- norms, scales and activations --------------------------------------------------------------


def _norm_without_its_mean(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    dx = _NORM(layer, weights, x, dy, run)
    centred = x - x.mean(axis=-1, keepdims=True)
    root = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + x.dtype.type(layer.epsilon))
    return dx + (dy * weights["scale"] / root).mean(axis=-1, keepdims=True)


def _detached_norm(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    """The mean and the deviation taken for constants."""
    _NORM(layer, weights, x, dy, run)
    root = np.sqrt(x.var(axis=-1, keepdims=True) + x.dtype.type(layer.epsilon))
    return dy * weights["scale"] / root


def _norm_without_its_scale(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    return _NORM(layer, {**weights, "scale": np.ones_like(weights["scale"])}, x, dy, run)


def _affine_of_what_leaves(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    """The scale's gradient from the layer's result instead of from what entered it."""
    dx = _AFFINE(layer, weights, x, dy, run)
    run.gradient("scale", "bsc,bsc->c", x * weights["scale"] + weights["bias"], dy)
    return dx


def _scale_forgotten(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    _SCALE(layer, weights, x, dy, run)
    return dy


def _gelu_as_relu(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    return dy * (x > 0)


def _quick_gelu(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    steep = x.dtype.type(1.702)
    gate = 1 / (1 + np.exp(-steep * x))
    return dy * gate * (1 + steep * x * (1 - gate))


# --- branches, gates and sums -------------------------------------------------------------------


def _detached_branch(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    """The branch's weights learn, and nothing in front of it through it."""
    _RESIDUAL(layer, weights, x, dy, run)
    return dy


def _no_way_around(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    """Back through the branch alone."""
    return _RESIDUAL(layer, weights, x, dy, run) - dy


def _detached_gate(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    """The gate's weights learn, and nothing in front of it through them."""
    u, v = np.split(_GATE(layer, weights, x, dy, run), 2, axis=-1)
    return np.concatenate([u, 0 * v], axis=-1)


def _unit_the_other_way(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    """What came through the halves joined in the other order."""
    axis = 1 if layer.axis == "token" else 2
    first, second = np.split(_UNIT(layer, weights, x, dy, run), 2, axis=axis)
    return np.concatenate([second, first], axis=axis)


def _pool_as_a_sum(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    return _POOL(layer, weights, x, dy, run) * x.dtype.type(x.shape[1])


def _bias_as_a_mean(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    """A bias that all tokens share learns their mean."""
    dx = _CHANNELS(layer, weights, x, dy, run)
    run.gradient("bias", "bso->o", dy / dy.dtype.type(dy.shape[1]))
    return dx


def _positions_as_a_mean(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    """Positions that all inputs share learn their mean."""
    dx = _POSITIONS(layer, weights, x, dy, run)
    run.gradient("embedding", "bsc->sc", dy / dy.dtype.type(len(dy)))
    return dx


def _last_word_wins(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    """A word that stands at several places learns from the last one alone: set, not added."""
    dx = _WORDS(layer, weights, x, dy, run)
    later = x[:, :, None] == x[:, None, :]
    last = ~np.triu(later, 1).any(axis=2)
    run.gradient(
        "embedding", "bsw,bsc->wc", _one_hot(x, len(weights["embedding"])), dy * last[..., None]
    )
    return dx


def _one_hot(x: Array, words: int) -> Array:
    return (x[..., None] == np.arange(words)).astype(np.float32)


def _conv_not_turned(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    return _CONV(layer, {**weights, "kernel": weights["kernel"][::-1, ::-1]}, x, dy, run)


def _pixels_detached(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    return 0 * _STEM(layer, weights, x, dy, run)


def _pixels_overwritten(layer: Any, weights: Any, x: Array, dy: Array, run: Any) -> Array:
    """Right, but the pixels' place is used for their gradient."""
    x[...] = _STEM(layer, weights, x, dy, run)
    return x.copy()


# --- whole gradients ----------------------------------------------------------------------------


def _frozen(*ends: str) -> Callable[[Weights], Weights]:
    return lambda found: {n: 0 * g if n.endswith(ends) else g for n, g in found.items()}


def _clipped(found: Weights) -> Weights:
    return {name: np.clip(g, -0.05, 0.05) for name, g in found.items()}


_ROWS: tuple[tuple[str, Trainer, str, str], ...] = (
    ("gelu by erf going back", Trainer(spec=edited('"tanh"', '"none"')), _TOKENS0, "mixer"),
    *(
        (name, Trainer(backward={kind: wrong}), stage, model)
        for name, kind, wrong, stage, model in (
            ("gelu as relu going back", layers.Gelu, _gelu_as_relu, _TOKENS0, "mixer"),
            ("quick gelu going back", layers.Gelu, _quick_gelu, _TOKENS0, "mixer"),
            (
                "a norm without its mean going back",
                layers.LayerNorm,
                _norm_without_its_mean,
                _TOKENS0,
                "mixer",
            ),
            (
                "a norm's statistics as constants",
                layers.LayerNorm,
                _detached_norm,
                _TOKENS0,
                "mixer",
            ),
            (
                "a norm's scale forgotten going back",
                layers.LayerNorm,
                _norm_without_its_scale,
                _TOKENS0,
                "mixer",
            ),
            (
                "affine's scale learns from what leaves",
                layers.Affine,
                _affine_of_what_leaves,
                _TOKENS0,
                "resmlp",
            ),
            (
                "layer scale forgotten going back",
                layers.LayerScale,
                _scale_forgotten,
                _TOKENS0,
                "resmlp",
            ),
            ("a branch detached", layers.Residual, _detached_branch, _TOKENS0, "mixer"),
            (
                "the way around a branch forgotten",
                layers.Residual,
                _no_way_around,
                _TOKENS0,
                "mixer",
            ),
            (
                "the gate detached",
                layers.SpatialGate,
                _detached_gate,
                "blocks.0.gated_mixing",
                "gmlp",
            ),
            (
                "gated halves joined in the other order",
                layers.GatedUnit,
                _unit_the_other_way,
                _TOKENS0,
                "gmixer",
            ),
            ("the pool's mean as a sum", layers.MeanPool, _pool_as_a_sum, "pooled", "mixer"),
            (
                "shared biases learn a mean for a sum",
                layers.ChannelDense,
                _bias_as_a_mean,
                _CHANNELS0,
                "mixer",
            ),
            (
                "shared positions learn a mean for a sum",
                layers.PositionEmbedding,
                _positions_as_a_mean,
                "stem",
                "vit",
            ),
            (
                "a word learns from its last place",
                layers.TokenEmbed,
                _last_word_wins,
                "stem",
                "words",
            ),
            (
                "convolution not turned going back",
                layers.DepthwiseConv,
                _conv_not_turned,
                _TOKENS0,
                "conv",
            ),
            ("pixels without a gradient", layers.PatchEmbed, _pixels_detached, "stem", "mixer"),
            ("pixels overwritten", layers.PatchEmbed, _pixels_overwritten, "inputs", "mixer"),
        )
    ),
    *(
        (name, Trainer(gradients=change), stage, model)
        for name, change, stage, model in (
            ("norms that do not learn", _frozen("norm.scale"), _TOKENS0, "mixer"),
            ("affines that do not learn", _frozen("norm.scale", "norm.bias"), _TOKENS0, "resmlp"),
            ("a class token that does not learn", _frozen("class_token.embedding"), "stem", "vit"),
            (
                "query and key that do not learn",
                _frozen("query.kernel", "query.bias", "key.kernel", "key.bias"),
                _TOKENS0,
                "vit",
            ),
            ("a head's bias that does not learn", _frozen("head.bias"), "logits", "mixer"),
            ("gradients clipped", _clipped, "stem", "mixer"),
            (
                "a gradient missing",
                lambda found: {n: g for n, g in found.items() if n != "norm.bias"},
                "norm.bias",
                "mixer",
            ),
            (
                "gradients over the batch as a mean",
                lambda found: {n: g / g.dtype.type(3) for n, g in found.items()},
                "stem",
                "mixer",
            ),
        )
    ),
)

BACKWARDS: tuple[Known, ...] = tuple(
    Known(name=name, backend=trainer, model=model, stage=stage, killer="F17")
    for name, trainer, stage, model in _ROWS
)
"""Every mistake in going back."""
