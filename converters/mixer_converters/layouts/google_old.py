"""Google's npz of MLP-Mixer from before Flax linen, as big_vision's ``load`` still reads it."""

from __future__ import annotations

from .google import TANH, TRANSPOSED, no_arguments
from .layout import Layout, Row
from .rearrange import SAME

_TOKEN = "Mixer/encoderblock_{i}/token_mixing_phase_0/"
_CHANNEL = "Mixer/encoderblock_{i}/channel_mixing_phase_0/"

TABLE: tuple[Row, ...] = (
    ("stem.kernel", "embedding/kernel", SAME),
    ("stem.bias", "embedding/bias", SAME),
    ("blocks.{i}.token_mixing.norm.scale", "Mixer/encoderblock_{i}/LayerNorm_0/scale", SAME),
    ("blocks.{i}.token_mixing.norm.bias", "Mixer/encoderblock_{i}/LayerNorm_0/bias", SAME),
    ("blocks.{i}.token_mixing.dense_0.kernel", _TOKEN + "kernel1", TRANSPOSED),
    ("blocks.{i}.token_mixing.dense_0.bias", _TOKEN + "bias1", SAME),
    ("blocks.{i}.token_mixing.dense_1.kernel", _TOKEN + "kernel2", TRANSPOSED),
    ("blocks.{i}.token_mixing.dense_1.bias", _TOKEN + "bias2", SAME),
    ("blocks.{i}.channel_mixing.norm.scale", "Mixer/encoderblock_{i}/LayerNorm_1/scale", SAME),
    ("blocks.{i}.channel_mixing.norm.bias", "Mixer/encoderblock_{i}/LayerNorm_1/bias", SAME),
    ("blocks.{i}.channel_mixing.dense_0.kernel", _CHANNEL + "kernel1", SAME),
    ("blocks.{i}.channel_mixing.dense_0.bias", _CHANNEL + "bias1", SAME),
    ("blocks.{i}.channel_mixing.dense_1.kernel", _CHANNEL + "kernel2", SAME),
    ("blocks.{i}.channel_mixing.dense_1.bias", _CHANNEL + "bias2", SAME),
    ("norm.scale", "Mixer/encoder_norm/scale", SAME),
    ("norm.bias", "Mixer/encoder_norm/bias", SAME),
    ("head.kernel", "head/kernel", SAME),
    ("head.bias", "head/bias", SAME),
)

GOOGLE_OLD = Layout(
    name="google_old",
    families=("mixer",),
    origin="google-research: big_vision",
    source="big_vision/models/mlp_mixer.py, load()",
    table=TABLE,
    containers=("npz", "msgpack", "orbax", "safetensors"),
    runs=TANH,
    trained=(TANH,),
    because="Google's code from before Flax linen wrote these names, and its gelu is the tanh form",
    arguments=no_arguments,
    squeezed=True,
)
