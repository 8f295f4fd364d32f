"""keras_cv_attention_models' ``MLPMixer*`` as Keras's ``save_weights("….h5")`` stores it."""

from __future__ import annotations

from mixer_converters.semantics import Semantics

from .google import TANH, TRANSPOSED
from .layout import Layout, Row
from .rearrange import SAME

_OWN = Semantics(gelu="none", epsilon=1e-5, gate_epsilon=1e-5)


def _keras(layer: str, weight: str) -> str:
    """A weight's place: Keras makes a group of the layer's name, and the weight's repeats it."""
    return f"{layer}/{layer}/{weight}:0"


_BLOCK = "MixerBlock_{i}/"
_TOKEN, _CHANNEL = _BLOCK + "token_mixing/Dense_", _BLOCK + "channel_mixing/Dense_"

TABLE: tuple[Row, ...] = (
    ("stem.kernel", _keras("stem", "kernel"), SAME),
    ("stem.bias", _keras("stem", "bias"), SAME),
    ("blocks.{i}.token_mixing.norm.scale", _keras(_BLOCK + "LayerNorm_0", "gamma"), SAME),
    ("blocks.{i}.token_mixing.norm.bias", _keras(_BLOCK + "LayerNorm_0", "beta"), SAME),
    ("blocks.{i}.token_mixing.dense_0.kernel", _keras(_TOKEN + "0", "kernel"), TRANSPOSED),
    ("blocks.{i}.token_mixing.dense_0.bias", _keras(_TOKEN + "0", "bias"), SAME),
    ("blocks.{i}.token_mixing.dense_1.kernel", _keras(_TOKEN + "1", "kernel"), TRANSPOSED),
    ("blocks.{i}.token_mixing.dense_1.bias", _keras(_TOKEN + "1", "bias"), SAME),
    ("blocks.{i}.channel_mixing.norm.scale", _keras(_BLOCK + "LayerNorm_1", "gamma"), SAME),
    ("blocks.{i}.channel_mixing.norm.bias", _keras(_BLOCK + "LayerNorm_1", "beta"), SAME),
    ("blocks.{i}.channel_mixing.dense_0.kernel", _keras(_CHANNEL + "0", "kernel"), SAME),
    ("blocks.{i}.channel_mixing.dense_0.bias", _keras(_CHANNEL + "0", "bias"), SAME),
    ("blocks.{i}.channel_mixing.dense_1.kernel", _keras(_CHANNEL + "1", "kernel"), SAME),
    ("blocks.{i}.channel_mixing.dense_1.bias", _keras(_CHANNEL + "1", "bias"), SAME),
    ("norm.scale", _keras("pre_head_layer_norm", "gamma"), SAME),
    ("norm.bias", _keras("pre_head_layer_norm", "beta"), SAME),
    ("head.kernel", _keras("head", "kernel"), SAME),
    ("head.bias", _keras("head", "bias"), SAME),
)

KECAM = Layout(
    name="kecam",
    families=("mixer",),
    origin="leondgarse/keras_cv_attention_models",
    source="mlp_family/mlp_mixer.py",
    table=TABLE,
    containers=("h5",),
    runs=_OWN,
    trained=(TANH, _OWN),
    because="its published files are Google's weights, trained with tanh; its own training has erf",
    arguments=lambda wanted: (
        f"activation={'gelu/app' if wanted.gelu == 'tanh' else 'gelu'!r}, and before that "
        f"mlp_mixer.BATCH_NORM_EPSILON = {wanted.epsilon:g}; "
        "classifier_activation=None for logits"
    ),
)
