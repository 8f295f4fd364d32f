"""Negative controls: wrong Mixers that `verify` must reject and locate.

Each mutant is the float32 reference with one mistake that people make, run as a backend.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mixer_spec import families, layers
from mixer_spec.reference import Arithmetic
from mixer_spec.reference.layers import COMPUTE
from tests.mutant import (
    Array,
    Mutant,
    Weights,
    at,
    edited,
    ignored,
    run,
    swapped,
    transposed,
    zeroed,
)

SPECS = {
    # every size differs, so that nothing fits by accident
    "mixer": families.mixer(
        image_size=(8, 12),
        patch=4,
        channels=8,
        depth=2,
        token_hidden=5,
        channel_hidden=12,
        classes=7,
    ),
    # every size is equal, so that transposes fit
    "square": families.mixer(
        image_size=16,
        patch=4,
        channels=16,
        depth=2,
        token_hidden=16,
        channel_hidden=16,
        classes=16,
    ),
}


def tied(weights: Weights) -> Weights:
    return {n: weights[n.replace("blocks.1.", "blocks.0.")] for n in weights}


class Rounded(Arithmetic):
    """Matrix products whose operands are rounded first."""

    def __init__(self, round_: Callable[[Array], Array]) -> None:
        super().__init__(np.float32)
        self.round = round_

    def matmul(self, left: Array, right: Array) -> Array:
        return super().matmul(self.round(left), self.round(right))


def to_bfloat16(x: Array) -> Array:
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def to_tf32(x: Array) -> Array:
    """Ten bits of fraction, to nearest."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def rounded_at(*taps: str, by: Callable[[Array], Array]) -> Callable[[str], Arithmetic]:
    return lambda tap: Rounded(by) if not taps or tap in taps else Arithmetic(np.float32)


COMPUTE_NORM = COMPUTE[layers.LayerNorm]
COMPUTE_STEM = COMPUTE[layers.PatchEmbed]


def unbiased_norm(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).sum(axis=-1, keepdims=True) / (x.shape[-1] - 1)
    return centred / np.sqrt(variance + layer.epsilon) * weights["scale"] + weights["bias"]


