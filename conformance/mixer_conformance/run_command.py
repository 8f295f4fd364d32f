"""``mixer-spec conformance run``: judge one backend, and say where to look closer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from mixer_spec.commands.output import Json, console, print_json, progress

from .options import (
    Backend,
    Excuses,
    Families,
    Full,
    Html,
    Junit,
    Level,
    Limit,
    Markdown,
    Nightly,
    Profile,
    Quick,
    Scales,
    Seed,
    chosen_effort,
    listed,
)
from .report_command import load_page

if TYPE_CHECKING:
    from .result import Result

_INTERRUPTED = 130
"""The exit code of what Ctrl-C ended, in every shell."""


def run(
    backend: Backend,
    level: Level = 2,
    profile: Profile = "f32-strict",
    scales: Scales = "",
    cases: Families = "",
    quick: Quick = False,
    full: Full = False,
    nightly: Nightly = False,
    seed: Seed = 0,
    excuses: Excuses = None,
    limit: Limit = None,
    junit: Junit = None,
    markdown: Markdown = None,
    html: Html = None,
    json: Json = False,
) -> None:
    """Run the suite on one backend, in a process of its own.

    Exit codes: 0 conformant, 1 not conformant, 2 bad input or a missing extra, 3 the backend
    raised or hung, 4 nothing was executed.
    """
    from . import outputs
    from .excuses import read_excuses
    from .in_process import look_here
    from .isolated import run_isolated
    from .result import exit_code

    effort = chosen_effort(quick=quick, full=full, nightly=nightly)
    page = load_page() if html else None  # before minutes of work
    look_here(backend)
    judged: list[Result] = []
    try:
        with progress() as show:

            def tell(result: Result) -> None:
                judged.append(result)
                show(f"{result.id}: {result.status}")

            info, results = run_isolated(
                backend,
                level=level,
                profile=profile,  # type: ignore[arg-type]  # checked by run
                effort=effort,
                scales=listed(scales),
                cases=listed(cases),
                seed=seed,
                excuses=read_excuses(excuses) if excuses else (),
                limit=limit,
                progress=tell,
            )
    except KeyboardInterrupt:
        outputs.print_interrupted(judged)
        raise typer.Exit(_INTERRUPTED) from None
    done = outputs.SuiteRun(
        backend=backend,
        info=info,
        level=level,
        profile=profile,  # type: ignore[arg-type]  # checked by run
        effort=effort,
        seed=seed,
        results=results,
    )
    outputs.write_files(done, junit=junit, markdown=markdown)
    if html and page:
        outputs.write(html, page.render([outputs.to_data(done)]))
    if json:
        print_json(outputs.to_data(done))
    else:
        outputs.print_results(console(), done)
        if told := [result for result in results if _is_told_more_of(result)]:
            console().print(_where_and_why(backend, told), soft_wrap=True, markup=False)
    raise typer.Exit(exit_code(results))


def _is_told_more_of(result: Result) -> bool:
    """Whether `locate` can say more: of what raised, and of wrong taps, gradients or training."""
    if result.status == "error":
        return result.case != "start"
    return result.status == "fail" and bool(result.taps or result.diagnosis)


def _where_and_why(backend: str, bad: Sequence[Result]) -> str:
    """The command that looks closer at the first finding with a diagnosis, or at the first."""
    told = [result for result in bad if result.diagnosis] or bad
    shown = next((result for result in told if result.model == "mixer"), told[0])
    level = f" --level {shown.level}" if shown.level > 2 else ""
    model = f" --model {shown.model}" if shown.model != "mixer" else ""
    return f"Where and why: mixer-spec conformance locate --backend {backend}{model}{level}"
