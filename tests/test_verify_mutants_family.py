"""Negative controls beyond the Mixer: each layer kind done wrong as people do, and located."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mixer_spec import ModelSpec, ablations, families, layers
from mixer_spec.blocks import NORM
from mixer_spec.reference.layers import COMPUTE
from mixer_spec.shapes import TokenIds, Vectors
from tests.mutant import Array, Mutant, Weights, at, edited, ignored, run, transposed, zeroed

WIDTHS = {"channels": 12, "token_hidden": 5, "channel_hidden": 20, "classes": 7}
IMAGE = {"image_size": (12, 20), "patch": 4}  # a grid of 3 x 5 tokens
SPECS = {
    "resmlp": families.resmlp(image_size=(8, 12), patch=4, channels=8, depth=2, classes=7),
    "gmlp": families.gmlp(image_size=(8, 12), patch=4, channels=8, depth=2, classes=7),
    "gmixer": families.gmixer(
        image_size=(8, 12),
        patch=4,
        channels=8,
        depth=2,
        token_hidden=10,
        channel_hidden=24,
        classes=7,
    ),
    "vit": families.vit(
        image_size=(8, 12), patch=4, channels=12, depth=2, heads=3, channel_hidden=20, classes=7
    ),
    "vit mean": families.vit(
        **IMAGE, channels=12, depth=2, heads=3, channel_hidden=20, pool="mean", classes=7
    ),
    "feed forward": families.feed_forward(**IMAGE, channels=8, depth=2, classes=7),
    "untied": ablations.mixer_untied(**IMAGE, **WIDTHS, depth=2),
    "untied square": ablations.mixer_untied(**IMAGE, **{**WIDTHS, "token_hidden": 15}, depth=2),
    "grouped": ablations.mixer_grouped(**IMAGE, **WIDTHS, depth=2, groups=3, views=False),
    "views": ablations.mixer_grouped(**IMAGE, **WIDTHS, depth=2, groups=2, views=True),
    "pyramid": ablations.mixer_pyramid(**IMAGE, **WIDTHS, depths=(1, 1), shrink=3),
    "conv": ablations.resmlp_ablation(
        **IMAGE, channels=8, depth=2, mixing="conv", norm=layers.Affine(), classes=7
    ),
    "separable conv": ablations.resmlp_ablation(
        **IMAGE, channels=8, depth=2, mixing="separable_conv", norm=NORM, classes=7
    ),
    "words": families.sequence_mixer(**WIDTHS, depth=2, input=TokenIds(tokens=6, vocabulary=1000)),
    "vectors": families.sequence_mixer(**WIDTHS, depth=2, input=Vectors(tokens=6, channels=12)),
}


COMPUTE_ATTENTION = COMPUTE[layers.Attention]
COMPUTE_CONV = COMPUTE[layers.DepthwiseConv]
COMPUTE_UNTIED = COMPUTE[layers.UntiedTokenDense]


def bias_before_scale(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return (x + weights["bias"]) * weights["scale"]


def gate_on_the_first_half(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    u, v = np.split(x, 2, axis=-1)
    return run.nested(u) * v


def attention_scale(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """Divided by the root of all channels rather than of a head's."""
    less = np.float32(layer.heads**-0.5)
    query = {f"query.{part}": weights[f"query.{part}"] * less for part in ("kernel", "bias")}
    return COMPUTE_ATTENTION(layer, {**weights, **query}, x, run)


