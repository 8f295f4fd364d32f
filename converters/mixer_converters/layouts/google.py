"""Google's own npz of MLP-Mixer: the parameter tree of the Flax linen module, joined by slashes."""

from __future__ import annotations

from mixer_converters.semantics import Semantics

from .layout import Layout, Row
from .rearrange import SAME

TANH = Semantics(gelu="tanh", epsilon=1e-6, gate_epsilon=1e-6)
TRANSPOSED = "token_out token -> token token_out"

TABLE: tuple[Row, ...] = (
    ("stem.kernel", "stem/kernel", SAME),
    ("stem.bias", "stem/bias", SAME),
    ("blocks.{i}.token_mixing.norm.scale", "MixerBlock_{i}/LayerNorm_0/scale", SAME),
    ("blocks.{i}.token_mixing.norm.bias", "MixerBlock_{i}/LayerNorm_0/bias", SAME),
    (
        "blocks.{i}.token_mixing.dense_0.kernel",
        "MixerBlock_{i}/token_mixing/Dense_0/kernel",
        TRANSPOSED,
    ),
    ("blocks.{i}.token_mixing.dense_0.bias", "MixerBlock_{i}/token_mixing/Dense_0/bias", SAME),
    (
        "blocks.{i}.token_mixing.dense_1.kernel",
        "MixerBlock_{i}/token_mixing/Dense_1/kernel",
        TRANSPOSED,
    ),
    ("blocks.{i}.token_mixing.dense_1.bias", "MixerBlock_{i}/token_mixing/Dense_1/bias", SAME),
    ("blocks.{i}.channel_mixing.norm.scale", "MixerBlock_{i}/LayerNorm_1/scale", SAME),
    ("blocks.{i}.channel_mixing.norm.bias", "MixerBlock_{i}/LayerNorm_1/bias", SAME),
    (
        "blocks.{i}.channel_mixing.dense_0.kernel",
        "MixerBlock_{i}/channel_mixing/Dense_0/kernel",
        SAME,
    ),
    ("blocks.{i}.channel_mixing.dense_0.bias", "MixerBlock_{i}/channel_mixing/Dense_0/bias", SAME),
    (
        "blocks.{i}.channel_mixing.dense_1.kernel",
        "MixerBlock_{i}/channel_mixing/Dense_1/kernel",
        SAME,
    ),
    ("blocks.{i}.channel_mixing.dense_1.bias", "MixerBlock_{i}/channel_mixing/Dense_1/bias", SAME),
    ("norm.scale", "pre_head_layer_norm/scale", SAME),
    ("norm.bias", "pre_head_layer_norm/bias", SAME),
    ("head.kernel", "head/kernel", SAME),
    ("head.bias", "head/bias", SAME),
)


def no_arguments(wanted: Semantics) -> str:
    """Google's modules take neither the GELU nor the epsilon as an argument."""
    approximate = wanted.gelu == "tanh"
    return (
        f"models_mixer.py has no argument for it: write nn.gelu(x, approximate={approximate}) and "
        f"nn.LayerNorm(epsilon={wanted.epsilon:g}) there"
    )


GOOGLE = Layout(
    name="google",
    families=("mixer",),
    origin="google-research: vision_transformer, big_vision",
    source="vit_jax/models_mixer.py; gs://mixer_models",
    table=TABLE,
    containers=("npz", "msgpack", "orbax", "safetensors"),
    runs=TANH,
    trained=(TANH,),
    because="Google's Flax code writes these names, and its nn.gelu is the tanh form",
    arguments=no_arguments,
)
