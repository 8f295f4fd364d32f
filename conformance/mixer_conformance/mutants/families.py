"""Mistakes in the layers of the other families and of the ablations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mixer_conformance.measure import Array
from mixer_spec import ModelSpec, layers

from . import mistakes as wrong
from .changes import (
    at,
    changed,
    edited,
    ignored,
    only_at,
    swapped,
    transposed,
    with_weights,
    zeroed,
)
from .mutant import Mutant, Weights, known

_TOKENS0, _CHANNELS0 = "blocks.0.token_mixing", "blocks.0.channel_mixing"
_TOKENS1, _CHANNELS1 = "blocks.1.token_mixing", "blocks.1.channel_mixing"

FAMILIES = (
    *(
        known(name, mutant, stage, "resmlp")
        for name, mutant, stage in (
            ("layer scale ignored", Mutant(compute={layers.LayerScale: ignored}), _TOKENS0),
            (
                "affine's bias before its scale",
                Mutant(compute={layers.Affine: wrong.bias_before_scale}),
                _TOKENS0,
            ),
            ("affine as a norm", Mutant(compute={layers.Affine: wrong.affine_as_norm}), _TOKENS0),
            ("affine ignored", Mutant(compute={layers.Affine: ignored}), _TOKENS0),
            (
                "layer scale of the other branch",
                Mutant(weights=swapped(f"{_TOKENS1}.scale.", f"{_CHANNELS1}.scale.")),
                _TOKENS1,
            ),
        )
    ),
    *(
        known(name, mutant, stage, "gmlp")
        for name, mutant, stage in (
            (
                "gate on the first half",
                Mutant(compute={layers.SpatialGate: wrong.gate_on_the_first_half}),
                "blocks.0.gated_mixing",
            ),
            (
                "gate added",
                Mutant(compute={layers.SpatialGate: wrong.gate_added}),
                "blocks.0.gated_mixing",
            ),
            (
                "gate's halves interleaved",
                Mutant(compute={layers.SpatialGate: wrong.gate_interleaved}),
                "blocks.0.gated_mixing",
            ),
            (
                "gate around one",
                Mutant(compute={layers.SpatialGate: wrong.gate_around_one}),
                "blocks.0.gated_mixing",
            ),
            (
                "gate's bias dropped",
                Mutant(weights=zeroed("blocks.1.gated_mixing.gate.dense_0.bias")),
                "blocks.1.gated_mixing",
            ),
            (
                "gate's norm skipped",
                Mutant(
                    compute=only_at("blocks.0.gated_mixing.gate.norm", layers.LayerNorm, ignored)
                ),
                "blocks.0.gated_mixing",
            ),
            (
                "gate's kernel transposed",
                Mutant(weights=transposed("blocks.0.gated_mixing.gate.dense_0.kernel")),
                "blocks.0.gated_mixing",
            ),
        )
    ),
    known(
        "gated unit on the first half",
        Mutant(spec=edited('"gate":"second"', '"gate":"first"')),
        _TOKENS0,
        "gmixer",
    ),
    known(
        "gated unit interleaved",
        Mutant(compute={layers.GatedUnit: wrong.unit_on_the_other_axis}),
        _TOKENS0,
        "gmixer",
    ),
    known(
        "first token left out of the mean",
        Mutant(compute={layers.MeanPool: wrong.pooled_without_the_class_token}),
        "pooled",
        "vit_mean",
    ),
)

# --- ablations and sequences -------------------------------------------------------------------


def _branches_turned(spec: ModelSpec) -> ModelSpec:
    """The second branch of each block first."""
    turned = tuple(replace(stage, block=stage.block[::-1]) for stage in spec.stages)
    return replace(spec, stages=turned)


def _averaging(spec: ModelSpec) -> ModelSpec:
    """Neighbouring tokens averaged instead of mixed; the weights are those of :func:`_averages`."""
    first, second = spec.stages
    pooling = (layers.TokenDense(features=6),)
    return replace(spec, stages=(first, replace(second, transition=pooling)))


def _averages(weights: Weights) -> Weights:
    if "transitions.1.dense_0.kernel" not in weights:
        return weights
    means = np.repeat(np.eye(6, dtype=np.float32) / np.float32(2), 2, axis=1)
    zeros = np.zeros(6, np.float32)
    return weights | {"transitions.1.dense_0.kernel": means, "transitions.1.dense_0.bias": zeros}


def _without_views(weights: Weights) -> Weights:
    name = f"{_TOKENS0}.dense_0"
    return weights | {
        f"{name}.kernel": np.eye(8, dtype=np.float32),
        f"{name}.bias": 0 * weights[f"{name}.bias"],
    }


def _first_view_twice(kernel: Array) -> Array:
    """The second of two views, whose columns take turns, sees what the first one sees."""
    return np.repeat(kernel[:, ::2], 2, axis=1)


def _every_weight(change: Callable[[Array], Array]) -> Callable[[Weights], Weights]:
    return lambda weights: {name: change(array) for name, array in weights.items()}


def _column_by_column(positions: Array) -> Array:
    """Those of the two by three patches, behind the class token's."""
    patches = positions[1:].reshape(2, 3, -1).swapaxes(0, 1)
    return np.concatenate([positions[:1], patches.reshape(positions[1:].shape)])


ABLATIONS = (
    known(
        "positions moved by a class token",
        Mutant(weights=changed("stem.position.embedding", lambda e: np.roll(e, 1, axis=0))),
        "stem",
        "vit_mean",
    ),
    known(
        "positions column by column",
        Mutant(weights=changed("stem.position.embedding", _column_by_column)),
        "stem",
        "vit",
    ),
    known(
        "class token last in the feed-forward model",
        Mutant(after=at("stem", lambda x, y: np.roll(y, -1, axis=1))),
        "stem",
        "feed_forward",
    ),
    known("branches in the other order", Mutant(spec=_branches_turned), _CHANNELS0, "feed_forward"),
    *(
        known(
            name,
            Mutant(compute=with_weights(layers.UntiedTokenDense, _every_weight(change))),
            _TOKENS0,
            "untied",
        )
        for name, change in {
            "untied weights shared": lambda w: np.broadcast_to(w[:1], w.shape),
            "untied weights of the next channel": lambda w: np.roll(w, 1, axis=0),
        }.items()
    ),
    *(
        known(name, Mutant(compute={layers.GroupChannels: function}), _TOKENS0, "grouped_plain")
        for name, function in {
            "groups in the other order": wrong.groups_backwards,
            "groups of distant channels": wrong.neighbouring_groups,
        }.items()
    ),
    known("views not applied", Mutant(weights=_without_views), _TOKENS0, "grouped"),
    known(
        "one view for both",
        Mutant(weights=changed(f"{_TOKENS1}.dense_0.kernel", _first_view_twice)),
        _TOKENS1,
        "grouped",
    ),
    known(
        "transition by averages",
        Mutant(spec=_averaging, weights=_averages),
        "blocks.2.token_mixing",
        "pyramid",
    ),
    *(
        known(name, Mutant(compute={layers.DepthwiseConv: function}), _TOKENS0, "conv")
        for name, function in {
            "one convolution for all channels": wrong.one_convolution,
            "convolution repeats the edge": wrong.convolution_from_the_edge,
            "convolution on the grid turned": wrong.convolution_on_the_grid_turned,
        }.items()
    ),
    known("words moved by one", Mutant(images=lambda x: (x + 1) % 11), "stem", "words"),
    known("words kept in three bits", Mutant(images=lambda x: x % 8), "stem", "words"),
    known("words backwards", Mutant(images=lambda x: x[:, ::-1]), "stem", "words"),
)
