"""lucidrains' g-mlp-pytorch: ``gMLPVision`` with one head and without its tiny attention."""

from __future__ import annotations

from .layout import Layout, Row
from .lucidrains_mixer import OWN, edits
from .rearrange import SAME
from .timm_mixer import TRANSPOSED

_BLOCK = "layers.{i}.fn."

TABLE: tuple[Row, ...] = (
    (
        "stem.kernel",
        "to_patch_embed.1.weight",
        "row column rgb channel -> channel (rgb row column)",
    ),
    ("stem.bias", "to_patch_embed.1.bias", SAME),
    ("blocks.{i}.gated_mixing.norm.scale", _BLOCK + "norm.weight", SAME),
    ("blocks.{i}.gated_mixing.norm.bias", _BLOCK + "norm.bias", SAME),
    ("blocks.{i}.gated_mixing.dense_0.kernel", _BLOCK + "fn.proj_in.0.weight", TRANSPOSED),
    ("blocks.{i}.gated_mixing.dense_0.bias", _BLOCK + "fn.proj_in.0.bias", SAME),
    ("blocks.{i}.gated_mixing.gate.norm.scale", _BLOCK + "fn.sgu.norm.weight", SAME),
    ("blocks.{i}.gated_mixing.gate.norm.bias", _BLOCK + "fn.sgu.norm.bias", SAME),
    (
        "blocks.{i}.gated_mixing.gate.dense_0.kernel",
        _BLOCK + "fn.sgu.weight",
        "token_out token -> 1 token_out token",
    ),
    (
        "blocks.{i}.gated_mixing.gate.dense_0.bias",
        _BLOCK + "fn.sgu.bias",
        "token_out -> 1 token_out",
    ),
    ("blocks.{i}.gated_mixing.dense_1.kernel", _BLOCK + "fn.proj_out.weight", TRANSPOSED),
    ("blocks.{i}.gated_mixing.dense_1.bias", _BLOCK + "fn.proj_out.bias", SAME),
    ("norm.scale", "to_logits.0.weight", SAME),
    ("norm.bias", "to_logits.0.bias", SAME),
    ("head.kernel", "to_logits.2.weight", TRANSPOSED),
    ("head.bias", "to_logits.2.bias", SAME),
)

LUCIDRAINS_GMLP = Layout(
    name="lucidrains",
    families=("gmlp",),
    origin="lucidrains/g-mlp-pytorch",
    source="g_mlp_pytorch.py, 0.1.5",
    table=TABLE,
    containers=("pth", "safetensors"),
    runs=OWN,
    trained=(OWN,),
    because="g-mlp-pytorch writes these names, and its GELU and epsilon are PyTorch's defaults",
    arguments=edits,
)
