"""Mistakes in the arithmetic, and the other families' layers."""

from __future__ import annotations

import numpy as np

from mixer_spec import layers
from mixer_spec.reference import Arithmetic

from . import mistakes as wrong
from .changes import (
    Float16Sums,
    Truncated,
    at,
    edited,
    ignored,
    rounded_at,
    swapped,
    to_bfloat16,
    to_float16,
    to_int8,
    to_tf32,
    transposed,
    truncated,
    zeroed,
)
from .mutant import Known, Mutant, known

_TOKENS0, _CHANNELS0 = "blocks.0.token_mixing", "blocks.0.channel_mixing"
_TOKENS1, _CHANNELS1 = "blocks.1.token_mixing", "blocks.1.channel_mixing"


# --- arithmetic --------------------------------------------------------------------------------


def _strict_but(tap: str, other: Arithmetic) -> Mutant:
    return Mutant(arithmetic=lambda name: other if name == tap else Arithmetic(np.float32))


ARITHMETIC = (
    known("bfloat16 products", Mutant(arithmetic=rounded_at(by=to_bfloat16)), "stem"),
    known("float16 products", Mutant(arithmetic=rounded_at(by=to_float16)), "stem"),
    known("int8 products", Mutant(arithmetic=rounded_at(by=to_int8)), "stem"),
    known("TF32 products", Mutant(arithmetic=rounded_at(by=to_tf32)), "stem"),
    known("TF32 in the stem alone", Mutant(arithmetic=rounded_at("stem", by=to_tf32)), "stem"),
    known("TF32 in one branch", Mutant(arithmetic=rounded_at(_CHANNELS1, by=to_tf32)), _CHANNELS1),
    known("TF32 in the head", Mutant(arithmetic=rounded_at("logits", by=to_tf32)), "logits"),
    known("float16 sums", _strict_but(_TOKENS0, Float16Sums()), _TOKENS0),
    known(
        "stream kept in bfloat16",
        Mutant(after=at(_TOKENS0, lambda x, y: to_bfloat16(y))),
        _TOKENS0,
    ),
    known(
        "stream kept in float16",
        Mutant(after=at(_CHANNELS0, lambda x, y: to_float16(y))),
        _CHANNELS0,
    ),
    Known(
        name="truncation instead of rounding",
        backend=Mutant(arithmetic=lambda tap: Truncated(), after=lambda tap, x, y: truncated(y)),
        model="deep",
        stage=None,
        killer="F28",
    ),
    Known(
        name="bfloat16 products under TF32's name",
        backend=Mutant(arithmetic=rounded_at(by=to_bfloat16), profiles=("f32-tf32",)),
        model="mixer",
        stage="stem",
        profile="f32-tf32",
    ),
    Known(
        name="TF32 under float32's name, on the probe",
        backend=Mutant(arithmetic=rounded_at("logits", by=to_tf32)),
        model="probe",
        stage="head",
        killer="F26",
    ),
    Known(
        name="float16 sums, on the probe",
        backend=_strict_but("stem", Float16Sums()),
        model="probe",
        stage="stem",
        killer="F02",
    ),
)

# --- the other families ------------------------------------------------------------------------

FAMILIES = (
    *(
        known(name, mutant, stage, "resmlp")
        for name, mutant, stage in (
            ("layer scale ignored", Mutant(compute={layers.LayerScale: ignored}), _TOKENS0),
            (
                "affine's bias before its scale",
                Mutant(compute={layers.Affine: wrong.bias_before_scale}),
                _TOKENS0,
            ),
            ("affine as a norm", Mutant(compute={layers.Affine: wrong.affine_as_norm}), _TOKENS0),
            ("affine ignored", Mutant(compute={layers.Affine: ignored}), _TOKENS0),
            (
                "layer scale of the other branch",
                Mutant(weights=swapped(f"{_TOKENS1}.scale.", f"{_CHANNELS1}.scale.")),
                _TOKENS1,
            ),
        )
    ),
    *(
        known(name, mutant, stage, "gmlp")
        for name, mutant, stage in (
            (
                "gate on the first half",
                Mutant(compute={layers.SpatialGate: wrong.gate_on_the_first_half}),
                "blocks.0.gated_mixing",
            ),
            (
                "gate added",
                Mutant(compute={layers.SpatialGate: wrong.gate_added}),
                "blocks.0.gated_mixing",
            ),
            (
                "gate's halves interleaved",
                Mutant(compute={layers.SpatialGate: wrong.gate_interleaved}),
                "blocks.0.gated_mixing",
            ),
            (
                "gate around one",
                Mutant(compute={layers.SpatialGate: wrong.gate_around_one}),
                "blocks.0.gated_mixing",
            ),
            (
                "gate's bias dropped",
                Mutant(weights=zeroed("blocks.1.gated_mixing.gate.dense_0.bias")),
                "blocks.1.gated_mixing",
            ),
            (
                "gate's kernel transposed",
                Mutant(weights=transposed("blocks.0.gated_mixing.gate.dense_0.kernel")),
                "blocks.0.gated_mixing",
            ),
        )
    ),
    known(
        "gated unit on the first half",
        Mutant(spec=edited('"gate":"second"', '"gate":"first"')),
        _TOKENS0,
        "gmixer",
    ),
    known(
        "gated unit interleaved",
        Mutant(compute={layers.GatedUnit: wrong.unit_on_the_other_axis}),
        _TOKENS0,
        "gmixer",
    ),
    *(
        known(name, Mutant(compute={layers.Attention: function}), _TOKENS0, "vit")
        for name, function in {
            "attention scaled by all channels": wrong.attention_scale,
            "attention heads interleaved": wrong.interleaved_heads,
            "query and key swapped": wrong.query_for_key,
            "one head": wrong.one_head,
            "value's bias dropped": wrong.attention_without_value_bias,
        }.items()
    ),
    known(
        "class token left out of the mean",
        Mutant(compute={layers.MeanPool: wrong.pooled_without_the_class_token}),
        "pooled",
        "vit_mean",
    ),
)
