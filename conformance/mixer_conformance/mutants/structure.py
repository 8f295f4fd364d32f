"""Mistakes around the layers: depth, residuals, pool, head and batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixer_conformance.measure import Array
from mixer_spec import layers

from . import mistakes as wrong
from .changes import (
    at,
    blocks_from,
    changed,
    swapped,
    transposed,
    zeroed,
)
from .mutant import Mutant, Weights, known

_TOKENS0, _CHANNELS0 = "blocks.0.token_mixing", "blocks.0.channel_mixing"
_TOKENS1, _CHANNELS1 = "blocks.1.token_mixing", "blocks.1.channel_mixing"


# --- depth and residuals -----------------------------------------------------------------------


def _from_the_block(tap: str, tables: Sequence[Array]) -> Array:
    """Channel mixing reads what entered the block."""
    return tables[-2] if tap.endswith("channel_mixing") else tables[-1]


DEPTH = (
    known("residual dropped", Mutant(after=at(_CHANNELS1, lambda x, y: y - x)), _CHANNELS1),
    known("token residual dropped", Mutant(after=at(_TOKENS0, lambda x, y: y - x)), _TOKENS0),
    known(
        "residual halved in power",
        Mutant(after=at(_TOKENS0, lambda x, y: y - x + x * np.float32(0.5**0.5))),
        _TOKENS0,
    ),
    known("residual twice", Mutant(after=at(_CHANNELS0, lambda x, y: y + x)), _CHANNELS0),
    known("token branch dropped", Mutant(entering=_from_the_block), _CHANNELS0),
    known("blocks swapped", Mutant(weights=swapped("blocks.0.", "blocks.1.")), _TOKENS0),
    known("blocks share their weights", Mutant(weights=blocks_from(lambda i, depth: 0)), _TOKENS1),
    known(
        "last block with the weights before",
        Mutant(weights=blocks_from(lambda i, depth: min(i, depth - 2))),
        "blocks.3.token_mixing",
        "tiny",
    ),
    known(
        "blocks in reverse",
        Mutant(weights=blocks_from(lambda i, depth: depth - 1 - i)),
        _TOKENS0,
        "tiny",
    ),
    known(
        "blocks in the order of their names",
        Mutant(weights=blocks_from(lambda i, depth: int(sorted(map(str, range(depth)))[i]))),
        "blocks.2.token_mixing",
        "deep",
    ),
    known(
        "last block skipped",
        Mutant(after=lambda tap, x, y: x if tap.startswith("blocks.1.") else y),
        _TOKENS1,
    ),
)

# --- pool and head -----------------------------------------------------------------------------


def _softmax(x: Array, y: Array) -> Array:
    return np.exp(y) / np.exp(y).sum(-1, keepdims=True)


HEADS = (
    *(
        known(name, Mutant(compute={layers.MeanPool: function}), "pooled")
        for name, function in {
            "pooled by maximum": wrong.pooled_by_maximum,
            "pooled over n + 1": wrong.pooled_by_one_more,
            "pooled from the first token": wrong.pooled_from_the_first,
            "pooled without the last token": wrong.pooled_without_the_last,
            "pooled as a sum": wrong.pooled_as_a_sum,
        }.items()
    ),
    known("last token taken", Mutant(after=at("pooled", lambda x, y: x[:, -1])), "pooled", "vit"),
    known("head's bias dropped", Mutant(weights=zeroed("head.bias")), "logits"),
    known(
        "head's kernel transposed",
        Mutant(weights=transposed("head.kernel")),
        "logits",
        "square",
        "F04",
    ),
    known(
        "classes shifted by one",
        Mutant(after=at("logits", lambda x, y: np.roll(y, 1, axis=-1))),
        "logits",
    ),
    known("softmax returned", Mutant(after=at("logits", _softmax)), "logits"),
    known(
        "logarithm of the softmax returned",
        Mutant(after=at("logits", lambda x, y: np.log(_softmax(x, y)))),
        "logits",
    ),
    known("head's bias twice", Mutant(weights=changed("head.bias", lambda b: b * 2)), "logits"),
)

# --- batch -------------------------------------------------------------------------------------


def _poisoned(x: Array, y: Array) -> Array:
    y = y.copy()
    y[-1, 0, 0] = np.nan
    return y


def _wrong_name(taps: Weights) -> Weights:
    return taps | {_TOKENS0: taps[_CHANNELS0], _CHANNELS0: taps[_TOKENS0]}


BATCH = (
    known(
        "batch leaks a thousandth",
        Mutant(
            after=at(_TOKENS1, lambda x, y: y - np.float32(1e-3) * y.mean(axis=0, keepdims=True))
        ),
        _TOKENS1,
    ),
    known(
        "batch leaks what float32 just holds",
        Mutant(after=at(_TOKENS0, lambda x, y: y + np.float32(1e-8) * y.mean(0, keepdims=True))),
        None,
        killer="F10",
    ),
    known("batch reversed", Mutant(images=lambda x: x[::-1]), "stem"),
    known("first image for all", Mutant(images=lambda x: np.broadcast_to(x[:1], x.shape)), "stem"),
    known(
        "only the last image wrong",
        Mutant(
            after=at(
                _CHANNELS0,
                lambda x, y: np.concatenate([y[:-1], y[-1:] * np.float32(1 + 1e-4)]),
            )
        ),
        _CHANNELS0,
    ),
    known(
        "NaN made zero",
        Mutant(images=lambda x: np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)),
        "stem",
        killer="F10",
    ),
    known("a NaN", Mutant(after=at(_CHANNELS0, _poisoned)), _CHANNELS0),
    known("taps under each other's names", Mutant(taps=_wrong_name), _TOKENS0),
    known(
        "right logits, wrong tap",
        Mutant(taps=lambda taps: taps | {"norm": 0 * taps["norm"]}),
        "norm",
    ),
)
