"""timm's names for the weights of ``gmlp_*``."""

from __future__ import annotations

from mixer_converters.semantics import Semantics

from .layout import Layout, Row
from .rearrange import SAME
from .timm_arguments import timm_arguments
from .timm_mixer import PATCHES, TRANSPOSED

MIXED = Semantics(gelu="none", epsilon=1e-6, gate_epsilon=1e-5)

TABLE: tuple[Row, ...] = (
    ("stem.kernel", "stem.proj.weight", PATCHES),
    ("stem.bias", "stem.proj.bias", SAME),
    ("blocks.{i}.gated_mixing.norm.scale", "blocks.{i}.norm.weight", SAME),
    ("blocks.{i}.gated_mixing.norm.bias", "blocks.{i}.norm.bias", SAME),
    ("blocks.{i}.gated_mixing.dense_0.kernel", "blocks.{i}.mlp_channels.fc1.weight", TRANSPOSED),
    ("blocks.{i}.gated_mixing.dense_0.bias", "blocks.{i}.mlp_channels.fc1.bias", SAME),
    ("blocks.{i}.gated_mixing.gate.norm.scale", "blocks.{i}.mlp_channels.gate.norm.weight", SAME),
    ("blocks.{i}.gated_mixing.gate.norm.bias", "blocks.{i}.mlp_channels.gate.norm.bias", SAME),
    (
        "blocks.{i}.gated_mixing.gate.dense_0.kernel",
        "blocks.{i}.mlp_channels.gate.proj.weight",
        SAME,
    ),
    ("blocks.{i}.gated_mixing.gate.dense_0.bias", "blocks.{i}.mlp_channels.gate.proj.bias", SAME),
    ("blocks.{i}.gated_mixing.dense_1.kernel", "blocks.{i}.mlp_channels.fc2.weight", TRANSPOSED),
    ("blocks.{i}.gated_mixing.dense_1.bias", "blocks.{i}.mlp_channels.fc2.bias", SAME),
    ("norm.scale", "norm.weight", SAME),
    ("norm.bias", "norm.bias", SAME),
    ("head.kernel", "head.weight", TRANSPOSED),
    ("head.bias", "head.bias", SAME),
)

TIMM_GMLP = Layout(
    name="timm",
    families=("gmlp",),
    origin="huggingface/pytorch-image-models",
    source="timm/models/mlp_mixer.py",
    table=TABLE,
    containers=("safetensors", "pth", "huggingface"),
    runs=MIXED,
    trained=(MIXED,),
    because="the only published gMLP weights were trained in timm, with erf",
    arguments=timm_arguments(MIXED),
)
