"""``mixer-spec conformance cases``: export and check, for programs in any language."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from mixer_conformance.options import (
    Excuses,
    Families,
    Full,
    Html,
    Junit,
    Level,
    Markdown,
    Nightly,
    Profile,
    Quick,
    Scales,
    Seed,
    chosen_effort,
    listed,
)
from mixer_conformance.report_command import load_page
from mixer_spec.commands.output import Json, console, print_json, progress

if TYPE_CHECKING:
    from mixer_conformance.result import Result

cases = typer.Typer(
    help="Judge a program without Python: cases as files, answers as files (docs/cases.md).",
    no_args_is_help=True,
    add_completion=False,
)


@cases.command("export")
def export_command(
    folder: Annotated[Path, typer.Argument(help="A new or an empty one.")],
    level: Level = 2,
    profile: Profile = "f32-strict",
    scales: Scales = "",
    families: Families = "",
    quick: Quick = False,
    full: Full = False,
    nightly: Nightly = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write the cases: JSON and safetensors, for a program that answers each in its place.

    Exit codes: 0 written, 2 bad input.
    """
    from .recording import export

    with progress() as show:

        def tell(result: Result) -> None:
            show(result.id)

        index = export(
            folder,
            level=level,
            profile=profile,  # type: ignore[arg-type]  # checked by export
            effort=chosen_effort(quick=quick, full=full, nightly=nightly),
            scales=listed(scales),
            families=listed(families),
            seed=seed,
            progress=tell,
        )
    left_out = [case for case in index.cases if case.unsupported]
    if json:
        print_json(
            {
                "folder": str(folder),
                "profile": index.profile,
                "level": index.level,
                "cases": len(index.cases),
                "requests": len(index.requests),
                "unsupported": {case.id: case.unsupported for case in left_out},
            }
        )
        return
    out = console()
    for case in left_out:
        out.print(f"[dim]{'unsupported':>15}[/]  {escape(f'{case.id}  {case.unsupported}')}")
    out.print(
        f"{folder}: {len(index.requests)} requests of {len(index.cases) - len(left_out)} cases. "
        f"Do answer each, then `mixer-spec conformance cases check {folder}`.",
        markup=False,
        soft_wrap=True,
    )


@cases.command("check")
def check_command(
    folder: Annotated[Path, typer.Argument(help="That was exported and answered.")],
    excuses: Excuses = None,
    junit: Junit = None,
    markdown: Markdown = None,
    html: Html = None,
    json: Json = False,
) -> None:
    """Judge the answers, as `run` judges a backend.

    Exit codes: 0 conformant, 1 not conformant, 2 bad input, 3 an answer is missing or cannot be
    used, 4 nothing was answered.
    """
    from mixer_conformance import outputs
    from mixer_conformance.excuses import read_excuses
    from mixer_conformance.result import exit_code

    from .replaying import check

    page = load_page() if html else None
    with progress() as show:

        def tell(result: Result) -> None:
            show(f"{result.id}: {result.status}")

        found = check(folder, excuses=read_excuses(excuses) if excuses else (), progress=tell)
    done = outputs.SuiteRun(
        backend=found.info.name,
        info=found.info,
        level=found.index.level,
        profile=found.index.profile,
        effort=found.index.effort,
        seed=found.index.seed,
        results=found.results,
    )
    outputs.write_files(done, junit=junit, markdown=markdown)
    if html and page:
        outputs.write(html, page.render([outputs.to_data(done)]))
    if json:
        print_json(outputs.to_data(done))
    else:
        outputs.print_results(console(), done)
    raise typer.Exit(exit_code(found.results))
