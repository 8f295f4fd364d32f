"""lucidrains' mlp-mixer-pytorch: nested ``nn.Sequential``, so that numbers are the names."""

from __future__ import annotations

from mixer_converters.semantics import Semantics

from .layout import Layout, Row
from .rearrange import SAME
from .timm_mixer import TRANSPOSED

OWN = Semantics(gelu="none", epsilon=1e-5, gate_epsilon=1e-5)
_CONV = "token_out token -> token_out token 1"

TABLE: tuple[Row, ...] = (
    ("stem.kernel", "1.weight", "row column rgb channel -> channel (row column rgb)"),
    ("stem.bias", "1.bias", SAME),
    ("blocks.{i}.token_mixing.norm.scale", "{i+2}.0.norm.weight", SAME),
    ("blocks.{i}.token_mixing.norm.bias", "{i+2}.0.norm.bias", SAME),
    ("blocks.{i}.token_mixing.dense_0.kernel", "{i+2}.0.fn.0.weight", _CONV),
    ("blocks.{i}.token_mixing.dense_0.bias", "{i+2}.0.fn.0.bias", SAME),
    ("blocks.{i}.token_mixing.dense_1.kernel", "{i+2}.0.fn.3.weight", _CONV),
    ("blocks.{i}.token_mixing.dense_1.bias", "{i+2}.0.fn.3.bias", SAME),
    ("blocks.{i}.channel_mixing.norm.scale", "{i+2}.1.norm.weight", SAME),
    ("blocks.{i}.channel_mixing.norm.bias", "{i+2}.1.norm.bias", SAME),
    ("blocks.{i}.channel_mixing.dense_0.kernel", "{i+2}.1.fn.0.weight", TRANSPOSED),
    ("blocks.{i}.channel_mixing.dense_0.bias", "{i+2}.1.fn.0.bias", SAME),
    ("blocks.{i}.channel_mixing.dense_1.kernel", "{i+2}.1.fn.3.weight", TRANSPOSED),
    ("blocks.{i}.channel_mixing.dense_1.bias", "{i+2}.1.fn.3.bias", SAME),
    ("norm.scale", "{depth+2}.weight", SAME),
    ("norm.bias", "{depth+2}.bias", SAME),
    ("head.kernel", "{depth+4}.weight", TRANSPOSED),
    ("head.bias", "{depth+4}.bias", SAME),
)


def edits(wanted: Semantics) -> str:
    """The packages take no such argument; the modules of a made model can be changed."""
    return (
        "for m in model.modules(): set m.eps on every torch.nn.LayerNorm to "
        f"{wanted.epsilon:g}, and m.approximate on every torch.nn.GELU to {wanted.gelu!r}"
    )


LUCIDRAINS_MIXER = Layout(
    name="lucidrains",
    families=("mixer",),
    origin="lucidrains/mlp-mixer-pytorch",
    source="mlp_mixer_pytorch.py, 0.3.1",
    table=TABLE,
    containers=("pth", "safetensors"),
    runs=OWN,
    trained=(OWN,),
    because="mlp-mixer-pytorch writes these names, and its GELU and epsilon are PyTorch's defaults",
    arguments=edits,
)
