"""A run for people and machines: terminal, JSON, JUnit and Markdown."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from mixer_spec import BackendInfo
from mixer_spec.atomic import replacing
from mixer_spec.backend import Profile
from mixer_spec.model import SPEC_VERSION

from .cases import CASES, Effort
from .result import Result, Status, exit_code, is_conformant

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = 2
"""The version of the JSON form, which ``run.schema.json`` describes."""

_COLOURS: dict[Status, str] = {
    "pass": "green",
    "expected_fail": "yellow",
    "unsupported": "dim",
    "fail": "red",
    "unexpected_pass": "red",
    "error": "red",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteRun:
    """What was asked for, of whom, and what came of it.

    Args:
        backend: as it was named: registered, or ``package.module:Class``.
        info: what the backend says of itself.
        level: the highest that was judged.
        profile: the arithmetic that was claimed.
        effort: how much was run.
        seed: of weights and inputs.
        results: from :func:`~mixer_conformance.run`.
    """

    backend: str
    info: BackendInfo
    level: int
    profile: Profile
    effort: Effort
    seed: int
    results: Sequence[Result]

    @property
    def worst_margin(self) -> float | None:
        """How near to its limit the nearest of the passing cases is."""
        passing = (r.margin for r in self.results if r.status == "pass")
        return max((margin for margin in passing if margin is not None), default=None)


def reached(asked: int, results: Iterable[tuple[int, Status]]) -> int:
    """The level that was asked for; a lower one where nothing above it was looked at.

    Taps are judged in the cases of level 1 too; gradients and training steps have their own.

    Args:
        asked: the level.
        results: level and status of each.

    Example:
        >>> reached(4, [(1, "pass"), (2, "pass"), (4, "unsupported")])
        2
        >>> reached(2, [(1, "pass")])
        2
        >>> reached(4, [(1, "pass")])
        2
    """
    results = list(results)
    passed = max((level for level, status in results if status == "pass"), default=0)
    refused = any(level > passed for level, status in results if status == "unsupported")
    return passed if refused else min(asked, max(passed, 2))


def to_data(run: SuiteRun) -> dict[str, Any]:
    """A run as plain data."""
    return {
        "schema_version": SCHEMA_VERSION,
        "spec_version": SPEC_VERSION,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "named": run.backend,
        "backend": run.info.name,
        "versions": dict(run.info.versions),
        "device": run.info.device,
        "profile": run.profile,
        "level": run.level,
        "effort": run.effort,
        "seed": run.seed,
        "conformant": is_conformant(run.results),
        "exit_code": exit_code(run.results),
        "counts": dict(Counter(result.status for result in run.results)),
        "worst_passing_margin": run.worst_margin,
        "not_run": list(_not_run(run)),
        "results": [result.to_data() for result in run.results],
    }


def _not_run(run: SuiteRun) -> Iterator[dict[str, str]]:
    """The families that looked at nothing, what they are for, and why they did not."""
    seen = {result.case for result in run.results if result.status != "unsupported"}
    refused = {result.case for result in run.results} - seen
    for case in CASES.values():
        if case.id in seen:
            continue
        if case.level > run.level:
            why = f"level {case.level} was not asked for"
        elif run.profile not in case.profiles:
            why = f"it says nothing in {run.profile}"
        elif case.id in refused:
            why = "the backend does not support it"
        else:
            why = "none of its models was run"
        yield {"case": case.id, "catches": case.catches, "why": why}


def verdict(run: SuiteRun) -> str:
    """The run in one sentence."""
    counts = Counter(result.status for result in run.results)
    counted = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    worst = run.worst_margin
    near = f"; worst passing margin {worst:.2f}" if worst is not None else ""
    good = is_conformant(run.results)
    word = "conformant" if good else "NOT conformant"
    level = reached(run.level, ((r.level, r.status) for r in run.results)) if good else run.level
    asked = "" if level == run.level else f" ({run.level} was asked for)"
    if not run.results:
        word, counted = "NOTHING EXECUTED", "no case suits"
    who = f"{run.info.name} ({run.info.device})"
    return f"{who}: {word} at level {level}{asked} in {run.profile}; {counted}{near}"


def print_results(out: Console, run: SuiteRun) -> None:
    """A run for people: what is no plain pass, the known mistakes that explain it, the verdict."""
    _print_findings(out, run.results)
    named = {(r.model, r.diagnosis.sentence) for r in run.results if r.diagnosis}
    for model, sentence in sorted(named):
        out.print(f"{model}: {sentence}", markup=False, soft_wrap=not out.is_terminal)
    out.print(verdict(run), soft_wrap=not out.is_terminal)


def print_interrupted(judged: Sequence[Result]) -> None:
    """What was found before someone ended a run, on stderr: it is no verdict."""
    from rich.console import Console

    out = Console(stderr=True, highlight=False)
    _print_findings(out, judged)
    out.print(f"interrupted; cases judged so far: {len(judged)}; no verdict")


def _print_findings(out: Console, results: Sequence[Result]) -> None:
    """Each result that is no plain pass: a line in a pipe, folded beside its status in a terminal."""
    from rich.markup import escape
    from rich.table import Table

    folded = Table.grid(padding=(0, 2))
    folded.add_column(justify="right", no_wrap=True)
    folded.add_column(overflow="fold")
    for r in results:
        if r.status == "pass":
            continue
        culprit = f"  [bold]{escape(r.culprit)}[/]" if r.culprit else ""
        told = f"{escape(r.id)}{culprit}  {escape(r.message)}"
        if out.is_terminal:
            folded.add_row(f"[{_COLOURS[r.status]}]{r.status}[/]", told)
        else:
            out.print(f"[{_COLOURS[r.status]}]{r.status:>15}[/]  {told}", soft_wrap=True)
    if folded.row_count:
        out.print(folded)


def write_files(run: SuiteRun, *, junit: Path | None, markdown: Path | None) -> None:
    """A run for machines, in the files that were asked for.

    Raises:
        FileError: if one cannot be written.
    """
    if junit:
        write(junit, to_junit(run))
    if markdown:
        write(markdown, to_markdown(run))


def to_junit(run: SuiteRun) -> str:
    """JUnit's XML, which every CI reads."""
    suite = ElementTree.Element(
        "testsuite",
        name=f"mixer-spec {run.backend}",
        tests=str(len(run.results)),
        failures=str(sum(r.status in ("fail", "unexpected_pass") for r in run.results)),
        errors=str(sum(r.status == "error" for r in run.results)),
        skipped=str(sum(r.status in ("unsupported", "expected_fail") for r in run.results)),
        time=f"{sum(r.seconds for r in run.results):.3f}",
    )
    kinds = {
        "fail": "failure",
        "unexpected_pass": "failure",
        "error": "error",
        "unsupported": "skipped",
        "expected_fail": "skipped",
    }
    for r in run.results:
        one = ElementTree.SubElement(
            suite, "testcase", classname=r.case, name=r.id, time=f"{r.seconds:.3f}"
        )
        if r.status in kinds:
            found = ElementTree.SubElement(one, kinds[r.status], message=printable(r.message))
            found.text = printable(r.message)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def printable(text: str) -> str:
    """Without control characters, which XML cannot have and which turn the text on a page around.

    Example:
        >>> printable("a\\x00b\\u202ec")
        'a?b?c'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def to_markdown(run: SuiteRun) -> str:
    """A summary for a pull request: a row for each family."""
    rows = [f"### {verdict(run)}", ""]
    rows += ["| family | what | models | worst margin | status |", "|---|---|---|---|---|"]
    for case in CASES.values():
        mine = [r for r in run.results if r.case == case.id]
        if not mine:
            continue
        counts = Counter(r.status for r in mine)
        status = ", ".join(f"{n} {s}" if len(counts) > 1 else s for s, n in counts.items())
        margins = [r.margin for r in mine if r.margin is not None]
        worst = f"{max(margins):.2g}" if margins and max(margins) < math.inf else "-"
        rows.append(f"| {case.id} | {case.title} | {len(mine)} | {worst} | {status} |")
    bad = [r for r in run.results if r.status not in ("pass", "unsupported")]
    if bad:
        rows += ["", *(f"- `{r.id}` **{r.status}**: {_cell(r.message)}" for r in bad)]
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")


def write(path: Path, text: str) -> None:
    """Write one of these as a whole.

    Raises:
        FileError: if the operating system refuses, or there is no such folder.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
