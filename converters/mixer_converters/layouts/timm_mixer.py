"""timm's ``mixer_*`` and ``gmixer_*``."""

from __future__ import annotations

from .google import TANH
from .layout import Layout, Row
from .nnx import ERF
from .rearrange import SAME
from .timm_arguments import timm_arguments

PATCHES = "row column rgb channel -> channel rgb row column"
TRANSPOSED = "channel channel_out -> channel_out channel"

TABLE: tuple[Row, ...] = (
    ("stem.kernel", "stem.proj.weight", PATCHES),
    ("stem.bias", "stem.proj.bias", SAME),
    ("blocks.{i}.token_mixing.norm.scale", "blocks.{i}.norm1.weight", SAME),
    ("blocks.{i}.token_mixing.norm.bias", "blocks.{i}.norm1.bias", SAME),
    ("blocks.{i}.token_mixing.dense_0.kernel", "blocks.{i}.mlp_tokens.fc1.weight", SAME),
    ("blocks.{i}.token_mixing.dense_0.bias", "blocks.{i}.mlp_tokens.fc1.bias", SAME),
    ("blocks.{i}.token_mixing.dense_1.kernel", "blocks.{i}.mlp_tokens.fc2.weight", SAME),
    ("blocks.{i}.token_mixing.dense_1.bias", "blocks.{i}.mlp_tokens.fc2.bias", SAME),
    ("blocks.{i}.channel_mixing.norm.scale", "blocks.{i}.norm2.weight", SAME),
    ("blocks.{i}.channel_mixing.norm.bias", "blocks.{i}.norm2.bias", SAME),
    ("blocks.{i}.channel_mixing.dense_0.kernel", "blocks.{i}.mlp_channels.fc1.weight", TRANSPOSED),
    ("blocks.{i}.channel_mixing.dense_0.bias", "blocks.{i}.mlp_channels.fc1.bias", SAME),
    ("blocks.{i}.channel_mixing.dense_1.kernel", "blocks.{i}.mlp_channels.fc2.weight", TRANSPOSED),
    ("blocks.{i}.channel_mixing.dense_1.bias", "blocks.{i}.mlp_channels.fc2.bias", SAME),
    ("norm.scale", "norm.weight", SAME),
    ("norm.bias", "norm.bias", SAME),
    ("head.kernel", "head.weight", TRANSPOSED),
    ("head.bias", "head.bias", SAME),
)

TIMM_MIXER = Layout(
    name="timm",
    families=("mixer", "gmixer"),
    origin="huggingface/pytorch-image-models",
    source="timm/models/mlp_mixer.py",
    table=TABLE,
    containers=("safetensors", "pth", "huggingface"),
    runs=ERF,
    trained=(TANH, ERF),
    because="timm holds Google's weights (goog_*), trained with tanh, and its own and MIIL's, with erf",
    arguments=timm_arguments(ERF),
)
