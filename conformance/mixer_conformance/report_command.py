"""``mixer-spec conformance report``: stored runs of any backends as one HTML page."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from mixer_spec.commands.output import Json, console, print_json


def load_page() -> ModuleType:
    """The package that writes the page.

    Raises:
        MissingExtraError: if its template engine is not installed.
    """
    from mixer_spec.extras import load_or_name_extra

    return load_or_name_extra("conformance report", _page)


def _page() -> ModuleType:
    from . import page

    return page


def report(
    files: Annotated[
        list[Path],
        typer.Argument(help="Runs, from `conformance run --json`.", show_default=False),
    ],
    html: Annotated[Path, typer.Option(help="Write the page here.", show_default=False)],
    json: Json = False,
) -> None:
    """Put runs of several backends, scales and profiles on one HTML page.

    Exit codes: the worst of the runs: 0 conformant, 1 not conformant, 3 a backend raised or hung,
    4 nothing was executed; 2 bad input or a missing extra.
    """
    from .outputs import write

    page = load_page()
    runs = page.read_runs(files)
    write(html, page.render(runs))
    if json:
        shown = ("backend", "profile", "level", "conformant", "worst_passing_margin")
        print_json({"page": str(html), "runs": [{key: run[key] for key in shown} for run in runs]})
    else:
        for run in runs:
            word = "conformant" if run["conformant"] else "NOT conformant"
            told = f"{run['backend']}: {word} at level {run['level']} in {run['profile']}"
            console().print(told, markup=False, soft_wrap=True)
        console().print(str(html), markup=False, soft_wrap=True)
    raise typer.Exit(max((run["exit_code"] for run in runs), key=(0, 1, 4, 3).index))
