"""What the runs could not have found: changes too small to see, and what was not looked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .shown import number

_FINEST, _COARSEST = -24, -6
"""Powers of two that a bar goes from and to: float32's own rounding, and what is tried at most."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One weight.

    Args:
        name: of the weight.
        seen: the smallest change that would have been found, in words.
        bar: its place between float32's own rounding and 1/64, in percent.
        hidden: whether not even 1/64 would have been found.
    """

    name: str
    seen: str
    bar: float
    hidden: bool


@dataclass(frozen=True, slots=True)
class BlindSpots:
    """The weights of one model, the least visible first, and whom it was measured for.

    Args:
        model: its name.
        who: the runs that it holds for; none where it holds for all of them.
        limits: of every weight.
        hidden: names of those of which nothing would have been found.
    """

    model: str
    who: tuple[str, ...]
    limits: tuple[Limit, ...]
    hidden: tuple[str, ...]


def blind_spots(runs: Sequence[dict[str, Any]]) -> list[BlindSpots]:
    """The measured limits; runs that have the same ones stand together."""
    found: dict[tuple[str, tuple[tuple[str, Any], ...]], list[str]] = {}
    for run in runs:
        for result in run["results"]:
            if result["limits"]:
                key = result["model"], tuple(result["limits"].items())
                found.setdefault(key, []).append(f"{run['backend']} · {run['profile']}")
    every = len({(run["backend"], run["profile"]) for run in runs})
    return [
        _spots(model, dict(limits), () if len(set(who)) == every else who)
        for (model, limits), who in found.items()
    ]


def _spots(model: str, limits: dict[str, Any], who: Sequence[str]) -> BlindSpots:
    made = sorted(map(_limit, limits.items()), key=lambda limit: (-limit.bar, limit.name))
    return BlindSpots(
        model=model,
        who=tuple(dict.fromkeys(who)),
        limits=tuple(made),
        hidden=tuple(limit.name for limit in made if limit.hidden),
    )


def _limit(item: tuple[str, Any]) -> Limit:
    name, given = item
    change = number(given)
    if change is None or change == math.inf:
        return Limit(name, "not at 1/64", 100.0, hidden=True)
    power = math.log2(change)
    share = (power - _FINEST) / (_COARSEST - _FINEST)
    return Limit(name, f"{change:.1e}", round(100 * min(max(share, 0.02), 1.0), 1), hidden=False)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A family that looked at nothing in some runs.

    Args:
        case: its id.
        catches: what it is for.
        reasons: of each reason, the runs; none where it holds for all of them.
    """

    case: str
    catches: str
    reasons: tuple[tuple[str, tuple[str, ...]], ...]


def left_out(runs: Sequence[dict[str, Any]]) -> list[LeftOut]:
    """The families that any run left out."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for run in runs:
        for family in run["not_run"]:
            reasons = found.setdefault((family["case"], family["catches"]), {})
            reasons.setdefault(family["why"], []).append(f"{run['backend']} · {run['profile']}")
    return [
        LeftOut(
            case,
            catches,
            tuple((why, () if len(who) == len(runs) else tuple(who)) for why, who in given.items()),
        )
        for (case, catches), given in sorted(found.items())
    ]
