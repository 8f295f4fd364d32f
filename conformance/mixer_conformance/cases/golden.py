"""F01 and F04: every tap against float64."""

from __future__ import annotations

from collections.abc import Iterator

from mixer_conformance.findings import Finding

from .base import EVERY, Case, Trial, on, on_every


def _check(trial: Trial) -> Iterator[Finding]:
    yield trial.judged(trial.standard)


F01 = Case(
    id="F01",
    title="Every tap of conformance weights and inputs, from its own previous tap and end to end",
    catches="any wrong operation; the first bad stage is the one at fault",
    level=1,
    suits=lambda model, spec: on_every(model, spec) and model.name != "square",
    check=_check,
    profiles=EVERY,
)

F04 = Case(
    id="F04",
    title="The same where tokens, channels and hidden widths are equal",
    catches="a transpose too many or too few, which only fits where two sizes are equal",
    level=1,
    suits=on("square"),
    check=_check,
    profiles=EVERY,
)
