"""What the suite says of one case: a status, how close to the limit, which stage, and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mixer_spec.backend import Profile

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

    @property
    def id(self) -> str:
        """``F05/mixer/f32-strict``: what an excuse names."""
        return f"{self.case}/{self.model}/{self.profile}"

    def to_data(self) -> dict[str, Any]:
        """The result as plain data; an infinite margin is the string ``"infinite"``."""
        return {
            "id": self.id,
            "case": self.case,
            "model": self.model,
            "profile": self.profile,
            "level": self.level,
            "status": self.status,
            "margin": "infinite" if self.margin == math.inf else self.margin,
            "culprit": self.culprit,
            "message": self.message,
            "seconds": round(self.seconds, 3),
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Result:
        """What :meth:`to_data` made.

        Example:
            >>> one = Result(case="F05", model="mixer", profile="f32-strict", level=1,
            ...              status="fail", margin=math.inf)
            >>> Result.from_data(one.to_data()) == one
            True
        """
        given = {name: data[name] for name in cls.__dataclass_fields__}
        if given["margin"] == "infinite":
            given["margin"] = math.inf
        return cls(**given)


def exit_code(results: Iterable[Result]) -> int:
    """0 conformant, 1 not, 3 the backend raised or hung, 4 nothing was executed.

    Example:
        >>> exit_code([])
        4
    """
    statuses = [result.status for result in results]
    if all(status == "unsupported" for status in statuses):
        return 4
    if "error" in statuses:
        return 3
    return 0 if all(status in (*GOOD, "unsupported") for status in statuses) else 1


def is_conformant(results: Iterable[Result]) -> bool:
    """Whether something was executed and nothing was found."""
    return exit_code(results) == 0
