"""The page's overview: the sentence on top, a card for each run, the matrix with margins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mixer_conformance.outputs import reached

from .shown import Margin, heat, how_far, in_figures, number

_SERIES = 6
"""How many colours there are for the lines of a plot."""

_WORST_LAST = ("unsupported", "pass", "expected_fail", "unexpected_pass", "fail", "error")

_WORDS = {0: "conformant", 1: "not conformant", 3: "the backend raised or hung", 4: "nothing ran"}


@dataclass(frozen=True, slots=True)
class Column:
    """A backend in one arithmetic.

    Args:
        backend: its name.
        profile: the arithmetic.
        series: of its lines in the plots: ``s1`` to ``s6``.
    """

    backend: str
    profile: str
    series: str


@dataclass(frozen=True, slots=True)
class Card:
    """A run's verdict.

    Args:
        run: as it is stored.
        word: the verdict.
        good: whether it is conformant.
        badge: level, profile and spec version, as a badge says it.
        counts: of each status, the worst first.
        worst: the passing case nearest to its limit, in words.
    """

    run: dict[str, Any]
    word: str
    good: bool
    badge: str
    counts: tuple[tuple[str, int], ...]
    worst: str


@dataclass(frozen=True, slots=True)
class Cell:
    """What a column says of a model.

    Args:
        status: the worst of its cases.
        heat: the colour.
        text: the largest margin.
        told: every case in a line.
    """

    status: str
    heat: str
    text: str
    told: str


def columns(runs: Sequence[dict[str, Any]]) -> list[Column]:
    """The backends in their arithmetics, in the order of the runs."""
    seen = dict.fromkeys((run["backend"], run["profile"]) for run in runs)
    return [Column(*key, f"s{number % _SERIES + 1}") for number, key in enumerate(seen)]


def headline(runs: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """The verdict in a few words, and how much was looked at."""
    bad = [run["backend"] for run in runs if run["exit_code"] != 0]
    names = list(dict.fromkeys(run["backend"] for run in runs))
    results = [result for run in runs for result in run["results"]]
    models = {result["model"] for result in results}
    found = sum(result["status"] not in ("pass", "unsupported") for result in results)
    ran = f"{_counted(len(results), 'case')} on {_counted(len(models), 'model')}"
    words = f"{_listed(bad)} not conformant" if bad else f"{_listed(names)} conformant"
    return words, f"{ran}, {_counted(found, 'finding') if found else 'nothing found'}."


def _listed(names: Sequence[str]) -> str:
    """``jax, torch and onnxruntime are``."""
    *others, last = dict.fromkeys(names)
    return f"{', '.join(others)} and {last} are" if others else f"{last} is"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _badge(run: dict[str, Any]) -> str:
    """The level that was reached or, where something was found, asked for."""
    level = run["level"]
    if run["conformant"]:
        level = reached(level, ((one["level"], one["status"]) for one in run["results"]))
    return f"L{level} · {run['profile']} · spec {run['spec_version']}"


def cards(runs: Sequence[dict[str, Any]]) -> list[Card]:
    """A card for each run."""
    return [
        Card(
            run=run,
            word=_WORDS[run["exit_code"]],
            good=run["exit_code"] == 0,
            badge=_badge(run),
            counts=_counts(run["results"]),
            worst=_worst(run["results"]),
        )
        for run in runs
    ]


def _counts(results: Sequence[dict[str, Any]]) -> tuple[tuple[str, int], ...]:
    counts = Counter(result["status"] for result in results)
    return tuple((status, counts[status]) for status in reversed(_WORST_LAST) if counts[status])


def _worst(results: Sequence[dict[str, Any]]) -> str:
    passing = [r for r in results if r["status"] == "pass" and r["margin"] is not None]
    if not passing:
        return "nothing passed"
    worst = max(passing, key=lambda result: number(result["margin"]) or 0.0)
    return f"{in_figures(worst['margin'])} at {worst['case']} on {worst['model']}"


def matrix(
    runs: Sequence[dict[str, Any]], seen: Sequence[Column]
) -> list[tuple[str, list[Cell | None]]]:
    """A row for each model: its name, and of each column a cell, or nothing where it was not run.

    Several runs of one column, as of other models or levels, stand in one cell.
    """
    found: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = {}
    for run in runs:
        for result in run["results"]:
            row = found.setdefault(result["model"], {})
            row.setdefault((run["backend"], run["profile"]), []).append(result)
    return [
        (model, [_cell(row.get((column.backend, column.profile), [])) for column in seen])
        for model, row in found.items()
    ]


def _cell(results: Sequence[dict[str, Any]]) -> Cell | None:
    if not results:
        return None
    status = max((result["status"] for result in results), key=_WORST_LAST.index)
    margins = [r["margin"] for r in results if r["status"] == status and r["margin"] is not None]
    margin: Margin = max(margins, key=lambda m: number(m) or 0.0, default=None)
    lines = (f"{r['case']}: {r['status']}, {how_far(r['margin'])}" for r in results)
    colour = "far" if status == "error" else "none" if status == "unsupported" else heat(margin)
    return Cell(status=status, heat=colour, text=in_figures(margin), told="\n".join(lines))