def interleaved_heads(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """Head h owns channels h, h + heads, ... on the way in, and the usual ones on the way out."""
    size = x.shape[-1] // layer.heads
    order = np.arange(x.shape[-1]).reshape(size, layer.heads).T.ravel()
    mixed = {
        name: array if name.startswith("out") else array[..., order]
        for name, array in weights.items()
    }
    return COMPUTE_ATTENTION(layer, mixed, x, run)


def conv_by(change: Callable[[Array], Array]) -> Callable[..., Array]:
    """The convolution with its kernel ``[row, column, channel]`` changed."""

    def compute(layer: Any, weights: Any, x: Array, run: Any) -> Array:
        return COMPUTE_CONV(layer, {**weights, "kernel": change(weights["kernel"])}, x, run)

    return compute


def conv_padded(mode: str) -> Callable[..., Array]:
    """A 3 x 3 convolution with something else than zeros around the grid."""

    def compute(layer: Any, weights: Any, x: Array, run: Any) -> Array:
        rows, columns = run.grid
        image = x.reshape(len(x), rows, columns, -1)
        image = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode)  # type: ignore[call-overload]
        found = sum(
            image[:, i : i + rows, j : j + columns] * weights["kernel"][i, j]
            for i in range(3)
            for j in range(3)
        )
        return np.reshape(found, x.shape) + weights["bias"]

    return compute


