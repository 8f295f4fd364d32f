"""The catalogue of mistakes in what is computed, by the part of the model that they are in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixer_conformance.measure import Array
from mixer_spec import layers
from mixer_spec.reference import Arithmetic

from . import mistakes as wrong
from .changes import (
    Float16Sums,
    Truncated,
    at,
    blocks_from,
    changed,
    edited,
    ignored,
    norm_behind,
    only_at,
    rounded_at,
    swapped,
    to_bfloat16,
    to_float16,
    to_int8,
    to_tf32,
    transposed,
    truncated,
    with_weights,
    zeroed,
    zeroed_everywhere,
)
from .mutant import Known, Mutant, Weights

_TOKENS0, _CHANNELS0 = "blocks.0.token_mixing", "blocks.0.channel_mixing"
_TOKENS1, _CHANNELS1 = "blocks.1.token_mixing", "blocks.1.channel_mixing"


def _known(
    name: str, mutant: Mutant, stage: str | None, model: str = "mixer", killer: str = "F01"
) -> Known:
    return Known(name=name, backend=mutant, model=model, stage=stage, killer=killer)


# --- activations -------------------------------------------------------------------------------

ACTIVATIONS = (
    _known("gelu by erf", Mutant(spec=edited('"tanh"', '"none"')), _TOKENS0),
    _known(
        "gelu by tanh",
        Mutant(spec=edited('"approximation":"none"', '"approximation":"tanh"')),
        "blocks.0.gated_mixing",
        "gmlp",
    ),
    *(
        _known(name, Mutant(compute={layers.Gelu: function}), _TOKENS0)
        for name, function in {
            "gelu with 0.044": wrong.gelu_with_short_constant,
            "quick gelu": wrong.quick_gelu,
            "relu": wrong.relu,
            "silu for gelu": wrong.silu,
            "gelu from a table": wrong.gelu_from_a_table,
            "gelu ignored": ignored,
        }.items()
    ),
    _known(
        "gelu with a ceiling",
        Mutant(compute={layers.Gelu: wrong.gelu_with_a_ceiling}),
        None,
        killer="F08",
    ),
    _known(
        "gelu missing in the last channel mixing",
        Mutant(compute=only_at(f"{_CHANNELS1}.gelu_0", layers.Gelu, ignored)),
        _CHANNELS1,
    ),
    _known(
        "gelu for silu",
        Mutant(
            compute={
                layers.Silu: lambda layer, weights, x, run: wrong.quick_gelu(layer, weights, x, run)
            }
        ),
        _TOKENS0,
        "gmixer",
    ),
)

# --- norms -------------------------------------------------------------------------------------

NORMS = (
    _known("epsilon 1e-5", Mutant(spec=edited("1e-06", "1e-05")), _TOKENS0, killer="F05"),
    _known("epsilon 1e-3", Mutant(spec=edited("1e-06", "1e-03")), _TOKENS0, killer="F05"),
    _known(
        "gate's epsilon like the others",
        Mutant(spec=edited("1e-05", "1e-06")),
        "blocks.0.gated_mixing",
        "gmlp",
        "F05",
    ),
    _known(
        "epsilon of the last norm alone",
        Mutant(compute=only_at("norm", layers.LayerNorm, wrong.norm_with_epsilon(1e-5))),
        "norm",
        killer="F05",
    ),
    *(
        _known(name, Mutant(compute={layers.LayerNorm: function}), _TOKENS0, killer=killer)
        for name, function, killer in (
            ("epsilon forgotten", wrong.norm_without_epsilon, "F05"),
            ("epsilon outside of the root", wrong.epsilon_outside_of_the_root, "F05"),
            ("variance over n - 1", wrong.unbiased_norm, "F01"),
            ("norm without the mean", wrong.norm_without_mean, "F01"),
            ("norm over the tokens", wrong.norm_over_tokens, "F01"),
            ("norm over tokens and channels", wrong.norm_over_everything, "F01"),
            ("norm over the batch", wrong.norm_over_the_batch, "F01"),
            ("norm's scale ignored", wrong.norm_without_scale, "F01"),
            ("norm's bias ignored", wrong.norm_without_bias, "F01"),
            ("variance in one pass", wrong.norm_in_one_pass, "F06"),
        )
    ),
    _known(
        "variance in one pass, not clipped",
        Mutant(compute={layers.LayerNorm: wrong.norm_in_one_pass_unclipped}),
        None,
        killer="F07",
    ),
    _known("norm's bias dropped", Mutant(weights=zeroed("norm.bias")), "norm"),
    _known(
        "norms of a block swapped",
        Mutant(weights=swapped(f"{_TOKENS1}.norm.", f"{_CHANNELS1}.norm.")),
        _TOKENS1,
    ),
    _known("norms behind the branches", Mutant(spec=norm_behind), _TOKENS0),
    _known("norm skipped", Mutant(after=at("norm", lambda x, y: x)), "norm"),
    _known(
        "norm kept in bfloat16",
        Mutant(after=at("norm", lambda x, y: to_bfloat16(y))),
        "norm",
    ),
    _known(
        "token norm over the channels",
        Mutant(
            compute={
                layers.TokenNorm: lambda layer, weights, x, run: (
                    (x - x.mean(-1, keepdims=True))
                    / np.sqrt(x.var(-1, keepdims=True) + x.dtype.type(1e-6))
                    * weights["scale"][:, None]
                    + weights["bias"][:, None]
                )
            }
        ),
        _TOKENS0,
        "feed_forward",
    ),
)

# --- stem --------------------------------------------------------------------------------------

STEMS = (
    *(
        _known(name, Mutant(compute={layers.PatchEmbed: function}), "stem")
        for name, function in {
            "tokens in column-major order": wrong.column_major_tokens,
            "patches channels first": wrong.channels_first_patches,
            "stem's kernel flipped": wrong.flipped_kernel,
            "rows for columns in a patch": wrong.rows_for_columns,
        }.items()
    ),
    *(
        _known(name, Mutant(images=change), "stem")
        for name, change in {
            "blue, green, red": lambda x: x[..., ::-1],
            "image flipped": lambda x: x[:, :, ::-1],
            "image upside down": lambda x: x[:, ::-1],
            "image normalised twice": lambda x: (x - np.float32(0.5)) / np.float32(0.5),
            "image as 0 to 255": lambda x: x * np.float32(127.5) + np.float32(127.5),
        }.items()
    ),
    _known(
        "image clipped to -1 and 1",
        Mutant(images=lambda x: np.clip(x, -1, 1)),
        "stem",
        killer="F08",
    ),
    _known("image through float16", Mutant(images=lambda x: to_float16(x)), "stem"),
    _known("stem's bias dropped", Mutant(weights=zeroed("stem.bias")), "stem"),
    _known(
        "words counted from one",
        Mutant(compute={layers.TokenEmbed: wrong.words_from_one}),
        "stem",
        "words",
    ),
    _known(
        "word 0 is padding",
        Mutant(compute={layers.TokenEmbed: wrong.unknown_word_first}),
        "stem",
        "words",
    ),
    _known("signal backwards", Mutant(images=lambda x: x[:, ::-1]), "stem", "signal"),
    _known(
        "positions ignored",
        Mutant(compute={layers.PositionEmbedding: ignored}),
        "stem",
        "vit",
    ),
    _known(
        "class token at the end",
        Mutant(after=at("stem", lambda x, y: np.roll(y, -1, axis=1))),
        "stem",
        "vit",
    ),
)

# --- mixing ------------------------------------------------------------------------------------

MIXING = (
    _known(
        "token kernel transposed",
        Mutant(weights=transposed(f"{_TOKENS0}.dense_1.kernel")),
        _TOKENS0,
        "square",
        "F04",
    ),
    _known(
        "channel kernel transposed",
        Mutant(weights=transposed(f"{_CHANNELS1}.dense_0.kernel")),
        _CHANNELS1,
        "square",
        "F04",
    ),
    *(
        _known(name, Mutant(compute={layers.TokenDense: function}), _TOKENS0, model, killer)
        for name, function, model, killer in (
            ("token bias along the channels", wrong.bias_after_transpose, "square", "F04"),
            ("reshape before the token mixing", wrong.reshaped_before, "mixer", "F01"),
            ("reshape behind the token mixing", wrong.reshaped_behind, "mixer", "F01"),
            ("last token left out", wrong.without_the_last_token, "mixer", "F01"),
            ("token bias twice", wrong.bias_twice, "mixer", "F01"),
        )
    ),
    # No later layer sees this one: the norms remove it.
    _known("token bias dropped", Mutant(weights=zeroed(f"{_TOKENS1}.dense_1.bias")), _TOKENS1),
    _known("hidden bias dropped", Mutant(weights=zeroed(f"{_CHANNELS1}.dense_0.bias")), _CHANNELS1),
    _known(
        "channel bias of the last block dropped",
        Mutant(weights=zeroed(f"{_CHANNELS1}.dense_1.bias")),
        _CHANNELS1,
    ),
    _known(
        "every hidden bias dropped",
        Mutant(weights=zeroed_everywhere("dense_0.bias")),
        _TOKENS0,
    ),
    _known(
        "last hidden unit left out",
        Mutant(
            weights=changed(
                f"{_TOKENS0}.dense_0.kernel",
                lambda w: np.concatenate([w[:-1], np.zeros_like(w[:1])]),
            )
        ),
        _TOKENS0,
    ),
    _known(
        "one kernel for all channels",
        Mutant(compute={layers.UntiedTokenDense: wrong.one_kernel_for_all}),
        _TOKENS0,
        "untied",
    ),
    _known(
        "groups of neighbouring channels",
        Mutant(
            compute={
                layers.GroupChannels: wrong.neighbouring_groups,
                layers.UngroupChannels: wrong.neighbouring_ungroup,
            }
        ),
        _TOKENS0,
        "grouped",
    ),
    _known(
        "groups put back in another order",
        Mutant(compute={layers.UngroupChannels: wrong.neighbouring_ungroup}),
        _TOKENS0,
        "grouped",
    ),
    *(
        _known(name, Mutant(compute={layers.DepthwiseConv: function}), _TOKENS0, "conv")
        for name, function in {
            "convolution with a flipped kernel": wrong.true_convolution,
            "convolution's kernel transposed": wrong.convolution_transposed,
            "convolution around the edge": wrong.convolution_around_the_edge,
        }.items()
    ),
    _known(
        "convolution's bias dropped",
        Mutant(compute=with_weights(layers.DepthwiseConv, lambda w: w | {"bias": 0 * w["bias"]})),
        _TOKENS0,
        "conv",
    ),
    _known(
        "transition's norm skipped",
        Mutant(compute=only_at("transitions.1.norm", layers.LayerNorm, ignored)),
        "blocks.2.token_mixing",
        "pyramid",
    ),
    _known(
        "transition's gelu skipped",
        Mutant(compute=only_at("transitions.1.gelu_0", layers.Gelu, ignored)),
        "blocks.2.token_mixing",
        "pyramid",
    ),
)

# --- depth and residuals -----------------------------------------------------------------------


def _from_the_block(tap: str, tables: Sequence[Array]) -> Array:
    """Channel mixing reads what entered the block."""
    return tables[-2] if tap.endswith("channel_mixing") else tables[-1]


DEPTH = (
    _known("residual dropped", Mutant(after=at(_CHANNELS1, lambda x, y: y - x)), _CHANNELS1),
    _known("token residual dropped", Mutant(after=at(_TOKENS0, lambda x, y: y - x)), _TOKENS0),
    _known(
        "residual halved in power",
        Mutant(after=at(_TOKENS0, lambda x, y: y - x + x * np.float32(0.5**0.5))),
        _TOKENS0,
    ),
    _known("residual twice", Mutant(after=at(_CHANNELS0, lambda x, y: y + x)), _CHANNELS0),
    _known("token branch dropped", Mutant(entering=_from_the_block), _CHANNELS0),
    _known("blocks swapped", Mutant(weights=swapped("blocks.0.", "blocks.1.")), _TOKENS0),
    _known("blocks share their weights", Mutant(weights=blocks_from(lambda i, depth: 0)), _TOKENS1),
    _known(
        "last block with the weights before",
        Mutant(weights=blocks_from(lambda i, depth: min(i, depth - 2))),
        "blocks.3.token_mixing",
        "tiny",
    ),
    _known(
        "blocks in the order of their names",
        Mutant(weights=blocks_from(lambda i, depth: int(sorted(map(str, range(depth)))[i]))),
        "blocks.2.token_mixing",
        "deep",
    ),
    _known(
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
        _known(name, Mutant(compute={layers.MeanPool: function}), "pooled")
        for name, function in {
            "pooled by maximum": wrong.pooled_by_maximum,
            "pooled over n + 1": wrong.pooled_by_one_more,
            "pooled from the first token": wrong.pooled_from_the_first,
            "pooled without the last token": wrong.pooled_without_the_last,
            "pooled as a sum": wrong.pooled_as_a_sum,
        }.items()
    ),
    _known("last token taken", Mutant(after=at("pooled", lambda x, y: x[:, -1])), "pooled", "vit"),
    _known("head's bias dropped", Mutant(weights=zeroed("head.bias")), "logits"),
    _known(
        "head's kernel transposed",
        Mutant(weights=transposed("head.kernel")),
        "logits",
        "square",
        "F04",
    ),
    _known(
        "classes shifted by one",
        Mutant(after=at("logits", lambda x, y: np.roll(y, 1, axis=-1))),
        "logits",
    ),
    _known("softmax returned", Mutant(after=at("logits", _softmax)), "logits"),
    _known(
        "logarithm of the softmax returned",
        Mutant(after=at("logits", lambda x, y: np.log(_softmax(x, y)))),
        "logits",
    ),
    _known("head's bias twice", Mutant(weights=changed("head.bias", lambda b: b * 2)), "logits"),
)

# --- batch -------------------------------------------------------------------------------------


def _poisoned(x: Array, y: Array) -> Array:
    y = y.copy()
    y[-1, 0, 0] = np.nan
    return y


def _wrong_name(taps: Weights) -> Weights:
    return taps | {_TOKENS0: taps[_CHANNELS0], _CHANNELS0: taps[_TOKENS0]}


BATCH = (
    _known(
        "batch leaks a thousandth",
        Mutant(
            after=at(_TOKENS1, lambda x, y: y - np.float32(1e-3) * y.mean(axis=0, keepdims=True))
        ),
        _TOKENS1,
    ),
    _known(
        "batch leaks what float32 just holds",
        Mutant(after=at(_TOKENS0, lambda x, y: y + np.float32(1e-8) * y.mean(0, keepdims=True))),
        None,
        killer="F10",
    ),
    _known("batch reversed", Mutant(images=lambda x: x[::-1]), "stem"),
    _known("first image for all", Mutant(images=lambda x: np.broadcast_to(x[:1], x.shape)), "stem"),
    _known(
        "only the last image wrong",
        Mutant(
            after=at(
                _CHANNELS0,
                lambda x, y: np.concatenate([y[:-1], y[-1:] * np.float32(1 + 1e-4)]),
            )
        ),
        _CHANNELS0,
    ),
    _known(
        "NaN made zero",
        Mutant(images=lambda x: np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)),
        "stem",
        killer="F10",
    ),
    _known("a NaN", Mutant(after=at(_CHANNELS0, _poisoned)), _CHANNELS0),
    _known("taps under each other's names", Mutant(taps=_wrong_name), _TOKENS0),
    _known(
        "right logits, wrong tap",
        Mutant(taps=lambda taps: taps | {"norm": 0 * taps["norm"]}),
        "norm",
    ),
)

# --- arithmetic --------------------------------------------------------------------------------


def _strict_but(tap: str, other: Arithmetic) -> Mutant:
    return Mutant(arithmetic=lambda name: other if name == tap else Arithmetic(np.float32))


ARITHMETIC = (
    _known("bfloat16 products", Mutant(arithmetic=rounded_at(by=to_bfloat16)), "stem"),
    _known("float16 products", Mutant(arithmetic=rounded_at(by=to_float16)), "stem"),
    _known("int8 products", Mutant(arithmetic=rounded_at(by=to_int8)), "stem"),
    _known("TF32 products", Mutant(arithmetic=rounded_at(by=to_tf32)), "stem"),
    _known("TF32 in the stem alone", Mutant(arithmetic=rounded_at("stem", by=to_tf32)), "stem"),
    _known("TF32 in one branch", Mutant(arithmetic=rounded_at(_CHANNELS1, by=to_tf32)), _CHANNELS1),
    _known("TF32 in the head", Mutant(arithmetic=rounded_at("logits", by=to_tf32)), "logits"),
    _known("float16 sums", _strict_but(_TOKENS0, Float16Sums()), _TOKENS0),
    _known(
        "stream kept in bfloat16",
        Mutant(after=at(_TOKENS0, lambda x, y: to_bfloat16(y))),
        _TOKENS0,
    ),
    _known(
        "stream kept in float16",
        Mutant(after=at(_CHANNELS0, lambda x, y: to_float16(y))),
        _CHANNELS0,
    ),
    Known(
        name="truncation instead of rounding",
        backend=Mutant(arithmetic=lambda tap: Truncated(), after=lambda tap, x, y: truncated(y)),
        model="deep",
        stage=None,
        killer="F28",
    ),
    Known(
        name="bfloat16 products under TF32's name",
        backend=Mutant(arithmetic=rounded_at(by=to_bfloat16), profiles=("f32-tf32",)),
        model="mixer",
        stage="stem",
        profile="f32-tf32",
    ),
    Known(
        name="TF32 under float32's name, on the probe",
        backend=Mutant(arithmetic=rounded_at("logits", by=to_tf32)),
        model="probe",
        stage="head",
        killer="F26",
    ),
    Known(
        name="float16 sums, on the probe",
        backend=_strict_but("stem", Float16Sums()),
        model="probe",
        stage="stem",
        killer="F02",
    ),
)

# --- the other families ------------------------------------------------------------------------

FAMILIES = (
    *(
        _known(name, mutant, stage, "resmlp")
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
        _known(name, mutant, stage, "gmlp")
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
                "gate's kernel transposed",
                Mutant(weights=transposed("blocks.0.gated_mixing.gate.dense_0.kernel")),
                "blocks.0.gated_mixing",
            ),
        )
    ),
    _known(
        "gated unit on the first half",
        Mutant(spec=edited('"gate":"second"', '"gate":"first"')),
        _TOKENS0,
        "gmixer",
    ),
    _known(
        "gated unit interleaved",
        Mutant(compute={layers.GatedUnit: wrong.unit_on_the_other_axis}),
        _TOKENS0,
        "gmixer",
    ),
    *(
        _known(name, Mutant(compute={layers.Attention: function}), _TOKENS0, "vit")
        for name, function in {
            "attention scaled by all channels": wrong.attention_scale,
            "attention heads interleaved": wrong.interleaved_heads,
            "query and key swapped": wrong.query_for_key,
            "one head": wrong.one_head,
            "value's bias dropped": wrong.attention_without_value_bias,
        }.items()
    ),
    _known(
        "class token left out of the mean",
        Mutant(compute={layers.MeanPool: wrong.pooled_without_the_class_token}),
        "pooled",
        "vit_mean",
    ),
)

COMPUTED: tuple[Known, ...] = (
    *ACTIVATIONS,
    *NORMS,
    *STEMS,
    *MIXING,
    *DEPTH,
    *HEADS,
    *BATCH,
    *ARITHMETIC,
    *FAMILIES,
)
"""Every mistake in what is computed."""
