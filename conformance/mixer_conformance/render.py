"""A report for people: effective bits and margin of every stage, then the verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

from mixer_spec.commands.output import table

from .compare import Comparison
from .findings import explained
from .judge import TapJudgement
from .report import BackendReport, Report
from .tolerance import K_MAX, K_RMS, Judgement


def print_report(out: Console, report: Report, *, every_tap: bool) -> None:
    """Print one report.

    Args:
        out: where to.
        report: what `verify` found.
        every_tap: a row for each tap, rather than the worst of each kind.
    """
    out.print(f"[bold]{escape(report.name)}[/]  {_how(report)}", soft_wrap=True)
    judged = [backend for backend in report.backends if backend.taps]
    if judged:
        names = [backend.name for backend in judged]
        made = table("stage", *names)
        for label, taps in _rows(judged[0].taps, every_tap=every_tap).items():
            made.add_row(label, *(_cell(backend, taps) for backend in judged))
        out.print(made)
    for backend in report.backends:
        for line in _verdict(backend):
            out.print(line, soft_wrap=True)
    out.print()


def print_comparison(out: Console, comparison: Comparison, *, every_tap: bool) -> None:
    """Print whether two models are the same function, and where they part.

    Args:
        out: where to.
        comparison: what `compare` found.
        every_tap: a row for each tap, rather than the worst of each kind.
    """
    if comparison.report is not None:
        print_report(out, comparison.report, every_tap=every_tap)
    for line in _findings(comparison):
        out.print(line, soft_wrap=True)
    out.print()


def _findings(comparison: Comparison) -> Iterator[str]:
    first, second = (escape(name) for name in comparison.names)
    if comparison.same:
        yield f"[green]the same function[/]: {first} and {second}"
    else:
        yield f"[red]NOT the same function[/]: {first} and {second}"
    apart = comparison.logits_apart
    if comparison.first_difference is not None:
        yield f"  they part at [bold]{comparison.first_difference}[/]"
    if apart is not None:
        yield f"  logits in float64: {apart:.1e} apart, relative to the first's root mean square"
    for difference in comparison.spec_differences:
        yield f"  spec: {escape(difference)}"
    count = len(comparison.other_weights)
    some = ", ".join(comparison.other_weights[:3])
    yield f"  weights: {f'{count} are not the same bits, as {some}' if count else 'the same bits'}"


def print_legend(out: Console) -> None:
    """Print how to read the table."""
    out.print(
        "Each cell is of its stage alone: effective bits (24 is float32's own noise, TF32 shows 11 "
        "to 15, bfloat16 8 to 12), the error as a fraction of its tolerance, and the worst block.\n"
        f"The tolerance is {K_RMS:g} x (root mean square) and {K_MAX:g} x (largest error) "
        "the noise of float32 NumPy runs or the rounding floor, whichever is larger.",
        soft_wrap=True,
        style="dim",
    )


def _how(report: Report) -> str:
    inputs = "input" if report.batch == 1 else "inputs"
    runs = "run" if report.yardstick_runs == 1 else "runs"
    origin = "given weights" if report.seed is None else f"seed {report.seed}"
    return (
        f"f32-strict, {report.batch} {inputs}, {origin}; judged by float64 NumPy "
        f"{report.versions['numpy']}, {report.yardstick_runs} float32 {runs}; {report.seconds:.1f} s"
    )


def _rows(taps: tuple[TapJudgement, ...], *, every_tap: bool) -> dict[str, list[str]]:
    """Each row's label and the taps that it stands for."""
    rows: dict[str, list[str]] = {}
    for tap in taps:
        label = tap.tap
        if not every_tap and label.startswith("blocks."):
            label = label.split(".", 2)[2]
        rows.setdefault(label, []).append(tap.tap)
    return {
        label if len(names) == 1 else f"{label} (worst of {len(names)})": names
        for label, names in rows.items()
    }


def _cell(backend: BackendReport, names: list[str]) -> str:
    """Bits and margin of the worst of the named taps: ``24.6  0.16 @7``.

    Of the step alone where it was seen, so that a mistake marks its own row and no later one.
    """
    if any(name in backend.problems for name in names):
        return "[red]broken[/]"
    judged = [
        (tap.tap, tap.judgements[0]) for tap in backend.taps if tap.tap in names and tap.judgements
    ]
    if not judged:
        return "[dim]not seen[/]"
    tap, judgement = max(judged, key=lambda pair: pair[1].margin)
    block = f" @{tap.split('.')[1]}" if len(names) > 1 else ""
    if not judgement.deviation.finite:
        return f"[red]not finite{block}[/]"
    bits = "exact" if judgement.bits == math.inf else f"{judgement.bits:.1f}"
    text = f"{bits:>5}  {_margin(judgement)}{block}"
    return text if judgement.passed else f"[red]{text}[/]"


def _verdict(backend: BackendReport) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in backend.versions.items())
    who = f"[bold]{escape(backend.name)}[/] ({escape(versions)}; {escape(backend.device)})"
    if backend.crash is not None:
        yield f"{who}: [red]crashed[/]: {escape(backend.crash)}"
        return
    seen = (
        "" if backend.sees_taps else ", judged on its logits only: some weights do not reach them"
    )
    if backend.conformant:
        yield f"{who}: [green]conformant[/]{seen}; {_worst(backend)}"
        return
    stage = backend.first_bad_stage
    located = f"; first bad stage: [bold]{stage}[/]" if stage else ""
    yield f"{who}: [red]NOT conformant[/]{seen}{located}"
    for place, rule in backend.problems.items():
        yield f"  {escape(f'{place}: {rule}')}"
    tap = next((tap for tap in backend.taps if tap.tap == stage), None)
    if tap is not None and not tap.passed:
        yield f"  {escape(explained(tap))}"


def _worst(backend: BackendReport) -> str:
    worst = backend.worst
    if worst is None:
        return "nothing to judge"
    tap, judgement = worst
    return f"worst {_margin(judgement)} of the tolerance, at {tap}"


def _margin(judgement: Judgement) -> str:
    return f"{judgement.margin:.2f}" if judgement.margin < 10 else f"{judgement.margin:.3g}"