def conv_on_the_grid_turned(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """Rows and columns of the grid exchanged, as for tokens in column-major order."""
    (rows, columns), turned = run.grid, x.reshape(len(x), *run.grid[::-1], -1).swapaxes(1, 2)
    y = COMPUTE_CONV(layer, weights, turned.reshape(x.shape), run)
    return y.reshape(len(x), rows, columns, -1).swapaxes(1, 2).reshape(x.shape)


def grouped_backwards(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return np.concatenate([x[..., g :: layer.groups] for g in range(layer.groups)][::-1], axis=1)


def grouped_by_blocks(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """Channels that are far apart, rather than neighbours."""
    return np.concatenate(np.split(x, layer.groups, axis=2), axis=1)


def ungrouped_by_blocks(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return np.concatenate(np.split(x, layer.groups, axis=1), axis=2)


def tied_channels(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """The first channel's weights for all."""
    shared = {name: np.broadcast_to(array[:1], array.shape) for name, array in weights.items()}
    return COMPUTE_UNTIED(layer, shared, x, run)


def next_channels(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return COMPUTE_UNTIED(layer, {n: np.roll(a, 1, axis=0) for n, a in weights.items()}, x, run)


def token_norm_over_channels(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    centred = x - x.mean(axis=2, keepdims=True)
    variance = np.square(centred).mean(axis=2, keepdims=True)
    normed = centred / np.sqrt(variance + layer.epsilon)
    return normed * weights["scale"][:, None] + weights["bias"][:, None]


def without_the_first_token(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """As if a class token stood there."""
    return x[:, 1:].mean(axis=1)


def token_branch_first(spec: ModelSpec) -> ModelSpec:
    (stage,) = spec.stages
    turned = dataclasses.replace(stage, block=stage.block[::-1])
    return dataclasses.replace(spec, stages=(turned,))


def transition_without(kind: type[Any]) -> Callable[[ModelSpec], ModelSpec]:
    def edit(spec: ModelSpec) -> ModelSpec:
        first, second = spec.stages
        kept = tuple(layer for layer in second.transition if not isinstance(layer, kind))
        assert len(kept) == len(second.transition) - 1
        return dataclasses.replace(
            spec, stages=(first, dataclasses.replace(second, transition=kept))
        )

    return edit


def averaging(spec: ModelSpec) -> ModelSpec:
    """Neighbouring tokens averaged instead of mixed; the weights are those of `averages`."""
    first, second = spec.stages
    pooling = (layers.TokenDense(features=5),)
    return dataclasses.replace(
        spec, stages=(first, dataclasses.replace(second, transition=pooling))
    )


def averages(weights: Weights) -> Weights:
    means = np.repeat(np.eye(5, dtype=np.float32) / np.float32(3), 3, axis=1)
    zeros = np.zeros(5, np.float32)
    return weights | {"transitions.1.dense_0.kernel": means, "transitions.1.dense_0.bias": zeros}


def without_views(weights: Weights) -> Weights:
    name = "blocks.0.token_mixing.dense_0"
    seen = np.eye(12, dtype=np.float32)
    return weights | {f"{name}.kernel": seen, f"{name}.bias": 0 * weights[f"{name}.bias"]}


def same_view_twice(weights: Weights) -> Weights:
    """The second of two views, whose columns take turns, sees what the first one sees."""
    name = "blocks.1.token_mixing.dense_0.kernel"
    return weights | {name: np.repeat(weights[name][:, ::2], 2, axis=1)}


def transposed_last(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: weights[name].swapaxes(-1, -2)}


def rolled(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: np.roll(weights[name], 1, axis=0)}


MUTANTS: dict[str, tuple[str, Mutant, str]] = {
    # name: (spec, mistake, stage at fault)
    "layer scale ignored": (
        "resmlp",
        Mutant(compute={layers.LayerScale: ignored}),
        "blocks.0.token_mixing",
    ),
    "affine's bias before its scale": (
        "resmlp",
        Mutant(compute={layers.Affine: bias_before_scale}),
        "blocks.0.token_mixing",
    ),
    "gelu by tanh": (
        "gmlp",
        Mutant(spec=edited('"approximation":"none"', '"approximation":"tanh"')),
        "blocks.0.gated_mixing",
    ),
    "gate's epsilon like the others": (
        "gmlp",
        Mutant(spec=edited('"epsilon":1e-05', '"epsilon":1e-06')),
        "blocks.0.gated_mixing",
    ),
    "gate on the first half": (
        "gmlp",
        Mutant(compute={layers.SpatialGate: gate_on_the_first_half}),
        "blocks.0.gated_mixing",
    ),
    "gate's bias dropped": (
        "gmlp",
        Mutant(weights=zeroed("blocks.1.gated_mixing.gate.dense_0.bias")),
        "blocks.1.gated_mixing",
    ),
    "gated unit on the first half": (
        "gmixer",
        Mutant(spec=edited('"gate":"second"', '"gate":"first"')),
        "blocks.0.token_mixing",
    ),
    "attention scaled by all channels": (
        "vit",
        Mutant(compute={layers.Attention: attention_scale}),
        "blocks.0.token_mixing",
    ),
    "attention heads interleaved": (
        "vit",
        Mutant(compute={layers.Attention: interleaved_heads}),
        "blocks.0.token_mixing",
    ),
    "positions ignored": ("vit", Mutant(compute={layers.PositionEmbedding: ignored}), "stem"),
    "class token at the end": (
        "vit",
        Mutant(after=at("stem", lambda x, y: np.roll(y, -1, axis=1))),
        "stem",
    ),
    "last token taken": ("vit", Mutant(after=at("pooled", lambda x, y: x[:, -1])), "pooled"),
    # A mean over the tokens and positions without a class token.
    "first token left out of the mean": (
        "vit mean",
        Mutant(compute={layers.MeanPool: without_the_first_token}),
        "pooled",
    ),
    "positions shifted by a class token": (
        "vit mean",
        Mutant(weights=rolled("stem.position.embedding")),
        "stem",
    ),
    "class token last": (
        "feed forward",
        Mutant(after=at("stem", lambda x, y: np.roll(y, -1, axis=1))),
        "stem",
    ),
    "token norm over the channels": (
        "feed forward",
        Mutant(compute={layers.TokenNorm: token_norm_over_channels}),
        "blocks.0.token_mixing",
    ),
    "tokens mixed first": (
        "feed forward",
        Mutant(spec=token_branch_first),
        "blocks.0.channel_mixing",
    ),
    "untied weights shared": (
        "untied",
        Mutant(compute={layers.UntiedTokenDense: tied_channels}),
        "blocks.0.token_mixing",
    ),
    "untied weights of the next channel": (
        "untied",
        Mutant(compute={layers.UntiedTokenDense: next_channels}),
        "blocks.0.token_mixing",
    ),
    "untied kernels transposed": (
        "untied square",
        Mutant(weights=transposed_last("blocks.1.token_mixing.dense_1.kernel")),
        "blocks.1.token_mixing",
    ),
    "groups in the other order": (
        "grouped",
        Mutant(compute={layers.GroupChannels: grouped_backwards}),
        "blocks.0.token_mixing",
    ),
    "groups of distant channels": (
        "grouped",
        Mutant(compute={layers.GroupChannels: grouped_by_blocks}),
        "blocks.0.token_mixing",
    ),
    "ungrouped by blocks": (
        "views",
        Mutant(compute={layers.UngroupChannels: ungrouped_by_blocks}),
        "blocks.0.token_mixing",
    ),
    "views not applied": ("views", Mutant(weights=without_views), "blocks.0.token_mixing"),
    "one view for both": ("views", Mutant(weights=same_view_twice), "blocks.1.token_mixing"),
    "transition by averages": (
        "pyramid",
        Mutant(spec=averaging, weights=averages),
        "blocks.1.token_mixing",
    ),
    "transition's norm skipped": (
        "pyramid",
        Mutant(spec=transition_without(layers.LayerNorm)),
        "blocks.1.token_mixing",
    ),
    "transition's gelu skipped": (
        "pyramid",
        Mutant(spec=transition_without(layers.Gelu)),
        "blocks.1.token_mixing",
    ),
    "convolution's kernel flipped": (
        "conv",
        Mutant(compute={layers.DepthwiseConv: conv_by(lambda kernel: kernel[::-1, ::-1])}),
        "blocks.0.token_mixing",
    ),
    "convolution's kernel transposed": (
        "conv",
        Mutant(compute={layers.DepthwiseConv: conv_by(lambda kernel: kernel.swapaxes(0, 1))}),
        "blocks.0.token_mixing",
    ),
    "one convolution for all channels": (
        "conv",
        Mutant(
            compute={layers.DepthwiseConv: conv_by(lambda kernel: 0 * kernel + kernel[..., :1])}
        ),
        "blocks.0.token_mixing",
    ),
    "convolution wraps around": (
        "conv",
        Mutant(compute={layers.DepthwiseConv: conv_padded("wrap")}),
        "blocks.0.token_mixing",
    ),
    "convolution repeats the edge": (
        "separable conv",
        Mutant(compute={layers.DepthwiseConv: conv_padded("edge")}),
        "blocks.0.token_mixing",
    ),
    "convolution on the grid turned": (
        "separable conv",
        Mutant(compute={layers.DepthwiseConv: conv_on_the_grid_turned}),
        "blocks.0.token_mixing",
    ),
    "convolution's bias dropped": (
        "separable conv",
        Mutant(weights=zeroed("blocks.1.token_mixing.conv.bias")),
        "blocks.1.token_mixing",
    ),
    "word ids off by one": ("words", Mutant(inputs=lambda x: (x + 1) % 1000), "stem"),
    "word ids kept in bytes": ("words", Mutant(inputs=lambda x: x % 256), "stem"),
    "sequence reversed": ("vectors", Mutant(inputs=lambda x: x[:, ::-1]), "stem"),
    "vectors' kernel transposed": ("vectors", Mutant(weights=transposed("stem.kernel")), "stem"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_rejected_and_located(name: str) -> None:
    spec, mutant, stage = MUTANTS[name]
    report = run(mutant, SPECS[spec])
    assert report.crash is None
    assert not report.conformant
    assert report.first_bad_stage == stage


@pytest.mark.parametrize("name", SPECS)
def test_the_mutant_without_a_mistake_is_conformant(name: str) -> None:
    assert run(Mutant(), SPECS[name]).conformant


def test_the_mutants_specs_hold_every_layer_kind() -> None:
    used = {spec for spec, _, _ in MUTANTS.values()}
    covered = {type(node.layer) for name in used for node in SPECS[name].nodes()}
    assert covered == set(COMPUTE)
