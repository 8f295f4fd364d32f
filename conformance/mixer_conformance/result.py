"""What the suite says of one case: a status, how close to the limit, which stage, and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mixer_spec.backend import Profile

from .judge import TapJudgement

if TYPE_CHECKING:
    from .diagnosis import Diagnosis

Status = Literal["pass", "fail", "expected_fail", "unexpected_pass", "unsupported", "error"]
"""``error``: the backend raised or hung. ``expected_fail``: excused, and it does fail."""

GOOD: tuple[Status, ...] = ("pass", "expected_fail")
"""The statuses that leave a backend conformant; an unsupported case proves nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The outcome of one case family on one model.

    Args:
        case: the family, as in ``F05``.
        model: the model of the zoo.
        profile: the arithmetic that was claimed.
        level: of the case: 0 structure, 1 logits, 2 taps, 3 gradients, 4 optimiser.
        status: the outcome.
        margin: the worst error as a fraction of its tolerance, 1 just passes; infinite where a
            rule without a tolerance was broken; ``None`` where nothing was measured.
        culprit: the tap, weight or argument at fault.
        message: what was found, in a sentence.
        seconds: how long it took.
        taps: the judgements behind the message, in the order of computation; empty where no taps
            were judged.
        limits: of weights, the smallest relative change that would have been found; infinite
            where none was.
        diagnosis: the known mistake that explains a failure.
    """

    case: str
    model: str
    profile: Profile
    level: int
    status: Status
    margin: float | None = None
    culprit: str | None = None
    message: str = ""
    seconds: float = 0.0
    taps: tuple[TapJudgement, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    diagnosis: Diagnosis | None = None

    @property
    def id(self) -> str:
        """``F05/mixer/f32-strict``: what an excuse names."""
        return f"{self.case}/{self.model}/{self.profile}"

    def to_data(self) -> dict[str, Any]:
        """The result as plain data; an infinite margin or limit is the string ``"infinite"``."""
        return {
            "id": self.id,
            "case": self.case,
            "model": self.model,
            "profile": self.profile,
            "level": self.level,
            "status": self.status,
            "margin": _number(self.margin),
            "culprit": self.culprit,
            "message": self.message,
            "diagnosis": self.diagnosis.to_data() if self.diagnosis else None,
            "seconds": round(self.seconds, 3),
            "limits": {name: _number(limit) for name, limit in self.limits.items()},
            "taps": [_tap_data(tap) for tap in self.taps],
        }


def _tap_data(tap: TapJudgement) -> dict[str, Any]:
    """A stage's own error, then all of it from the inputs on, as root mean squares."""
    local, whole = tap.local, tap.end_to_end
    return {
        "tap": tap.tap,
        "local_margin": _number(local.margin if local else None),
        "bits": _number(local.bits if local and local.bits > -math.inf else None),
        "margin": _number(whole.margin if whole else None),
        "error": _number(whole.deviation.rms if whole else None),
        "noise": _number(whole.tolerance.yardstick.rms if whole else None),
        "tolerance": _number(whole.tolerance.rms if whole else None),
    }


def _number(value: float | None) -> float | str | None:
    """As JSON can have it; what is not a number at all is nothing that passes either."""
    return value if value is None or math.isfinite(value) else "infinite"


def exit_code(results: Iterable[Result]) -> int:
    """0 conformant, 1 not, 3 the backend raised or hung, 4 nothing was executed.

    Example:
        >>> exit_code([])
        4
    """
    return exit_code_of(result.status for result in results)


def exit_code_of(statuses: Iterable[Status]) -> int:
    """:func:`exit_code` of nothing but the statuses."""
    statuses = list(statuses)
    if all(status == "unsupported" for status in statuses):
        return 4
    if "error" in statuses:
        return 3
    return 0 if all(status in (*GOOD, "unsupported") for status in statuses) else 1


def is_conformant(results: Iterable[Result]) -> bool:
    """Whether something was executed and nothing was found."""
    return exit_code(results) == 0
