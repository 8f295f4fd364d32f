"""The builders: parameter counts by formulas written out here, layers, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from mixer_spec import ModelSpec, SpecError, variant
from mixer_spec.ablations import mixer_grouped, mixer_pyramid, mixer_untied, resmlp_ablation
from mixer_spec.families import feed_forward, gmixer, gmlp, mixer, resmlp, sequence_mixer, vit
from mixer_spec.layers import Affine, LayerNorm
from mixer_spec.shapes import Image, TokenIds, Vectors

# A grid of 2 x 3 patches of 2 x 2 pixels.
S, P, K = 6, 2, 3
SIZE: dict[str, Any] = {"image_size": (4, 6), "patch": P, "classes": K}
NORM = LayerNorm(epsilon=1e-6)

AFFINE_OR_NORM = 2  # numbers for each channel: a scale and a bias


def mlp(width: int, hidden: int) -> int:
    """Weights of two linear maps, ``width`` to ``hidden`` and back, with their biases."""
    return width * hidden + hidden + hidden * width + width


def ends(channels: int) -> int:
    """Weights of the stem, the norm behind the blocks and the head."""
    return 3 * P * P * channels + channels + 2 * channels + channels * K + K


# --- families -------------------------------------------------------------------------------


def test_mixer_counts() -> None:
    spec = mixer(**SIZE, channels=4, depth=3, token_hidden=5, channel_hidden=7)
    block = 2 * 4 + mlp(S, 5) + 2 * 4 + mlp(4, 7)
    assert spec.parameter_count == ends(4) + 3 * block


def test_resmlp_counts() -> None:
    spec = resmlp(**SIZE, channels=4, depth=3)
    tokens = 2 * 4 + S * S + S + 4
    channels = 2 * 4 + mlp(4, 16) + 4
    assert spec.parameter_count == ends(4) + 3 * (tokens + channels)


def test_gmlp_counts() -> None:
    spec = gmlp(**SIZE, channels=4, depth=3)
    gate = 2 * 12 + S * S + S
    block = 2 * 4 + (4 * 24 + 24) + gate + (12 * 4 + 4)
    assert spec.parameter_count == ends(4) + 3 * block


def test_gmixer_counts() -> None:
    spec = gmixer(**SIZE, channels=4, depth=3, token_hidden=10, channel_hidden=14)
    tokens = S * 10 + 10 + 5 * S + S
    channels = 4 * 14 + 14 + 7 * 4 + 4
    assert spec.parameter_count == ends(4) + 3 * (2 * 4 + tokens + 2 * 4 + channels)


def _vit(**fields: Any) -> ModelSpec:
    return vit(**SIZE, channels=6, depth=3, heads=2, channel_hidden=7, **fields)


def test_vit_counts_with_a_class_token_and_with_the_mean() -> None:
    block = 2 * 6 + 4 * (6 * 6 + 6) + 2 * 6 + mlp(6, 7)
    assert _vit().parameter_count == ends(6) + 6 + (S + 1) * 6 + 3 * block
    assert _vit(pool="mean").parameter_count == ends(6) + S * 6 + 3 * block


def test_vit_by_the_mean_has_no_class_token() -> None:
    spec = _vit(pool="mean")
    assert [layer.kind for layer in spec.embeddings] == ["position_embedding"]
    assert spec.pool.kind == "mean_pool"
    assert spec.steps[0].outgoing.shape == (S, 6)
    assert _vit().steps[0].outgoing.shape == (S + 1, 6)


@pytest.mark.parametrize(
    ("name", "patch", "channels", "depth", "heads", "by_mean"),
    # The published counts less the class token and its position.
    [
        ("vit_s16", 16, 384, 12, 6, 22_050_664 - 2 * 384),
        ("vit_b32", 32, 768, 12, 12, 88_224_232 - 2 * 768),
        ("vit_b16", 16, 768, 12, 12, 86_567_656 - 2 * 768),
        ("vit_l16", 16, 1024, 24, 16, 304_326_632 - 2 * 1024),
        ("vit_h14", 14, 1280, 32, 16, 632_045_800 - 2 * 1280),
    ],
)
def test_published_vits_by_the_mean_lack_a_token_and_a_position(
    name: str, patch: int, channels: int, depth: int, heads: int, by_mean: int
) -> None:
    sizes = {"patch": patch, "channels": channels, "depth": depth, "heads": heads}
    hidden = 4 * channels
    assert vit(image_size=224, channel_hidden=hidden, **sizes) == variant(name).spec()
    spec = vit(image_size=224, channel_hidden=hidden, pool="mean", **sizes)
    assert spec.parameter_count == by_mean


def test_feed_forward_counts() -> None:
    spec = feed_forward(**SIZE, channels=4, depth=3)
    tokens = S + 1
    block = 2 * 4 + mlp(4, 16) + 2 * tokens + mlp(tokens, 4 * tokens)
    assert spec.parameter_count == ends(4) + 4 + tokens * 4 + 3 * block


@pytest.mark.parametrize(
    ("entering", "stem"),
    [
        (TokenIds(tokens=5, vocabulary=11), 11 * 4),
        (Vectors(tokens=5, channels=9), 9 * 4 + 4),
    ],
)
def test_sequence_mixer_counts(entering: TokenIds | Vectors, stem: int) -> None:
    spec = sequence_mixer(
        input=entering, channels=4, depth=3, token_hidden=6, channel_hidden=7, classes=K
    )
    block = 2 * 4 + mlp(5, 6) + 2 * 4 + mlp(4, 7)
    assert spec.parameter_count == stem + 3 * block + 2 * 4 + 4 * K + K
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_cost_of_a_sequence_mixer_is_the_sum_of_its_products() -> None:
    sizes = {"channels": 4, "depth": 3, "token_hidden": 6, "channel_hidden": 7, "classes": K}
    blocks = 3 * (4 * 2 * 5 * 6 + 5 * 2 * 4 * 7)
    words = sequence_mixer(input=TokenIds(tokens=5, vocabulary=11), **sizes)
    signal = sequence_mixer(input=Vectors(tokens=5, channels=9), **sizes)
    assert words.multiply_adds == blocks + 4 * K
    assert signal.multiply_adds == 5 * 9 * 4 + blocks + 4 * K


# --- ablations ------------------------------------------------------------------------------

MIXER_SIZES: dict[str, Any] = {"channels": 4, "token_hidden": 5, "channel_hidden": 7}
CHANNEL_MIXING = 2 * 4 + mlp(4, 7)


def test_untied_mixing_has_an_mlp_for_each_channel() -> None:
    tied = mixer(**SIZE, **MIXER_SIZES, depth=3)
    untied = mixer_untied(**SIZE, **MIXER_SIZES, depth=3)
    # Appendix A.1: "effectively multiplying the number of parameters by C".
    assert untied.parameter_count - tied.parameter_count == 3 * (4 - 1) * mlp(S, 5)
    assert untied.parameter_count == ends(4) + 3 * (2 * 4 + 4 * mlp(S, 5) + CHANNEL_MIXING)
    assert untied.multiply_adds == tied.multiply_adds


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_mixing_sees_several_channels_at_once(groups: int) -> None:
    grouped = mixer_grouped(**SIZE, **MIXER_SIZES, depth=3, groups=groups, views=False)
    views = mixer_grouped(**SIZE, **MIXER_SIZES, depth=3, groups=groups, views=True)
    # Appendix A.1: the input grows from S to G S, the vectors become C / G.
    block = 2 * 4 + mlp(groups * S, 5) + CHANNEL_MIXING
    assert grouped.parameter_count == ends(4) + 3 * block
    # G linear functions from C to C / G channels.
    maps = groups * (4 * (4 // groups) + 4 // groups)
    assert views.parameter_count == grouped.parameter_count + 3 * maps
    kernel = grouped.parameters()["blocks.0.token_mixing.dense_0.kernel"]
    assert kernel.shape == (5, groups * S)
    assert grouped.multiply_adds == mixer(**SIZE, **MIXER_SIZES, depth=3).multiply_adds


def test_pyramid_steps_down_between_its_stages() -> None:
    spec = mixer_pyramid(**SIZE, **MIXER_SIZES, depths=(1, 2, 3), shrink=2)
    assert [step.outgoing.shape[0] for step in spec.steps[1:-3:2]] == [6, 3, 3, 1, 1, 1]
    blocks = sum(
        depth * (2 * 4 + mlp(tokens, 5) + CHANNEL_MIXING)
        for depth, tokens in ((1, 6), (2, 3), (3, 1))
    )
    steps = sum(2 * 4 + (5 * a + 5) + (b * 5 + b) for a, b in ((6, 3), (3, 1)))
    assert spec.parameter_count == ends(4) + blocks + steps


@pytest.mark.parametrize(
    ("mixing", "weights"),
    [
        ("linear", S * S + S),
        ("mlp", mlp(S, 4 * S)),
        ("conv", 3 * 3 * 4 + 4),
        ("separable_conv", 3 * 3 * 4 + 4 + 4 * 4 + 4),
    ],
)
@pytest.mark.parametrize("norm", [Affine(), NORM], ids=lambda norm: norm.kind)
def test_resmlp_ablation_counts(mixing: Any, weights: int, norm: Affine | LayerNorm) -> None:
    spec = resmlp_ablation(**SIZE, channels=4, depth=3, mixing=mixing, norm=norm)
    block = (AFFINE_OR_NORM * 4 + weights + 4) + (AFFINE_OR_NORM * 4 + mlp(4, 16) + 4)
    assert spec.parameter_count == ends(4) + 3 * block
    kinds = [node.layer.kind for node in spec.nodes()]
    assert kinds.count(norm.kind) == 2 * 3 + 1


def test_resmlp_ablation_without_a_change_is_resmlp() -> None:
    sizes = {"channels": 4, "depth": 3}
    assert resmlp_ablation(**SIZE, **sizes, mixing="linear", norm=Affine()) == resmlp(
        **SIZE, **sizes
    )


@pytest.mark.parametrize(
    ("name", "plain", "difference"),
    # The weights that each change of S/32, S/16 and ResMLP-12 adds in one block of each.
    [
        ("mixer_s32_untied", "mixer_s32", 8 * 511 * mlp(49, 256)),
        ("mixer_s16_grouped", "mixer_s16", 8 * (mlp(392, 256) - mlp(196, 256))),
        ("mixer_s16_views", "mixer_s16_grouped", 8 * (512 * 512 + 512)),
        (
            "mixer_s16_pyramid",
            "mixer_s16",
            4 * (mlp(49, 256) - mlp(196, 256)) + 2 * 512 + 257 * 49 + 197 * 256,
        ),
        ("resmlp_12_mlp", "resmlp_12", 12 * (mlp(196, 784) - 196 * 197)),
        ("resmlp_12_conv", "resmlp_12", 12 * (10 * 384 - 196 * 197)),
        ("resmlp_12_sepconv", "resmlp_12_conv", 12 * 385 * 384),
        ("resmlp_12_layernorm", "resmlp_12", 0),
    ],
)
def test_published_ablation_differs_from_its_model_by_the_change(
    name: str, plain: str, difference: int
) -> None:
    assert variant(name).parameters - variant(plain).parameters == difference


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: vit(**SIZE, channels=6, depth=1, heads=4, channel_hidden=7),
            "heads must divide the channels; expected 6 % 4 == 0, got 2",
        ),
        (lambda: _vit(pool="max"), "pool: must be 'class_token' or 'mean', got 'max'"),
        (
            lambda: gmixer(**SIZE, channels=4, depth=1, token_hidden=5, channel_hidden=8),
            "even number of tokens, got 5",
        ),
        (
            lambda: gmixer(**SIZE, channels=4, depth=1, token_hidden=6, channel_hidden=7),
            "even number of channels, got 7",
        ),
        (
            lambda: mixer_grouped(**SIZE, **MIXER_SIZES, depth=1, groups=3, views=False),
            "groups must divide the channels; expected 4 % 3 == 0, got 1",
        ),
        (
            lambda: mixer_pyramid(**SIZE, **MIXER_SIZES, depths=(1, 1), shrink=0),
            "shrink: a pyramid does not grow; expected at least 1, got 0",
        ),
        (
            lambda: mixer_pyramid(**SIZE, **MIXER_SIZES, depths=(1, 0), shrink=2),
            "a transition needs a block behind it; expected a depth of at least 1, got 0",
        ),
        (
            lambda: resmlp_ablation(**SIZE, channels=4, depth=1, mixing="fft", norm=NORM),
            r"mixing: must be one of \['linear', 'mlp', 'conv', 'separable_conv'\], got 'fft'",
        ),
        (
            lambda: sequence_mixer(
                input=Image(height=4, width=4, channels=3),
                channels=4,
                depth=1,
                token_hidden=5,
                channel_hidden=7,
                classes=K,
            ),
            r"input: must be TokenIds or Vectors, got Image\(.*; mixer\(\) takes images",
        ),
        (
            lambda: mixer(**SIZE, **MIXER_SIZES, depth=1, gelu="erf"),
            r"must be one of \['none', 'tanh'\], got 'erf'",
        ),
    ],
)
def test_sizes_that_cannot_work_are_refused_with_both_values(build: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build()
