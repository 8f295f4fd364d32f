"""The suite's and the backends' scores in the README, and the file of measurements behind them.

``python -m mixer_conformance.scores measure docs/conformance.json`` audits the suite with every
mutant and judges the backends in full, which takes minutes.
``python -m mixer_conformance.scores tables docs/conformance.json README.md`` writes the tables
anew, between ``<!-- conformance: begin backends -->``, or ``begin mutants``, and
``<!-- conformance: end -->``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixer_spec.backend import load_backend
from mixer_spec.errors import FileError, InputError, MixerSpecError
from mixer_spec.markdown import with_tables

from .audit import Audit, Verdict, audit
from .cases import CASES
from .outputs import write
from .result import Result
from .suite import run

BACKENDS = ("jax", "torch", "onnxruntime")

_LIMIT = 900.0
"""Seconds of one call, so that a busy machine is no finding."""

_LEVELS = ("structure", "logits", "taps", "gradients", "optimiser")


# --- measuring ------------------------------------------------------------------------------


def measure() -> dict[str, Any]:
    """Audit the suite, and judge every backend at every level in float32."""
    return {
        "suite": of_audit(audit()),
        "backends": [
            {"backend": name, "versions": dict(load_backend(name).info().versions)}
            | of_results(run(name, level=4, effort="full", limit=_LIMIT))
            for name in BACKENDS
        ],
    }


def of_audit(found: Audit) -> dict[str, Any]:
    """What is kept of an audit: each mutant's outcome, and the false alarms."""
    return {
        "mutants": [of_verdict(verdict) for verdict in found.verdicts],
        "false_alarms": list(found.survivors),
    }


def of_verdict(verdict: Verdict) -> dict[str, Any]:
    """One mutant: ``None`` where there is no one place to locate, or no error to name."""
    return {
        "name": verdict.name,
        "family": verdict.expected,
        "killed": verdict.killed,
        "located": verdict.located_rightly if verdict.stage is not None else None,
        "named": verdict.named_rightly if verdict.nameable else None,
        "margin": "infinite" if verdict.margin == math.inf else verdict.margin,
    }


def of_results(results: Sequence[Result]) -> dict[str, Any]:
    """What is kept of a run: of each level, how many cases passed and their worst margin."""
    levels = []
    for level, name in enumerate(_LEVELS):
        mine = [result for result in results if result.level == level and not _left_out(result)]
        passed = [result for result in mine if result.status == "pass"]
        margins = [result.margin for result in passed if result.margin is not None]
        levels.append(
            {
                "level": name,
                "cases": len(mine),
                "passed": len(passed),
                "supported": sum(result.status != "unsupported" for result in mine),
                "worst": max(margins, default=None),
            }
        )
    return {"models": len({result.model for result in results}), "levels": levels}


def _left_out(result: Result) -> bool:
    """Whether it is of no account that a backend does without this case."""
    return result.status == "unsupported" and CASES[result.case].optional


# --- tables ---------------------------------------------------------------------------------


def kill_matrix(suite: Mapping[str, Any]) -> str:
    """A Markdown table of the suite's own test: a row for each family that must kill mutants.

    Example:
        >>> mutant = {"name": "gelu by erf", "family": "F01", "killed": True, "located": True,
        ...           "named": None, "margin": 173.4}
        >>> print(kill_matrix({"mutants": [mutant], "false_alarms": []}).splitlines()[-1])
        | **all** |  | 1 of 1 | 1 of 1 | - | 173 |
    """
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for mutant in suite["mutants"]:
        rows.setdefault(mutant["family"], []).append(mutant)
    lines = [
        "| family | what it does | killed | located | named | smallest margin |",
        "| :-- | :-- | --: | --: | --: | --: |",
    ]
    for family in sorted(rows):
        lines.append(_row([family, CASES[family].title], rows[family]))
    return "\n".join([*lines, _row(["**all**", ""], suite["mutants"])])


def _row(begin: Sequence[str], mutants: Sequence[Mapping[str, Any]]) -> str:
    shares = [_share(mutant[key] for mutant in mutants) for key in ("killed", "located", "named")]
    return f"| {' | '.join([*begin, *shares, _margin(_smallest(mutants))])} |"


def _share(outcomes: Iterable[bool | None]) -> str:
    counted = [outcome for outcome in outcomes if outcome is not None]
    return f"{sum(counted)} of {len(counted)}" if counted else "-"


def _smallest(mutants: Sequence[Mapping[str, Any]]) -> float:
    return min(math.inf if m["margin"] == "infinite" else float(m["margin"]) for m in mutants)


def _margin(margin: float) -> str:
    return (
        "a rule broken" if margin == math.inf else f"{margin:,.3g}" if margin < 1000 else "> 1000"
    )


def levels_table(backends: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of the backends: the level that each reaches, and its worst margins."""
    lines = [
        "| backend | level | cases passed | worst margin, forward | gradients | optimiser |",
        "| :-- | :-- | --: | --: | --: | --: |",
    ]
    for backend in backends:
        levels = backend["levels"]
        passed = sum(level["passed"] for level in levels)
        cases = sum(level["supported"] for level in levels)
        shown = (_worst(levels[1:3]), _worst(levels[3:4]), _worst(levels[4:5]))
        cells = [
            f"{backend['backend']} {backend['versions'][backend['backend']]}",
            "none" if (level := level_of(backend)) is None else f"L{level} {_LEVELS[level]}",
            f"{passed} of {cases}",
            *("-" if worst is None else f"{worst:.2f}" for worst in shown),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def level_of(backend: Mapping[str, Any]) -> int | None:
    """The highest level up to which a backend passed everything; ``None`` if it passes none."""
    levels = backend["levels"]
    reached = (n for n in range(len(levels)) if all(_reached(one) for one in levels[: n + 1]))
    return max(reached, default=None)


def _worst(levels: Sequence[Mapping[str, Any]]) -> float | None:
    """The worst margin of some levels, if all of them were reached."""
    if not all(_reached(level) for level in levels):
        return None
    margins = (level["worst"] for level in levels)
    return max((margin for margin in margins if margin is not None), default=None)


def _reached(level: Mapping[str, Any]) -> bool:
    return bool(level["passed"] == level["cases"] > 0)


def with_scores(page: str, data: Mapping[str, Any], where: str = "page") -> str:
    """``page`` with a new table between each pair of marks.

    Raises:
        InputError: if it has no marks, one lacks its other half, or asks for another table.
    """
    made = {"backends": levels_table(data["backends"]), "mutants": kill_matrix(data["suite"])}
    asked: list[str] = []

    def table(names: Sequence[str]) -> str:
        asked.append(" ".join(names))
        return made.get(asked[-1], "")

    page = with_tables(page, where, {"conformance": table})
    if not asked or not made.keys() >= {*asked}:
        raise InputError(
            where,
            "expected `<!-- conformance: begin backends -->` or `begin mutants`, and "
            f"`<!-- conformance: end -->` behind it, got {asked}",
        )
    return page


# --- the program ----------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """``measure DATA``, or ``tables DATA PAGE``."""
    match arguments:
        case ["measure", data]:
            write(Path(data), json.dumps(measure(), indent=1) + "\n")
        case ["tables", data, page]:
            text = _read(page)
            write(Path(page), with_scores(text, json.loads(_read(data)), page))
        case _:
            raise InputError(
                "scores", f"expected `measure DATA` or `tables DATA PAGE`, got {arguments}"
            )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(path, f"cannot be read; got: {error.strerror}") from error


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MixerSpecError as error:
        sys.exit(f"error: {error}")
