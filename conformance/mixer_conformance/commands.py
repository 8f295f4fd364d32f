"""``mixer-spec conformance``: run, report, cases, locate, explain, diff, audit and more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixer_spec.commands.output import Json, console, print_json, progress, table
from mixer_spec.errors import InputError

from .files.commands import cases as cases_app
from .options import (
    Backend,
    Level,
    Limit,
    Profile,
    Seed,
    listed,
)
from .report_command import report
from .run_command import run

if TYPE_CHECKING:
    from .audit import Audit
    from .cases import Trial

conformance = typer.Typer(
    help="Judge a backend: every case family, at a level, in an arithmetic.",
    no_args_is_help=True,
    add_completion=False,
)
conformance.command("run")(run)
conformance.command("report")(report)

conformance.add_typer(cases_app, name="cases")


@conformance.command()
def locate(
    backend: Backend,
    model: Annotated[str, typer.Option(help="Of the zoo.")] = "mixer",
    level: Level = 2,
    profile: Profile = "f32-strict",
    seed: Seed = 0,
    limit: Limit = None,
    write: Annotated[
        Path | None, typer.Option(help="Write a stand-alone script that shows the fault here.")
    ] = None,
    json: Json = False,
) -> None:
    """Find the first bad stage, name the mistake, and write the smallest model that shows it.

    Exit codes: 0 nothing is wrong, 1 something is, 3 the backend raised or hung, 4 it does not have
    the model.
    """
    from .in_process import told
    from .locate import locate as find
    from .locate import write_reproduction

    with told():
        trial = _trial(backend, model, profile, seed, limit)
        found = find(trial, level)
        written = None
        if found and found.plain and write:
            written = write_reproduction(write, trial, backend, found.stage)
    diagnosis = str(found.diagnosis) if found and found.diagnosis else None
    if json:
        print_json(
            {
                "model": model,
                "stage": found.stage if found else None,
                "message": found.message if found else None,
                "diagnosis": diagnosis,
                "runs": found.runs if found else 1,
                "reproduction": str(write) if written else None,
            }
        )
    elif not found:
        console().print(f"{model}: nothing is wrong up to level {level}", markup=False)
    else:
        text = [f"first bad stage: {found.stage}", found.message, diagnosis]
        if written:
            text.append(f"{write}: a model of {written.parameter_count} weights that shows it")
        elif write:
            text.append(f"{write}: not written; a forward pass of plain inputs does not show it")
        out = console()
        for line in filter(None, text):
            out.print(line, soft_wrap=not out.is_terminal, markup=False)
    raise typer.Exit(1 if found else 0)


@conformance.command()
def fingerprint(
    backend: Backend, profile: Profile = "f32-strict", limit: Limit = None, json: Json = False
) -> None:
    """Show what a backend's arithmetic really is, layer by layer.

    Exit codes: 0 it was seen, 1 the backend broke the protocol, 3 it raised or hung, 4 it does not
    have the model.
    """
    from .cases.zoo import PROBE
    from .fingerprint import fingerprint as classify
    from .fingerprint import name_of_bits
    from .in_process import told

    with told():
        trial = _trial(backend, PROBE, profile, 0, limit)
        found = classify(trial.subject, trial.spec)
    if json:
        print_json(found.to_data())
        return
    made = table("layer", "bits of an operand", "arithmetic", right=("bits of an operand",))
    for layer, bits in found.bits.items():
        made.add_row(layer, str(bits), name_of_bits(bits))
    out = console()
    out.print(made)
    epsilon = "not seen" if found.epsilon is None else f"{found.epsilon:.3g}"
    out.print(f"GELU {found.gelu or 'not seen'}; the last norm's epsilon {epsilon}")
    if found.flushes is not None:
        out.print("subnormal inputs become zero" if found.flushes else "subnormal inputs are kept")


@conformance.command()
def explain(
    case: Annotated[str, typer.Argument(help="A family, as in F05.")], json: Json = False
) -> None:
    """Say what a case family does, what it is for, and with which numbers."""
    from .cases import CASES, ZOO
    from .mutants import MUTANTS

    if case not in CASES:
        raise InputError("case", f"unknown {case!r}; expected one of {list(CASES)}")
    family = CASES[case]
    models = [name for name, m in ZOO.items() if m.group < "Z4" and family.suits(m, m.build())]
    mutants = [name for name, known in MUTANTS.items() if known.killer == case]
    numbers = _numbers(case, models[0])
    if json:
        print_json(
            {
                "case": case,
                "title": family.title,
                "catches": family.catches,
                "level": family.level,
                "profiles": list(family.profiles),
                "models": models,
                "mutants": mutants,
                "numbers": numbers,
            }
        )
        return
    out = console()
    out.print(f"[bold]{case}[/]  {family.title}")
    for word, text in (
        ("catches", family.catches),
        ("level", str(family.level)),
        ("profiles", ", ".join(family.profiles)),
        ("models", ", ".join(models)),
        ("mutants", "; ".join(mutants) or "none that it is the first for"),
        ("numbers", f"reference on {models[0]}: {numbers}"),
    ):
        out.print(f"{word:>9}  {text}", soft_wrap=True, markup=False)


def _numbers(case: str, model: str) -> str:
    """What the case says of the reference, with its tolerance's derivation."""
    from .cases import CASES
    from .findings import summed_up

    return summed_up(CASES[case].check(_trial("reference", model, "f32-strict", 0))).message


