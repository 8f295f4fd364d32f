"""timm's ``vit_*`` with a class token."""

from __future__ import annotations

from .google import TANH
from .layout import Layout, Row
from .nnx import ERF
from .rearrange import SAME
from .timm_arguments import timm_arguments
from .timm_mixer import PATCHES, TRANSPOSED

_ATTENTION = "blocks.{i}.token_mixing.attention."
_KERNELS = (_ATTENTION + "query.kernel", _ATTENTION + "key.kernel", _ATTENTION + "value.kernel")
_BIASES = (_ATTENTION + "query.bias", _ATTENTION + "key.bias", _ATTENTION + "value.bias")

TABLE: tuple[Row, ...] = (
    ("stem.kernel", "patch_embed.proj.weight", PATCHES),
    ("stem.bias", "patch_embed.proj.bias", SAME),
    ("stem.class_token.embedding", "cls_token", "token channel -> 1 token channel"),
    ("stem.position.embedding", "pos_embed", "token channel -> 1 token channel"),
    ("blocks.{i}.token_mixing.norm.scale", "blocks.{i}.norm1.weight", SAME),
    ("blocks.{i}.token_mixing.norm.bias", "blocks.{i}.norm1.bias", SAME),
    (
        _KERNELS,
        "blocks.{i}.attn.qkv.weight",
        "stacked channel channel_out -> (stacked channel_out) channel",
    ),
    (_BIASES, "blocks.{i}.attn.qkv.bias", "stacked channel_out -> (stacked channel_out)"),
    (_ATTENTION + "out.kernel", "blocks.{i}.attn.proj.weight", TRANSPOSED),
    (_ATTENTION + "out.bias", "blocks.{i}.attn.proj.bias", SAME),
    ("blocks.{i}.channel_mixing.norm.scale", "blocks.{i}.norm2.weight", SAME),
    ("blocks.{i}.channel_mixing.norm.bias", "blocks.{i}.norm2.bias", SAME),
    ("blocks.{i}.channel_mixing.dense_0.kernel", "blocks.{i}.mlp.fc1.weight", TRANSPOSED),
    ("blocks.{i}.channel_mixing.dense_0.bias", "blocks.{i}.mlp.fc1.bias", SAME),
    ("blocks.{i}.channel_mixing.dense_1.kernel", "blocks.{i}.mlp.fc2.weight", TRANSPOSED),
    ("blocks.{i}.channel_mixing.dense_1.bias", "blocks.{i}.mlp.fc2.bias", SAME),
    ("norm.scale", "norm.weight", SAME),
    ("norm.bias", "norm.bias", SAME),
    ("head.kernel", "head.weight", TRANSPOSED),
    ("head.bias", "head.bias", SAME),
)

TIMM_VIT = Layout(
    name="timm",
    families=("vit",),
    origin="huggingface/pytorch-image-models",
    source="timm/models/vision_transformer.py",
    table=TABLE,
    containers=("safetensors", "pth", "huggingface"),
    runs=ERF,
    trained=(TANH, ERF),
    because="timm holds Google's weights (augreg, orig), trained with tanh, and others, with erf",
    arguments=timm_arguments(ERF),
)
