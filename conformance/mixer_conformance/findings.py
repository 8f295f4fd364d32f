"""What a case found at one place: a margin, the stage at fault, and a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .judge import TapJudgement
from .measure import Array
from .tolerance import K_MAX, K_RMS, Judgement


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a case looked at.

    Args:
        margin: the error as a fraction of its tolerance; 1 just passes, and infinite is a rule
            without a tolerance that was broken.
        message: what was seen, with the tolerance's derivation.
        culprit: the tap, weight or argument.
        taps: the judgements that it rests on, in the order of computation; empty where none were.
        limits: of weights, the smallest relative change that would have been found.
    """

    margin: float
    message: str
    culprit: str | None = None
    taps: tuple[TapJudgement, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether it is within its tolerance."""
        return self.margin <= 1.0


def of_rule(kept: bool, message: str, culprit: str | None = None) -> Finding:
    """A rule without a tolerance."""
    return Finding(0.0 if kept else math.inf, message, culprit)


def of_bits(found: Array, expected: Array, what: str, culprit: str | None = None) -> Finding:
    """Two arrays that must be equal in every value; two NaNs are."""
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    if same.all():
        return Finding(0.0, f"{what}: equal in every bit", culprit)
    index = [int(i) for i in np.argwhere(~same)[0]]
    return Finding(
        math.inf,
        f"{what}: {int((~same).sum())} of {same.size} values differ, the first at index {index}: "
        f"expected {expected[tuple(index)]:.9g}, got {found[tuple(index)]:.9g}",
        culprit,
    )


def of_taps(taps: Sequence[TapJudgement]) -> Finding:
    """A judged run: its worst margin, and the first stage at fault.

    A stage whose own step is wrong is at fault before one that is only off end to end.
    """
    judged = [tap for tap in taps if tap.judgements]
    if not judged:
        return Finding(math.inf, "nothing came back that could be judged")
    at_fault = [tap for tap in judged if tap.local is not None and not tap.local.passed]
    off = at_fault or [tap for tap in judged if not tap.passed]
    worst = max(judged, key=_margin)
    shown = off[0] if off else worst
    return Finding(_margin(worst), explained(shown), shown.tap, tuple(taps))


def explained(tap: TapJudgement) -> str:
    """Why a tap passes or not, with the derivation of its tolerance."""
    judgement = next((j for j in tap.judgements if not j.passed), None)
    if judgement is None:
        judgement = max(tap.judgements, key=lambda j: j.margin)
    found, allowed = judgement.deviation, judgement.tolerance
    kind = "from its own previous tap" if judgement is tap.local else "from the inputs on"
    if not found.finite:
        return f"{tap.tap}, {kind}: not finite at index {list(found.worst)} (the sample first)"
    values = f": expected {found.pair[0]:.9g}, got {found.pair[1]:.9g}" if found.pair else ""
    return (
        f"{tap.tap}, {kind}: error {found.rms:.1e} rms, {found.max:.1e} max at index "
        f"{list(found.worst)} (the sample first){values}; tolerance {allowed.rms:.1e} rms = "
        f"{K_RMS:g} x max(yardstick {allowed.yardstick.rms:.1e}, floor {allowed.floor:.1e}), "
        f"{allowed.max:.1e} max = {K_MAX:g} x the same; {_how_far(judgement)}"
    )


def _margin(tap: TapJudgement) -> float:
    return max(judgement.margin for judgement in tap.judgements)


def _how_far(judgement: Judgement) -> str:
    margin = judgement.margin
    return f"{margin:.2f} of the tolerance" if margin <= 1 else f"{margin:.3g} x over"


def summed_up(findings: Iterable[Finding]) -> Finding:
    """The worst margin, the first failure's message and taps, or the worst's, and every limit."""
    seen = list(findings)
    if not seen:
        return Finding(math.inf, "the case looked at nothing")
    worst = max(seen, key=lambda finding: finding.margin)
    shown = next((finding for finding in seen if not finding.passed), worst)
    limits = {name: limit for finding in seen for name, limit in finding.limits.items()}
    return replace(shown, margin=worst.margin, limits=limits)
