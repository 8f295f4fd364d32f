"""Mistakes in activations and norms."""

from __future__ import annotations

import numpy as np

from mixer_spec import layers

from . import mistakes as wrong
from .changes import (
    at,
    edited,
    ignored,
    norm_behind,
    only_at,
    swapped,
    to_bfloat16,
    zeroed,
)
from .mutant import Mutant, known

_TOKENS0, _CHANNELS0 = "blocks.0.token_mixing", "blocks.0.channel_mixing"
_TOKENS1, _CHANNELS1 = "blocks.1.token_mixing", "blocks.1.channel_mixing"


# --- activations -------------------------------------------------------------------------------

ACTIVATIONS = (
    known("gelu by erf", Mutant(spec=edited('"tanh"', '"none"')), _TOKENS0),
    known(
        "gelu by tanh",
        Mutant(spec=edited('"approximation":"none"', '"approximation":"tanh"')),
        "blocks.0.gated_mixing",
        "gmlp",
    ),
    *(
        known(name, Mutant(compute={layers.Gelu: function}), _TOKENS0)
        for name, function in {
            "gelu with 0.044": wrong.gelu_with_short_constant,
            "gelu with 0.798": wrong.gelu_with_short_root,
            "quick gelu": wrong.quick_gelu,
            "relu": wrong.relu,
            "silu for gelu": wrong.silu,
            "gelu from a table": wrong.gelu_from_a_table,
            "gelu ignored": ignored,
        }.items()
    ),
    known(
        "gelu with a ceiling",
        Mutant(compute={layers.Gelu: wrong.gelu_with_a_ceiling}),
        None,
        killer="F08",
    ),
    known(
        "gelu missing in the last channel mixing",
        Mutant(compute=only_at(f"{_CHANNELS1}.gelu_0", layers.Gelu, ignored)),
        _CHANNELS1,
    ),
    known(
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
    known("epsilon 1e-5", Mutant(spec=edited("1e-06", "1e-05")), _TOKENS0, killer="F05"),
    known("epsilon 1e-3", Mutant(spec=edited("1e-06", "1e-03")), _TOKENS0, killer="F05"),
    known(
        "gate's epsilon like the others",
        Mutant(spec=edited("1e-05", "1e-06")),
        "blocks.0.gated_mixing",
        "gmlp",
        "F05",
    ),
    known(
        "epsilon of the last norm alone",
        Mutant(compute=only_at("norm", layers.LayerNorm, wrong.norm_with_epsilon(1e-5))),
        "norm",
        killer="F05",
    ),
    *(
        known(name, Mutant(compute={layers.LayerNorm: function}), _TOKENS0, killer=killer)
        for name, function, killer in (
            ("epsilon forgotten", wrong.norm_without_epsilon, "F05"),
            ("epsilon outside of the root", wrong.epsilon_outside_of_the_root, "F05"),
            ("variance over n - 1", wrong.unbiased_norm, "F01"),
            ("norm without the mean", wrong.norm_without_mean, "F01"),
            ("norm over the tokens", wrong.norm_over_tokens, "F01"),
            ("norm over tokens and channels", wrong.norm_over_everything, "F01"),
            ("norm over the batch", wrong.norm_over_the_batch, "F01"),
            ("norm's statistics in bfloat16", wrong.norm_of_bfloat16_statistics, "F01"),
            ("norm's scale ignored", wrong.norm_without_scale, "F01"),
            ("norm's bias ignored", wrong.norm_without_bias, "F01"),
            ("variance in one pass", wrong.norm_in_one_pass, "F06"),
        )
    ),
    known(
        "variance in one pass, not clipped",
        Mutant(compute={layers.LayerNorm: wrong.norm_in_one_pass_unclipped}),
        None,
        killer="F07",
    ),
    known("norm's bias dropped", Mutant(weights=zeroed("norm.bias")), "norm"),
    known(
        "norms of a block swapped",
        Mutant(weights=swapped(f"{_TOKENS1}.norm.", f"{_CHANNELS1}.norm.")),
        _TOKENS1,
    ),
    known("norms behind the branches", Mutant(spec=norm_behind), _TOKENS0),
    known("norm skipped", Mutant(after=at("norm", lambda x, y: x)), "norm"),
    known(
        "norm kept in bfloat16",
        Mutant(after=at("norm", lambda x, y: to_bfloat16(y))),
        "norm",
    ),
    known(
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
