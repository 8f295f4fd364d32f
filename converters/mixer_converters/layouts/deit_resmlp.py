"""ResMLP as its authors publish it, in deit."""

from __future__ import annotations

from .layout import Layout, Row
from .nnx import ERF
from .rearrange import SAME
from .timm_arguments import timm_arguments
from .timm_mixer import PATCHES, TRANSPOSED

TABLE: tuple[Row, ...] = (
    ("stem.kernel", "patch_embed.proj.weight", PATCHES),
    ("stem.bias", "patch_embed.proj.bias", SAME),
    ("blocks.{i}.token_mixing.norm.scale", "blocks.{i}.norm1.alpha", SAME),
    ("blocks.{i}.token_mixing.norm.bias", "blocks.{i}.norm1.beta", SAME),
    ("blocks.{i}.token_mixing.dense_0.kernel", "blocks.{i}.attn.weight", SAME),
    ("blocks.{i}.token_mixing.dense_0.bias", "blocks.{i}.attn.bias", SAME),
    ("blocks.{i}.token_mixing.scale.scale", "blocks.{i}.gamma_1", SAME),
    ("blocks.{i}.channel_mixing.norm.scale", "blocks.{i}.norm2.alpha", SAME),
    ("blocks.{i}.channel_mixing.norm.bias", "blocks.{i}.norm2.beta", SAME),
    ("blocks.{i}.channel_mixing.dense_0.kernel", "blocks.{i}.mlp.fc1.weight", TRANSPOSED),
    ("blocks.{i}.channel_mixing.dense_0.bias", "blocks.{i}.mlp.fc1.bias", SAME),
    ("blocks.{i}.channel_mixing.dense_1.kernel", "blocks.{i}.mlp.fc2.weight", TRANSPOSED),
    ("blocks.{i}.channel_mixing.dense_1.bias", "blocks.{i}.mlp.fc2.bias", SAME),
    ("blocks.{i}.channel_mixing.scale.scale", "blocks.{i}.gamma_2", SAME),
    ("norm.scale", "norm.alpha", SAME),
    ("norm.bias", "norm.beta", SAME),
    ("head.kernel", "head.weight", TRANSPOSED),
    ("head.bias", "head.bias", SAME),
)

DEIT_RESMLP = Layout(
    name="deit",
    families=("resmlp",),
    origin="facebookresearch/deit",
    source="resmlp_models.py",
    table=TABLE,
    containers=("pth", "safetensors"),
    runs=ERF,
    trained=(ERF,),
    because="deit's code writes these names, and its nn.GELU is erf",
    arguments=timm_arguments(ERF),
)
