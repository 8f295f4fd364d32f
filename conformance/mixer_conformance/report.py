"""What `verify` found out, as plain values and as JSON."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .judge import TapJudgement
from .measure import Deviation
from .tolerance import K_MAX, K_RMS, Judgement, Tolerance

SCHEMA_VERSION = 1
"""The version of the JSON form."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendReport:
    """The verdict on one backend.

    Args:
        name: what it calls itself.
        versions: of its packages.
        device: where it computed.
        sees_taps: whether it was judged at every tap, or at its logits only.
        crash: the error that it raised, without the traceback, or ``None``.
        problems: rules of the protocol that it broke, by the tap or weight: shapes, dtypes, bits.
        taps: its numbers, in the order of computation; empty after a crash.
        seconds: how long loading and running took.
    """

    name: str
    versions: Mapping[str, str]
    device: str
    sees_taps: bool
    crash: str | None
    problems: Mapping[str, str]
    taps: tuple[TapJudgement, ...]
    seconds: float

    @property
    def conformant(self) -> bool:
        """Whether it ran, kept every rule and every tolerance."""
        return self.crash is None and not self.problems and all(t.passed for t in self.taps)

    @property
    def first_bad_stage(self) -> str | None:
        """The first tap whose own step is at fault; else the first that is off end to end."""
        at_fault = (
            t.tap for t in self.taps if t.tap in self.problems or (t.local and not t.local.passed)
        )
        off = (t.tap for t in self.taps if not t.passed)
        return next(itertools.chain(at_fault, off), None)

    @property
    def worst(self) -> tuple[str, Judgement] | None:
        """The tap with the largest margin and its judgement."""
        judged = [(t.tap, judgement) for t in self.taps for judgement in t.judgements]
        return max(judged, key=lambda pair: pair[1].margin, default=None)

    def to_data(self) -> dict[str, Any]:
        """The report as plain data; an infinite number is ``null``."""
        worst = self.worst
        return {
            "name": self.name,
            "versions": dict(self.versions),
            "device": self.device,
            "judged": "taps" if self.sees_taps else "logits",
            "conformant": self.conformant,
            "crash": self.crash,
            "problems": dict(self.problems),
            "first_bad_stage": self.first_bad_stage,
            "worst_tap": worst[0] if worst else None,
            "margin": _number(worst[1].margin) if worst else None,
            "seconds": round(self.seconds, 3),
            "taps": [_tap_data(tap) for tap in self.taps],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The verdict on several backends for one spec.

    Args:
        name: what the spec is called.
        fingerprint: of the spec.
        seed: of the weights and inputs; ``None`` where both were given.
        batch: number of inputs.
        yardstick_runs: number of float32 reference runs behind the tolerances.
        versions: of what judged.
        backends: one report each, in the order they were given.
        seconds: how long all of it took.
    """

    name: str
    fingerprint: str
    seed: int | None
    batch: int
    yardstick_runs: int
    versions: Mapping[str, str]
    backends: tuple[BackendReport, ...]
    seconds: float

    @property
    def conformant(self) -> bool:
        """Whether every backend is."""
        return bool(self.backends) and all(backend.conformant for backend in self.backends)

    def to_data(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "profile": "f32-strict",
            "seed": self.seed,
            "batch": self.batch,
            "tolerance": {
                "k_rms": K_RMS,
                "k_max": K_MAX,
                "yardstick_runs": self.yardstick_runs,
            },
            "versions": dict(self.versions),
            "conformant": self.conformant,
            "seconds": round(self.seconds, 3),
            "backends": [backend.to_data() for backend in self.backends],
        }


def _tap_data(tap: TapJudgement) -> dict[str, Any]:
    return {
        "tap": tap.tap,
        "local": _judgement_data(tap.local),
        "end_to_end": _judgement_data(tap.end_to_end),
    }


def _judgement_data(judgement: Judgement | None) -> dict[str, Any] | None:
    if judgement is None:
        return None
    return {
        "passed": judgement.passed,
        "margin": _number(judgement.margin),
        "bits": _number(judgement.bits),
        "finite": judgement.deviation.finite,
        **_deviation_data(judgement.deviation),
        "tolerance": _tolerance_data(judgement.tolerance),
    }


def _deviation_data(deviation: Deviation) -> dict[str, Any]:
    return {
        "rms": _number(deviation.rms),
        "max": _number(deviation.max),
        "worst_index": list(deviation.worst),
    }


def _tolerance_data(tolerance: Tolerance) -> dict[str, Any]:
    return {
        "rms": _number(tolerance.rms),
        "max": _number(tolerance.max),
        "yardstick_rms": _number(tolerance.yardstick.rms),
        "yardstick_max": _number(tolerance.yardstick.max),
        "floor_rms": _number(tolerance.floor),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
