"""keras_cv_attention_models' ``MLPMixer*`` as ``save_weights("….h5")`` stores it, on either backend."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from mixer_converters.semantics import Semantics

from .google import TABLE, TANH
from .layout import Layout, Row

_OWN = Semantics(gelu="none", epsilon=1e-5, gate_epsilon=1e-5)

_TENSORFLOW = {
    "norm.scale": "gamma:0",
    "norm.bias": "beta:0",
    "kernel": "kernel:0",
    "bias": "bias:0",
}
_TORCH = {"norm.scale": "weight", "norm.bias": "bias", "kernel": "weight", "bias": "bias"}
"""What each backend calls the weights of a norm, and of any other layer, by the end of our name."""


def _table(leaves: Mapping[str, str]) -> tuple[Row, ...]:
    """Google's layers and axes; Keras makes a group of a layer's name, which the weight repeats."""
    return tuple(
        (canonical, f"{layer}/{layer}/{leaf}", how)
        for canonical, google, how in TABLE
        for layer in [google.rpartition("/")[0]]
        for leaf in [next(leaf for end, leaf in leaves.items() if str(canonical).endswith(end))]
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
