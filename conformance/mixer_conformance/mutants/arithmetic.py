"""Mistakes in the arithmetic."""

from __future__ import annotations

import numpy as np

from mixer_conformance.measure import Array
from mixer_spec.reference import Arithmetic

from .changes import (
    Float16Sums,
    Truncated,
    at,
    rounded_at,
    to_bfloat16,
    to_float16,
    to_int8,
    to_tf32,
    truncated,
)
from .mutant import Known, Mutant, known

_TOKENS0, _CHANNELS0 = "blocks.0.token_mixing", "blocks.0.channel_mixing"
_TOKENS1, _CHANNELS1 = "blocks.1.token_mixing", "blocks.1.channel_mixing"


# --- arithmetic --------------------------------------------------------------------------------


def _strict_but(tap: str, other: Arithmetic) -> Mutant:
    return Mutant(arithmetic=lambda name: other if name == tap else Arithmetic(np.float32))


def _one_unit_off(x: Array, y: Array) -> Array:
    y = y.copy()
    y.flat[-1] = np.nextafter(y.flat[-1], y.dtype.type(0))
    return y


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
    Known(
        name="one value off by one unit in its last place",
        backend=Mutant(after=at(_CHANNELS1, _one_unit_off)),
        model="probe",
        stage=_CHANNELS1,
        killer="F02",
    ),
)
