"""Runs of the suite as one HTML page, which needs no other file and no script.

Whatever a run says is escaped by the template, without its control characters; nothing in it can
become markup, and the page's own policy lets a browser load and run nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mixer_conformance.outputs import printable

from .blind import blind_spots, left_out
from .depth import depth_plot
from .findings import causes
from .overview import cards, columns, headline, matrix
from .shown import how_far, in_figures, seconds
from .stages import stages
from .stored import read_runs

__all__ = ["read_runs", "render"]


def _harmless(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def render(runs: Sequence[dict[str, Any]]) -> str:
    """The page.

    Args:
        runs: as :func:`mixer_conformance.outputs.to_data` makes them, at least one.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"how_far": how_far, "in_figures": in_figures, "seconds": seconds}
    seen = columns(runs)
    return environment.get_template("page.html.jinja").render(
        headline=headline(runs),
        cards=cards(runs),
        columns=seen,
        matrix=matrix(runs, seen),
        causes=[found for run in runs for found in causes(run)],
        models=[(model, depth_plot(model)) for model in stages(runs, seen)],
        blind=blind_spots(runs),
        left_out=left_out(runs),
        runs=runs,
    )
