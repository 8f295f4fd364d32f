"""Mistakes in stems and in the mixing of tokens and channels."""

from __future__ import annotations

import numpy as np

from mixer_spec import layers

from . import mistakes as wrong
from .changes import (
    at,
    changed,
    ignored,
    only_at,
    to_float16,
    transposed,
    with_weights,
    zeroed,
    zeroed_everywhere,
)
from .mutant import Mutant, known

_TOKENS0, _CHANNELS0 = "blocks.0.token_mixing", "blocks.0.channel_mixing"
_TOKENS1, _CHANNELS1 = "blocks.1.token_mixing", "blocks.1.channel_mixing"


# --- stem --------------------------------------------------------------------------------------

STEMS = (
    *(
        known(name, Mutant(compute={layers.PatchEmbed: function}), "stem")
        for name, function in {
            "tokens in column-major order": wrong.column_major_tokens,
            "patches channels first": wrong.channels_first_patches,
            "stem's kernel flipped": wrong.flipped_kernel,
            "rows for columns in a patch": wrong.rows_for_columns,
        }.items()
    ),
    *(
        known(name, Mutant(images=change), "stem")
        for name, change in {
            "blue, green, red": lambda x: x[..., ::-1],
            "image flipped": lambda x: x[:, :, ::-1],
            "image upside down": lambda x: x[:, ::-1],
            "image normalised twice": lambda x: (x - np.float32(0.5)) / np.float32(0.5),
            "image as 0 to 255": lambda x: x * np.float32(127.5) + np.float32(127.5),
        }.items()
    ),
    known(
        "image clipped to -1 and 1",
        Mutant(images=lambda x: np.clip(x, -1, 1)),
        "stem",
        killer="F08",
    ),
    known("image through float16", Mutant(images=lambda x: to_float16(x)), "stem"),
    known("stem's bias dropped", Mutant(weights=zeroed("stem.bias")), "stem"),
    known(
        "words counted from one",
        Mutant(compute={layers.TokenEmbed: wrong.words_from_one}),
        "stem",
        "words",
    ),
    known(
        "word 0 is padding",
        Mutant(compute={layers.TokenEmbed: wrong.unknown_word_first}),
        "stem",
        "words",
    ),
    known("signal backwards", Mutant(images=lambda x: x[:, ::-1]), "stem", "signal"),
    known(
        "positions ignored",
        Mutant(compute={layers.PositionEmbedding: ignored}),
        "stem",
        "vit",
    ),
    known(
        "class token last, before the positions",
        Mutant(compute={layers.ClassToken: wrong.class_token_last}),
        "stem",
        "vit",
    ),
    known(
        "class token at the end",
        Mutant(after=at("stem", lambda x, y: np.roll(y, -1, axis=1))),
        "stem",
        "vit",
    ),
)

# --- mixing ------------------------------------------------------------------------------------

MIXING = (
    known(
        "token kernel transposed",
        Mutant(weights=transposed(f"{_TOKENS0}.dense_1.kernel")),
        _TOKENS0,
        "square",
        "F04",
    ),
    known(
        "channel kernel transposed",
        Mutant(weights=transposed(f"{_CHANNELS1}.dense_0.kernel")),
        _CHANNELS1,
        "square",
        "F04",
    ),
    *(
        known(name, Mutant(compute={layers.TokenDense: function}), _TOKENS0, model, killer)
        for name, function, model, killer in (
            ("token bias along the channels", wrong.bias_after_transpose, "square", "F04"),
            ("reshape before the token mixing", wrong.reshaped_before, "mixer", "F01"),
            ("reshape behind the token mixing", wrong.reshaped_behind, "mixer", "F01"),
            ("last token left out", wrong.without_the_last_token, "mixer", "F01"),
            ("token bias twice", wrong.bias_twice, "mixer", "F01"),
        )
    ),
    # No later layer sees this one: the norms remove it.
    known("token bias dropped", Mutant(weights=zeroed(f"{_TOKENS1}.dense_1.bias")), _TOKENS1),
    known("hidden bias dropped", Mutant(weights=zeroed(f"{_CHANNELS1}.dense_0.bias")), _CHANNELS1),
    known(
        "channel bias of the last block dropped",
        Mutant(weights=zeroed(f"{_CHANNELS1}.dense_1.bias")),
        _CHANNELS1,
    ),
    known(
        "every hidden bias dropped",
        Mutant(weights=zeroed_everywhere("dense_0.bias")),
        _TOKENS0,
    ),
    known(
        "last hidden unit left out",
        Mutant(
            weights=changed(
                f"{_TOKENS0}.dense_0.kernel",
                lambda w: np.concatenate([w[:-1], np.zeros_like(w[:1])]),
            )
        ),
        _TOKENS0,
    ),
    known(
        "one kernel for all channels",
        Mutant(compute={layers.UntiedTokenDense: wrong.one_kernel_for_all}),
        _TOKENS0,
        "untied",
    ),
    known(
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
    known(
        "groups put back in another order",
        Mutant(compute={layers.UngroupChannels: wrong.neighbouring_ungroup}),
        _TOKENS0,
        "grouped",
    ),
    *(
        known(name, Mutant(compute={layers.DepthwiseConv: function}), _TOKENS0, "conv")
        for name, function in {
            "convolution with a flipped kernel": wrong.true_convolution,
            "convolution's kernel transposed": wrong.convolution_transposed,
            "convolution around the edge": wrong.convolution_around_the_edge,
        }.items()
    ),
    known(
        "convolution's bias dropped",
        Mutant(compute=with_weights(layers.DepthwiseConv, lambda w: w | {"bias": 0 * w["bias"]})),
        _TOKENS0,
        "conv",
    ),
    known(
        "transition's norm skipped",
        Mutant(compute=only_at("transitions.1.norm", layers.LayerNorm, ignored)),
        "blocks.2.token_mixing",
        "pyramid",
    ),
    known(
        "transition's gelu skipped",
        Mutant(compute=only_at("transitions.1.gelu_0", layers.Gelu, ignored)),
        "blocks.2.token_mixing",
        "pyramid",
    ),
)