def norm_without_mean(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    variance = np.square(x).mean(axis=-1, keepdims=True)
    return x / np.sqrt(variance + layer.epsilon) * weights["scale"] + weights["bias"]


def norm_over_tokens(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    centred = x - x.mean(axis=1, keepdims=True)
    variance = np.square(centred).mean(axis=1, keepdims=True)
    return centred / np.sqrt(variance + layer.epsilon) * weights["scale"] + weights["bias"]


def norm_without_scale(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return COMPUTE_NORM(layer, {**weights, "scale": np.ones_like(weights["scale"])}, x, run)


def gelu_with_short_constant(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    inner = np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044) * x * x * x)
    return np.float32(0.5) * x * (1 + np.tanh(inner))


def quick_gelu(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return x / (1 + np.exp(np.float32(-1.702) * x))


def column_major_tokens(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    y = COMPUTE_STEM(layer, weights, x, run)
    rows, columns = x.shape[1] // layer.patch[0], x.shape[2] // layer.patch[1]
    return y.reshape(len(y), rows, columns, -1).swapaxes(1, 2).reshape(y.shape)


def channels_first_patches(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    kernel = weights["kernel"]
    height, width, rgb, features = kernel.shape
    mixed = kernel.reshape(rgb, height, width, features).transpose(1, 2, 0, 3)
    return COMPUTE_STEM(layer, {**weights, "kernel": mixed}, x, run)


def flipped_kernel(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return COMPUTE_STEM(layer, {**weights, "kernel": weights["kernel"][::-1, ::-1]}, x, run)


def bias_after_transpose(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    """The token bias along the channels, which only fits where both are equal."""
    return weights["kernel"] @ x + weights["bias"]


def pooled_by_maximum(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return x.max(axis=1)


def pooled_by_one_more(layer: Any, weights: Any, x: Array, run: Any) -> Array:
    return x.sum(axis=1) / np.float32(x.shape[1] + 1)


def wrong_name(taps: Weights) -> Weights:
    one, other = "blocks.0.token_mixing", "blocks.0.channel_mixing"
    return taps | {one: taps[other], other: taps[one]}


def poisoned(x: Array, y: Array) -> Array:
    y = y.copy()
    y[1, 0, 0] = np.nan
    return y


MUTANTS: dict[str, tuple[str, Mutant, str]] = {
    # name: (spec, mistake, stage at fault)
    "gelu by erf": (
        "mixer",
        Mutant(spec=edited('"approximation":"tanh"', '"approximation":"none"')),
        "blocks.0.token_mixing",
    ),
    "gelu with 0.044": (
        "mixer",
        Mutant(compute={layers.Gelu: gelu_with_short_constant}),
        "blocks.0.token_mixing",
    ),
    "quick gelu": ("mixer", Mutant(compute={layers.Gelu: quick_gelu}), "blocks.0.token_mixing"),
    "gelu ignored": ("mixer", Mutant(compute={layers.Gelu: ignored}), "blocks.0.token_mixing"),
    "epsilon 1e-5": (
        "mixer",
        Mutant(spec=edited('"epsilon":1e-06', '"epsilon":1e-05')),
        "blocks.0.token_mixing",
    ),
    "epsilon 1e-3": (
        "mixer",
        Mutant(spec=edited('"epsilon":1e-06', '"epsilon":1e-03')),
        "blocks.0.token_mixing",
    ),
    "variance over n - 1": (
        "mixer",
        Mutant(compute={layers.LayerNorm: unbiased_norm}),
        "blocks.0.token_mixing",
    ),
    "norm without the mean": (
        "mixer",
        Mutant(compute={layers.LayerNorm: norm_without_mean}),
        "blocks.0.token_mixing",
    ),
    "norm over the tokens": (
        "mixer",
        Mutant(compute={layers.LayerNorm: norm_over_tokens}),
        "blocks.0.token_mixing",
    ),
    "norm's scale ignored": (
        "mixer",
        Mutant(compute={layers.LayerNorm: norm_without_scale}),
        "blocks.0.token_mixing",
    ),
    "norm's bias dropped": ("mixer", Mutant(weights=zeroed("norm.bias")), "norm"),
    "norms of a block swapped": (
        "mixer",
        Mutant(weights=swapped("blocks.1.token_mixing.norm.", "blocks.1.channel_mixing.norm.")),
        "blocks.1.token_mixing",
    ),
    "tokens in column-major order": (
        "mixer",
        Mutant(compute={layers.PatchEmbed: column_major_tokens}),
        "stem",
    ),
    "patches channels first": (
        "mixer",
        Mutant(compute={layers.PatchEmbed: channels_first_patches}),
        "stem",
    ),
    "stem's kernel flipped": (
        "mixer",
        Mutant(compute={layers.PatchEmbed: flipped_kernel}),
        "stem",
    ),
    "blue, green, red": ("mixer", Mutant(inputs=lambda x: x[..., ::-1]), "stem"),
    "image flipped": ("mixer", Mutant(inputs=lambda x: x[:, :, ::-1]), "stem"),
    "image normalised twice": ("mixer", Mutant(inputs=lambda x: (x - 0.5) / 0.5), "stem"),
    "stem's bias dropped": ("mixer", Mutant(weights=zeroed("stem.bias")), "stem"),
    "token kernel transposed": (
        "square",
        Mutant(weights=transposed("blocks.0.token_mixing.dense_1.kernel")),
        "blocks.0.token_mixing",
    ),
    "channel kernel transposed": (
        "square",
        Mutant(weights=transposed("blocks.1.channel_mixing.dense_0.kernel")),
        "blocks.1.channel_mixing",
    ),
    "token bias along the channels": (
        "square",
        Mutant(compute={layers.TokenDense: bias_after_transpose}),
        "blocks.0.token_mixing",
    ),
    "head's kernel transposed": ("square", Mutant(weights=transposed("head.kernel")), "logits"),
    # No later layer sees this one: the norms remove it.
    "token bias dropped": (
        "mixer",
        Mutant(weights=zeroed("blocks.1.token_mixing.dense_1.bias")),
        "blocks.1.token_mixing",
    ),
    "hidden bias dropped": (
        "mixer",
        Mutant(weights=zeroed("blocks.1.channel_mixing.dense_0.bias")),
        "blocks.1.channel_mixing",
    ),
    "residual dropped": (
        "mixer",
        Mutant(after=at("blocks.1.channel_mixing", lambda x, y: y - x)),
        "blocks.1.channel_mixing",
    ),
    "residual halved in power": (
        "mixer",
        Mutant(after=at("blocks.0.token_mixing", lambda x, y: y - x + x * np.float32(0.5**0.5))),
        "blocks.0.token_mixing",
    ),
    "blocks swapped": (
        "mixer",
        Mutant(weights=swapped("blocks.0.", "blocks.1.")),
        "blocks.0.token_mixing",
    ),
    "blocks share their weights": ("mixer", Mutant(weights=tied), "blocks.1.token_mixing"),
    "last block skipped": (
        "mixer",
        Mutant(after=lambda tap, x, y: x if tap.startswith("blocks.1.") else y),
        "blocks.1.token_mixing",
    ),
    "norm skipped": ("mixer", Mutant(after=at("norm", lambda x, y: x)), "norm"),
    "pooled by maximum": ("mixer", Mutant(compute={layers.MeanPool: pooled_by_maximum}), "pooled"),
    "pooled over n + 1": ("mixer", Mutant(compute={layers.MeanPool: pooled_by_one_more}), "pooled"),
    "head's bias dropped": ("mixer", Mutant(weights=zeroed("head.bias")), "logits"),
    "classes shifted by one": (
        "mixer",
        Mutant(after=at("logits", lambda x, y: np.roll(y, 1, axis=-1))),
        "logits",
    ),
    "softmax returned": (
        "mixer",
        Mutant(after=at("logits", lambda x, y: np.exp(y) / np.exp(y).sum(-1, keepdims=True))),
        "logits",
    ),
    "batch leaks a thousandth": (
        "mixer",
        Mutant(
            after=at(
                "blocks.1.token_mixing",
                lambda x, y: y - np.float32(1e-3) * y.mean(axis=0, keepdims=True),
            )
        ),
        "blocks.1.token_mixing",
    ),
    "batch reversed": ("mixer", Mutant(inputs=lambda x: x[::-1]), "stem"),
    "first image for all": (
        "mixer",
        Mutant(inputs=lambda x: np.broadcast_to(x[:1], x.shape)),
        "stem",
    ),
    "only the last image wrong": (
        "mixer",
        Mutant(
            after=at(
                "blocks.0.channel_mixing",
                lambda x, y: np.concatenate([y[:-1], y[-1:] * np.float32(1 + 1e-4)]),
            )
        ),
        "blocks.0.channel_mixing",
    ),
    "bfloat16 products": ("mixer", Mutant(arithmetic=rounded_at(by=to_bfloat16)), "stem"),
    "TF32 products": ("mixer", Mutant(arithmetic=rounded_at(by=to_tf32)), "stem"),
    "TF32 in one branch": (
        "mixer",
        Mutant(arithmetic=rounded_at("blocks.1.channel_mixing", by=to_tf32)),
        "blocks.1.channel_mixing",
    ),
    "stream kept in bfloat16": (
        "mixer",
        Mutant(after=at("blocks.0.token_mixing", lambda x, y: to_bfloat16(y))),
        "blocks.0.token_mixing",
    ),
    "taps under each other's names": ("mixer", Mutant(taps=wrong_name), "blocks.0.token_mixing"),
    "right logits, wrong tap": (
        "mixer",
        Mutant(taps=lambda taps: taps | {"norm": 0 * taps["norm"]}),
        "norm",
    ),
    "a NaN": (
        "mixer",
        Mutant(after=at("blocks.0.channel_mixing", poisoned)),
        "blocks.0.channel_mixing",
    ),
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


def test_the_weakest_mutants_are_far_outside_the_tolerance() -> None:
    for name in ("gelu by erf", "TF32 in one branch", "gelu with 0.044"):
        spec, mutant, stage = MUTANTS[name]
        (tap,) = (tap for tap in run(mutant, SPECS[spec]).taps if tap.tap == stage)
        assert tap.local is not None
        assert tap.local.margin > 30, name


def test_a_mistake_leaves_the_later_stages_clean() -> None:
    report = run(MUTANTS["stem's bias dropped"][1], SPECS["mixer"])
    assert [t.tap for t in report.taps if t.local and not t.local.passed] == ["stem"]
    assert all(not t.end_to_end.passed for t in report.taps if t.end_to_end)


def test_logits_alone_cannot_see_the_token_bias() -> None:
    mutant = MUTANTS["token bias dropped"][1]
    blind = dataclasses.replace(mutant, sees_taps=False)
    assert run(blind, SPECS["mixer"]).conformant
    assert not run(mutant, SPECS["mixer"]).conformant


def test_a_wrong_engine_without_taps_is_rejected_at_its_logits() -> None:
    blind = dataclasses.replace(MUTANTS["gelu by erf"][1], sees_taps=False)
    report = run(blind, SPECS["mixer"])
    assert not report.conformant
    assert report.first_bad_stage == "logits"
