"""Mistakes in attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mixer_conformance.measure import Array
from mixer_spec import layers
from mixer_spec.reference.layers import COMPUTE, heads, joined

from .changes import with_weights
from .mutant import Compute, Mutant, Weights, known

_ATTENTION = COMPUTE[layers.Attention]

# --- scores -------------------------------------------------------------------------------------


def _times(factor: Callable[[int, int], float]) -> Compute:
    """Scores that are larger by ``factor(heads, size)``, through the query."""

    def attention(layer: Any, weights: Any, x: Array, run: Any) -> Array:
        more = x.dtype.type(factor(layer.heads, x.shape[-1] // layer.heads))
        query = {f"query.{part}": weights[f"query.{part}"] * more for part in ("kernel", "bias")}
        return _ATTENTION(layer, {**weights, **query}, x, run)

    return attention


def _shared(shares: Callable[[Array], Array]) -> Compute:
    """Other shares of the values, from the scores ``[batch, head, token, token of the key]``."""

    def attention(layer: Any, weights: Any, x: Array, run: Any) -> Array:
        query, key, value = heads(layer, weights, x, run)
        size = x.dtype.type(query.shape[3] ** 0.5)
        scores = run.arithmetic.matmul(query, key.swapaxes(2, 3)) / size
        mixed = joined(run.arithmetic.matmul(shares(scores), value))
        found: Array = run.arithmetic.matmul(mixed, weights["out.kernel"]) + weights["out.bias"]
        return found

    return attention


def _softmax(scores: Array, axis: int) -> Array:
    powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
    shares: Array = powers / powers.sum(axis=axis, keepdims=True)
    return shares


def _of_earlier_tokens(scores: Array) -> Array:
    """As a language model, whose tokens do not see those behind them."""
    later = np.triu(np.ones(scores.shape[2:], bool), 1)
    return _softmax(np.where(later, scores.dtype.type(-np.inf), scores), 3)


# --- heads and weights --------------------------------------------------------------------------


def _interleaved(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """Head h owns channels h, h + heads, ... on the way in, and the usual ones on the way out."""
    size = x.shape[-1] // layer.heads
    order = np.arange(x.shape[-1]).reshape(size, layer.heads).T.ravel()
    mixed = {
        name: array if name.startswith("out") else array[..., order]
        for name, array in weights.items()
    }
    return _ATTENTION(layer, mixed, x, run)


def _one_head(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return _ATTENTION(replace(layer, heads=1), weights, x, run)


def _query_for_key(weights: Weights) -> Weights:
    turned = dict(weights)
    for part in ("kernel", "bias"):
        turned[f"query.{part}"] = weights[f"key.{part}"]
        turned[f"key.{part}"] = weights[f"query.{part}"]
    return turned


def without_bias(which: str) -> dict[type[Any], Compute]:
    """Attention that forgets one of its biases."""
    name = f"{which}.bias"
    return with_weights(layers.Attention, lambda weights: weights | {name: 0 * weights[name]})


def _with(wrong: Compute) -> dict[type[Any], Compute]:
    return {layers.Attention: wrong}


_COMPUTE: dict[str, dict[type[Any], Compute]] = {
    "attention scores over the root of all channels": _with(_times(lambda h, size: h**-0.5)),
    "attention scores over the size, not its root": _with(_times(lambda h, size: size**-0.5)),
    "attention scores not scaled": _with(_times(lambda h, size: size**0.5)),
    "softmax over the tokens that ask": _with(_shared(lambda scores: _softmax(scores, 2))),
    "attention to earlier tokens alone": _with(_shared(_of_earlier_tokens)),
    "attention heads interleaved": _with(_interleaved),
    "one head": _with(_one_head),
    "query and key swapped": with_weights(layers.Attention, _query_for_key),
    "query's bias dropped": without_bias("query"),
    "value's bias dropped": without_bias("value"),
}

ATTENTION = tuple(
    known(name, Mutant(compute=compute), "blocks.0.token_mixing", "vit")
    for name, compute in _COMPUTE.items()
)
"""Every mistake in attention."""
