"""What the suite says of one case: a status, how close to the limit, which stage, and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mixer_spec.backend import Profile

from .judge import TapJudgement

Status = Literal["pass", "fail", "expected_fail", "unexpected_pass", "unsupported", "error"]
"""``error``: the backend raised or hung. ``expected_fail``: excused, and it does fail."""

GOOD: tuple[Status, ...] = ("pass", "expected_fail")
"""The statuses that leave a backend conformant; an unsupported case proves nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TapScore:
    """One judged tap in numbers: its own error, then all of it from the inputs on.

    Args:
        tap: its name.
        local_margin: its own error as a fraction of its tolerance.
        bits: that are right of its own result.
        margin: the whole error as a fraction of its tolerance.
        error: the whole error, relative root mean square, as the two that follow.
        noise: of float32 itself.
        tolerance: what is allowed.
    """

    tap: str
    local_margin: float | None
    bits: float | None
    margin: float | None
    error: float | None
    noise: float | None
    tolerance: float | None

    @classmethod
    def of(cls, judged: TapJudgement) -> TapScore:
        """The numbers of a judgement; ``None`` where there was nothing to judge."""
        local, whole = judged.local, judged.end_to_end
        return cls(
            tap=judged.tap,
            local_margin=local.margin if local else None,
            bits=local.bits if local and local.bits > -math.inf else None,
            margin=whole.margin if whole else None,
            error=whole.deviation.rms if whole else None,
            noise=whole.tolerance.yardstick.rms if whole else None,
            tolerance=whole.tolerance.rms if whole else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """What a diagnosis came to.

    Args:
        stage: the first bad one.
        mistake: the known mistake that explains most, if any does.
        explained: its share of the error.
        sentence: all that in words.
    """

    stage: str
    mistake: str | None
    explained: float | None
    sentence: str


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
    taps: tuple[TapScore, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    diagnosis: Explanation | None = None

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
            "diagnosis": asdict(self.diagnosis) if self.diagnosis else None,
            "seconds": round(self.seconds, 3),
            "limits": _numbers(self.limits),
            "taps": [_numbers(asdict(tap)) for tap in self.taps],
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Result:
        """What :meth:`to_data` made.

        Example:
            >>> one = Result(case="F05", model="mixer", profile="f32-strict", level=1,
            ...              status="fail", margin=math.inf, limits={"stem.bias": 0.5})
            >>> Result.from_data(one.to_data()) == one
            True
        """
        given = _read({name: data[name] for name in cls.__dataclass_fields__})
        given["limits"] = _read(data["limits"])
        given["taps"] = tuple(TapScore(**_read(tap)) for tap in data["taps"])
        given["diagnosis"] = Explanation(**data["diagnosis"]) if data["diagnosis"] else None
        return cls(**given)


def _numbers(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _number(n) if isinstance(n, float) else n for name, n in numbers.items()}


def _read(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.inf if value == "infinite" else value for name, value in data.items()}


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
