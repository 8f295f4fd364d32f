"""Excuses: known failures, in the backend's own TOML file, each with a reason and an end.

A file has one table for each::

    [[excuse]]
    case = "F06/mixer/f32-strict"     # or "F06", or "F06/mixer"
    reason = "the engine computes the variance in one pass"
    issue = "https://example.org/issues/1"
    expires = 2027-01-01

An excused case is run all the same. If it passes, or the excuse's day is over, or it fits no case
that was run, that is a failure of its own: excuses do not outlive what they excuse.
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mixer_spec.errors import FileError

from .result import Result


@dataclass(frozen=True, kw_only=True, slots=True)
class Excuse:
    """One known failure.

    Args:
        case: the beginning of a result's id: a family, and a model, and a profile.
        reason: why it fails.
        issue: where it is followed up.
        expires: the last day that it counts.
    """

    case: str
    reason: str
    issue: str
    expires: datetime.date

    def fits(self, result: Result) -> bool:
        """Whether it is about this result."""
        mine = self.case.split("/")
        return result.id.split("/")[: len(mine)] == mine


def read_excuses(path: Path) -> tuple[Excuse, ...]:
    """The excuses of a file.

    Raises:
        FileError: if it cannot be read, or an excuse lacks something.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FileError(str(path), f"cannot be read as TOML; got: {error}") from None
    problems, found = [], []
    tables = data.get("excuse", [])
    if not isinstance(tables, list) or data.keys() - {"excuse"}:
        raise FileError(str(path), "expected nothing but [[excuse]] tables")
    expected = {"case": str, "reason": str, "issue": str, "expires": datetime.date}
    for number, table in enumerate(tables, 1):
        wrong = [
            name
            for name, kind in expected.items()
            if not isinstance(table.get(name), kind) or not table[name]
        ]
        if wrong or table.keys() - expected:
            problems.append(
                f"excuse {number}: expected {list(expected)}, each filled in, got {list(table)}; "
                f"missing or of another type: {wrong}"
            )
        else:
            found.append(Excuse(**table))
    if problems:
        raise FileError(str(path), problems)
    return tuple(found)


def excused(result: Result, excuses: Sequence[Excuse]) -> Result:
    """The result in the light of the excuses: an expected failure, or an unexpected pass."""
    excuse = next((excuse for excuse in excuses if excuse.fits(result)), None)
    if excuse is None or result.status == "unsupported":
        return result
    told = f"excused until {excuse.expires}: {excuse.reason} ({excuse.issue})"
    if result.status == "pass":
        return replace(
            result,
            status="unexpected_pass",
            message=f"passes, but is {told}; do remove the excuse",
        )
    if excuse.expires < datetime.date.today():
        return replace(result, message=f"the excuse ran out on {excuse.expires}; {result.message}")
    return replace(result, status="expected_fail", message=f"{told}; {result.message}")


def stale(excuses: Sequence[Excuse], results: Sequence[Result]) -> list[Excuse]:
    """The excuses that fit no result.

    Args:
        excuses: of a backend's file.
        results: of a run of everything; a smaller run leaves excuses unused that are none.
    """
    return [e for e in excuses if not any(e.fits(result) for result in results)]
