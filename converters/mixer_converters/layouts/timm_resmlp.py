"""timm's names for the weights of ``resmlp_*``."""

from __future__ import annotations

from .layout import Layout, Row
from .nnx import ERF
from .rearrange import SAME
from .timm_arguments import timm_arguments
from .timm_mixer import PATCHES, TRANSPOSED

_AFFINE = "channel -> 1 1 channel"

TABLE: tuple[Row, ...] = (
    ("stem.kernel", "stem.proj.weight", PATCHES),
    ("stem.bias", "stem.proj.bias", SAME),
    ("blocks.{i}.token_mixing.norm.scale", "blocks.{i}.norm1.alpha", _AFFINE),
    ("blocks.{i}.token_mixing.norm.bias", "blocks.{i}.norm1.beta", _AFFINE),
    ("blocks.{i}.token_mixing.dense_0.kernel", "blocks.{i}.linear_tokens.weight", SAME),
    ("blocks.{i}.token_mixing.dense_0.bias", "blocks.{i}.linear_tokens.bias", SAME),
    ("blocks.{i}.token_mixing.scale.scale", "blocks.{i}.ls1", SAME),
    ("blocks.{i}.channel_mixing.norm.scale", "blocks.{i}.norm2.alpha", _AFFINE),
    ("blocks.{i}.channel_mixing.norm.bias", "blocks.{i}.norm2.beta", _AFFINE),
    ("blocks.{i}.channel_mixing.dense_0.kernel", "blocks.{i}.mlp_channels.fc1.weight", TRANSPOSED),
    ("blocks.{i}.channel_mixing.dense_0.bias", "blocks.{i}.mlp_channels.fc1.bias", SAME),
    ("blocks.{i}.channel_mixing.dense_1.kernel", "blocks.{i}.mlp_channels.fc2.weight", TRANSPOSED),
    ("blocks.{i}.channel_mixing.dense_1.bias", "blocks.{i}.mlp_channels.fc2.bias", SAME),
    ("blocks.{i}.channel_mixing.scale.scale", "blocks.{i}.ls2", SAME),
    ("norm.scale", "norm.alpha", _AFFINE),
    ("norm.bias", "norm.beta", _AFFINE),
    ("head.kernel", "head.weight", TRANSPOSED),
    ("head.bias", "head.bias", SAME),
)

TIMM_RESMLP = Layout(
    name="timm",
    families=("resmlp",),
    origin="huggingface/pytorch-image-models",
    source="timm/models/mlp_mixer.py",
    table=TABLE,
    containers=("safetensors", "pth", "huggingface"),
    runs=ERF,
    trained=(ERF,),
    because="ResMLP was trained in PyTorch, with erf",
    arguments=timm_arguments(ERF),
)
