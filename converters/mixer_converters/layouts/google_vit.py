"""Google's own npz of ViT, with today's numbers and with those from before Flax linen."""

from __future__ import annotations

from .google import TANH, no_arguments
from .layout import Layout, Row
from .rearrange import SAME

_BLOCK = "Transformer/encoderblock_{i}/"
_ATTENTION = _BLOCK + "MultiHeadDotProductAttention_0/"
_SPLIT = "channel (heads size) -> channel heads size"
_SPLIT_BIAS = "(heads size) -> heads size"

TABLE: tuple[Row, ...] = (
    ("stem.kernel", "embedding/kernel", SAME),
    ("stem.bias", "embedding/bias", SAME),
    ("stem.class_token.embedding", "cls", "token channel -> 1 token channel"),
    (
        "stem.position.embedding",
        "Transformer/posembed_input/pos_embedding",
        "token channel -> 1 token channel",
    ),
    ("blocks.{i}.token_mixing.norm.scale", _BLOCK + "LayerNorm_0/scale", SAME),
    ("blocks.{i}.token_mixing.norm.bias", _BLOCK + "LayerNorm_0/bias", SAME),
    ("blocks.{i}.token_mixing.attention.query.kernel", _ATTENTION + "query/kernel", _SPLIT),
    ("blocks.{i}.token_mixing.attention.query.bias", _ATTENTION + "query/bias", _SPLIT_BIAS),
    ("blocks.{i}.token_mixing.attention.key.kernel", _ATTENTION + "key/kernel", _SPLIT),
    ("blocks.{i}.token_mixing.attention.key.bias", _ATTENTION + "key/bias", _SPLIT_BIAS),
    ("blocks.{i}.token_mixing.attention.value.kernel", _ATTENTION + "value/kernel", _SPLIT),
    ("blocks.{i}.token_mixing.attention.value.bias", _ATTENTION + "value/bias", _SPLIT_BIAS),
    (
        "blocks.{i}.token_mixing.attention.out.kernel",
        _ATTENTION + "out/kernel",
        "(heads size) channel -> heads size channel",
    ),
    ("blocks.{i}.token_mixing.attention.out.bias", _ATTENTION + "out/bias", SAME),
    ("blocks.{i}.channel_mixing.norm.scale", _BLOCK + "LayerNorm_1/scale", SAME),
    ("blocks.{i}.channel_mixing.norm.bias", _BLOCK + "LayerNorm_1/bias", SAME),
    ("blocks.{i}.channel_mixing.dense_0.kernel", _BLOCK + "MlpBlock_0/Dense_0/kernel", SAME),
    ("blocks.{i}.channel_mixing.dense_0.bias", _BLOCK + "MlpBlock_0/Dense_0/bias", SAME),
    ("blocks.{i}.channel_mixing.dense_1.kernel", _BLOCK + "MlpBlock_0/Dense_1/kernel", SAME),
    ("blocks.{i}.channel_mixing.dense_1.bias", _BLOCK + "MlpBlock_0/Dense_1/bias", SAME),
    ("norm.scale", "Transformer/encoder_norm/scale", SAME),
    ("norm.bias", "Transformer/encoder_norm/bias", SAME),
    ("head.kernel", "head/kernel", SAME),
    ("head.bias", "head/bias", SAME),
)

_OLD_NUMBERS = (
    ("LayerNorm_1/", "LayerNorm_2/"),
    ("MultiHeadDotProductAttention_0/", "MultiHeadDotProductAttention_1/"),
    ("MlpBlock_0/", "MlpBlock_3/"),
)
"""Before linen one counter ran over all modules of a block; linen has one for each class."""


def _old(foreign: str) -> str:
    for today, before in _OLD_NUMBERS:
        foreign = foreign.replace(today, before)
    return foreign


def _vit(name: str, family: str, table: tuple[Row, ...]) -> Layout:
    return Layout(
        name=name,
        families=(family,),
        origin="google-research: vision_transformer, big_vision",
        source="vit_jax/models_vit.py, vit_jax/checkpoint.py; gs://vit_models",
        table=table,
        containers=("npz", "msgpack", "orbax", "safetensors"),
        runs=TANH,
        trained=(TANH,),
        because="Google's Flax code writes these names, and its nn.gelu is the tanh form",
        arguments=no_arguments,
    )


_MEAN = tuple(row for row in TABLE if row[1] != "cls")

GOOGLE_VIT = _vit("google", "vit", TABLE)
GOOGLE_VIT_MEAN = _vit("google", "vit_mean", _MEAN)
GOOGLE_VIT_OLD = _vit(
    "google_old", "vit", tuple((canonical, _old(foreign), how) for canonical, foreign, how in TABLE)
)
