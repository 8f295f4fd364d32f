"""How the page shows a number: a margin in a few figures, its heat, a run's name."""

from __future__ import annotations

import math
from typing import Any

Margin = float | str | None
"""A margin as JSON has it: ``"infinite"`` where a rule was broken, ``None`` where nothing was."""


def number(margin: Margin) -> float | None:
    """A margin as a number.

    Example:
        >>> number("infinite")
        inf
    """
    return math.inf if margin == "infinite" else margin  # type: ignore[return-value]


def in_figures(margin: Margin) -> str:
    """A margin in at most four places.

    Example:
        >>> [in_figures(m) for m in (0.0, 0.1234, 3.14, 118.7, 24_000_000.0, "infinite", None)]
        ['0', '0.12', '3.1', '119', '2e7', '∞', '-']
    """
    value = number(margin)
    if value is None:
        return "-"
    if value == math.inf:
        return "∞"
    if value == 0:
        return "0"
    if value < 0.005:
        return "<0.01"
    if value < 1:
        return f"{value:.2f}"
    if value < 1000:
        return f"{value:.1f}" if value < 10 else f"{value:.0f}"
    return f"{value:.0e}".replace("e+0", "e").replace("e+", "e")


def how_far(margin: Margin) -> str:
    """A margin in words.

    Example:
        >>> how_far(0.25), how_far(119.0), how_far("infinite")
        ('0.25 of the tolerance', '119 times the tolerance', 'a rule without a tolerance')
    """
    value = number(margin)
    if value is None:
        return "nothing was measured"
    if value == math.inf:
        return "a rule without a tolerance"
    return f"{in_figures(value)} {'of' if value <= 1 else 'times'} the tolerance"


def heat(margin: Margin) -> str:
    """A margin's colour: ``h0`` far within to ``h4`` just within, ``over``, ``far``, ``none``.

    Example:
        >>> heat(0.01), heat(0.3), heat(0.9), heat(2.0), heat("infinite"), heat(None)
        ('h0', 'h3', 'h4', 'over', 'far', 'none')
    """
    value = number(margin)
    if value is None:
        return "none"
    if value > 1:
        return "over" if value <= 10 else "far"
    return f"h{sum(value > limit for limit in (1 / 16, 1 / 8, 1 / 4, 1 / 2))}"


def seconds(run: dict[str, Any]) -> str:
    """How long the cases of a run took together."""
    total = sum(result["seconds"] for result in run["results"])
    return f"{total:.1f} s" if total < 100 else f"{total:.0f} s"
