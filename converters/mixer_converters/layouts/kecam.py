"""keras_cv_attention_models' ``MLPMixer*`` as ``save_weights("….h5")`` stores it, on either backend."""

from __future__ import annotations

import dataclasses

from mixer_converters.semantics import Semantics

from .google import TANH, TRANSPOSED
from .layout import Layout, Row
from .rearrange import SAME

_OWN = Semantics(gelu="none", epsilon=1e-5, gate_epsilon=1e-5)

_TENSORFLOW = {"kernel": "kernel:0", "bias": "bias:0", "scale": "gamma:0", "shift": "beta:0"}
_TORCH = {"kernel": "weight", "bias": "bias", "scale": "weight", "shift": "bias"}
"""What each backend calls the weights of a dense layer, and of a norm; their axes are the same."""


def _table(leaves: dict[str, str]) -> tuple[Row, ...]:
    def place(layer: str, leaf: str) -> str:
        """Keras makes a group of the layer's name, and the weight's name repeats it."""
        return f"{layer}/{layer}/{leaves[leaf]}"

    block, own = "blocks.{i}.", "MixerBlock_{i}/"
    token, channel = own + "token_mixing/Dense_", own + "channel_mixing/Dense_"
    return (
        ("stem.kernel", place("stem", "kernel"), SAME),
        ("stem.bias", place("stem", "bias"), SAME),
        (block + "token_mixing.norm.scale", place(own + "LayerNorm_0", "scale"), SAME),
        (block + "token_mixing.norm.bias", place(own + "LayerNorm_0", "shift"), SAME),
        (block + "token_mixing.dense_0.kernel", place(token + "0", "kernel"), TRANSPOSED),
        (block + "token_mixing.dense_0.bias", place(token + "0", "bias"), SAME),
        (block + "token_mixing.dense_1.kernel", place(token + "1", "kernel"), TRANSPOSED),
        (block + "token_mixing.dense_1.bias", place(token + "1", "bias"), SAME),
        (block + "channel_mixing.norm.scale", place(own + "LayerNorm_1", "scale"), SAME),
        (block + "channel_mixing.norm.bias", place(own + "LayerNorm_1", "shift"), SAME),
        (block + "channel_mixing.dense_0.kernel", place(channel + "0", "kernel"), SAME),
        (block + "channel_mixing.dense_0.bias", place(channel + "0", "bias"), SAME),
        (block + "channel_mixing.dense_1.kernel", place(channel + "1", "kernel"), SAME),
        (block + "channel_mixing.dense_1.bias", place(channel + "1", "bias"), SAME),
        ("norm.scale", place("pre_head_layer_norm", "scale"), SAME),
        ("norm.bias", place("pre_head_layer_norm", "shift"), SAME),
        ("head.kernel", place("head", "kernel"), SAME),
        ("head.bias", place("head", "bias"), SAME),
    )


KECAM = Layout(
    name="kecam",
    families=("mixer",),
    origin="leondgarse/keras_cv_attention_models",
    source="mlp_family/mlp_mixer.py",
    table=_table(_TENSORFLOW),
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

KECAM_TORCH = dataclasses.replace(
    KECAM,
    name="kecam_torch",
    source="mlp_family/mlp_mixer.py, with KECAM_BACKEND=torch",
    table=_table(_TORCH),
)