@conformance.command()
def diff(
    a: Annotated[str, typer.Option(help="A backend.")],
    b: Annotated[str, typer.Option(help="Another.")],
    model: Annotated[str, typer.Option(help="Of the zoo.")] = "mixer",
    seed: Seed = 0,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """Show two backends side by side, each judged against float64 and never against the other.

    Exit codes: 0 both are conformant, 1 one is not, 3 one raised or hung.
    """
    from .cases import ZOO
    from .cli import exit_code
    from .in_process import told
    from .render import print_legend, print_report
    from .verify import LIMIT, verify

    if model not in ZOO:
        raise InputError("--model", f"unknown {model!r}; expected one of {list(ZOO)[:20]} ...")
    with told():
        both = [_loaded(name) for name in (a, b)]
    report = verify(ZOO[model].build(), both, seed=seed, name=model, limit=limit or LIMIT)
    if json:
        print_json(report.to_data())
    else:
        print_report(console(), report, every_tap=True)
        print_legend(console())
    raise typer.Exit(exit_code([report]))


@conformance.command("audit")
def audit_command(
    seeds: Annotated[
        int, typer.Option(min=0, help="Look for false alarms with so many seeds, instead.")
    ] = 0,
    first_seed: Annotated[int, typer.Option(help="The first of the seeds.")] = 0,
    backends: Annotated[
        str, typer.Option(help="The backends that are right, separated by commas.")
    ] = "reference,torch,jax,onnxruntime",
    scales: Annotated[str, typer.Option(help="Models or groups for the seeds.")] = "Z0,Z1,Z2,Z3",
    json: Json = False,
) -> None:
    """Judge the suite itself: the kill matrix of its mutants; with --seeds, its false alarms."""
    from .audit import audit

    if seeds:
        chosen_seeds = range(first_seed, first_seed + seeds)
        _false_alarms(chosen_seeds, listed(backends), listed(scales), json=json)
        return
    with progress() as show:
        found = audit(lambda verdict: show(verdict.name))
    if json:
        print_json(found.to_data())
    else:
        _print_audit(found)
    raise typer.Exit(0 if found.good else 1)


def _false_alarms(seeds: range, names: list[str], scales: list[str], *, json: bool) -> None:
    from .audit import honest_margins
    from .in_process import told

    with told():
        right = [_loaded(name) for name in names]
    with progress() as show:
        found = honest_margins(
            right,
            seeds,
            scales,
            lambda name, seed: show(f"{name}, seed {seed}"),
        )
    runs, alarms = sum(worst.runs for worst in found), sum(worst.alarms for worst in found)
    if json:
        each = [worst.to_data() for worst in found]
        print_json({"runs": runs, "false_alarms": alarms, "worst": each})
    else:
        made = table("backend", "family", "runs", "worst", "model", "seed", right=("runs", "worst"))
        for worst in found:
            result = worst.result
            size = f"{worst.margin:.2f}"
            made.add_row(
                worst.backend,
                result.case,
                str(worst.runs),
                f"[red]{size}[/]" if worst.alarms else size,
                result.model,
                str(worst.seed),
            )
        out = console()
        out.print(made)
        out.print(
            f"{runs} runs, {alarms} false alarms; worst: the largest error of any as a fraction of "
            "its tolerance",
            soft_wrap=True,
        )
    raise typer.Exit(1 if alarms else 0)


def _print_audit(found: Audit) -> None:
    families = sorted({case for verdict in found.verdicts for case in verdict.kills})
    made = table("mutant", "by", "margin", "located", "named", *families, right=("margin",))
    for v in found.verdicts:
        named = "yes" if v.named_rightly else "NO" if v.nameable else "-"
        made.add_row(
            v.name,
            v.expected if v.killed else f"[red]{v.expected} survived[/]",
            f"{v.margin:.3g}",
            "yes" if v.located_rightly else f"[red]{v.located}[/]",
            named,
            *("x" if case in v.kills else "" for case in families),
        )
    out = console()
    out.print(made)
    out.print(
        f"{len(found.verdicts)} mutants: {100 * found.killed:.4g} % killed by the family that must, "
        f"{100 * found.located:.4g} % located, {100 * found.named:.4g} % named; smallest margin "
        f"{found.smallest.margin:.3g} ({found.smallest.name}); "
        f"{len(found.survivors)} equivalent ones accused",
        soft_wrap=True,
    )


@conformance.command("init-backend")
def init_backend(
    name: Annotated[str, typer.Argument(help="A lower-case identifier, as in tinygrad.")],
    folder: Annotated[Path, typer.Option(help="Where to write the package.")] = Path(),
    json: Json = False,
) -> None:
    """Write a package with a backend that works, its test and its CI, to be made your own."""
    from .skeleton import write_skeleton

    written = write_skeleton(name, folder)
    if json:
        print_json({"files": [str(path) for path in written]})
        return
    for path in written:
        console().print(str(path), markup=False)
    console().print(
        f"Do `pip install -e {written[0].parent}`, then `mixer-spec conformance run --backend "
        f"{name}`; the kinds of layers are in {written[2]}.",
        markup=False,
        soft_wrap=True,
    )


# --- what the commands share -------------------------------------------------------------------


def _loaded(name: str) -> Any:
    from .in_process import look_here, made

    look_here(name)
    return made(name)


def _trial(backend: str, model: str, profile: str, seed: int, limit: float | None = None) -> Trial:
    from .cases import ZOO, Trial
    from .suite import subject_of

    if model not in ZOO:
        raise InputError("--model", f"unknown {model!r}; expected one of {list(ZOO)[:20]} ...")
    subject = subject_of(_loaded(backend), profile, 2, "full", limit=limit)  # type: ignore[arg-type]
    found = ZOO[model]
    return Trial(subject=subject, model=found, spec=found.build(), seed=seed, effort="full")
