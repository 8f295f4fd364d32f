"""A Flax NNX state: timm's module names, as its ports to NNX have them, with Flax's leaves."""

from __future__ import annotations

from mixer_converters.semantics import Semantics

from .google import TANH, TRANSPOSED
from .layout import Layout, Row
from .rearrange import SAME

ERF = Semantics(gelu="none", epsilon=1e-6, gate_epsilon=1e-6)

TABLE: tuple[Row, ...] = (
    ("stem.kernel", "stem/kernel", SAME),
    ("stem.bias", "stem/bias", SAME),
    ("blocks.{i}.token_mixing.norm.scale", "blocks/{i}/norm1/scale", SAME),
    ("blocks.{i}.token_mixing.norm.bias", "blocks/{i}/norm1/bias", SAME),
    ("blocks.{i}.token_mixing.dense_0.kernel", "blocks/{i}/mlp_tokens/fc1/kernel", TRANSPOSED),
    ("blocks.{i}.token_mixing.dense_0.bias", "blocks/{i}/mlp_tokens/fc1/bias", SAME),
    ("blocks.{i}.token_mixing.dense_1.kernel", "blocks/{i}/mlp_tokens/fc2/kernel", TRANSPOSED),
    ("blocks.{i}.token_mixing.dense_1.bias", "blocks/{i}/mlp_tokens/fc2/bias", SAME),
    ("blocks.{i}.channel_mixing.norm.scale", "blocks/{i}/norm2/scale", SAME),
    ("blocks.{i}.channel_mixing.norm.bias", "blocks/{i}/norm2/bias", SAME),
    ("blocks.{i}.channel_mixing.dense_0.kernel", "blocks/{i}/mlp_channels/fc1/kernel", SAME),
    ("blocks.{i}.channel_mixing.dense_0.bias", "blocks/{i}/mlp_channels/fc1/bias", SAME),
    ("blocks.{i}.channel_mixing.dense_1.kernel", "blocks/{i}/mlp_channels/fc2/kernel", SAME),
    ("blocks.{i}.channel_mixing.dense_1.bias", "blocks/{i}/mlp_channels/fc2/bias", SAME),
    ("norm.scale", "norm/scale", SAME),
    ("norm.bias", "norm/bias", SAME),
    ("head.kernel", "head/kernel", SAME),
    ("head.bias", "head/bias", SAME),
)

NNX = Layout(
    name="nnx",
    families=("mixer", "gmixer"),
    origin="ports of timm's Mixer to Flax NNX",
    source="flax: nnx.Conv, nnx.Linear, nnx.LayerNorm, nnx.List",
    table=TABLE,
    containers=("orbax", "msgpack", "npz", "safetensors"),
    runs=TANH,
    trained=(TANH, ERF),
    because="nnx.gelu is the tanh form unless its caller says otherwise, and ports of timm do",
    arguments=lambda wanted: (
        f"nnx.gelu(x, approximate={wanted.gelu == 'tanh'}), nnx.LayerNorm(epsilon={wanted.epsilon:g})"
    ),
)
