"""Results for people and machines: terminal, JSON, JUnit and Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from mixer_spec import BackendInfo
from mixer_spec.backend import Profile

from .cases import CASES
from .result import Result, Status, exit_code, is_conformant

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = 1
"""The version of the JSON form."""

_COLOURS: dict[Status, str] = {
    "pass": "green",
    "expected_fail": "yellow",
    "unsupported": "dim",
    "fail": "red",
    "unexpected_pass": "red",
    "error": "red",
}


def to_data(
    results: Sequence[Result], info: BackendInfo, profile: Profile, level: int
) -> dict[str, Any]:
    """A run as plain data."""
    return {
        "schema_version": SCHEMA_VERSION,
        "backend": info.name,
        "versions": dict(info.versions),
        "device": info.device,
        "profile": profile,
        "level": level,
        "conformant": is_conformant(results),
        "exit_code": exit_code(results),
        "counts": dict(Counter(result.status for result in results)),
        "worst_passing_margin": worst_margin(results),
        "results": [result.to_data() for result in results],
    }


def worst_margin(results: Sequence[Result]) -> float | None:
    """How near to its limit the nearest of the passing cases is."""
    return max(
        (r.margin for r in results if r.status == "pass" and r.margin is not None), default=None
    )


def verdict(results: Sequence[Result], info: BackendInfo, profile: Profile, level: int) -> str:
    """The run in one sentence."""
    counts = Counter(result.status for result in results)
    counted = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    worst = worst_margin(results)
    near = f"; worst passing margin {worst:.2f}" if worst is not None else ""
    word = "conformant" if is_conformant(results) else "NOT conformant"
    if not results:
        word, counted = "NOTHING EXECUTED", "no case suits"
    return f"{info.name} ({info.device}): {word} at level {level} in {profile}; {counted}{near}"


def lines(results: Sequence[Result]) -> list[str]:
    """A line for each result that is no plain pass, with rich's markup, without the verdict."""
    from rich.markup import escape

    return [
        f"[{_COLOURS[r.status]}]{r.status:>15}[/]  {escape(r.id)}"
        + (f"  [bold]{escape(r.culprit)}[/]" if r.culprit else "")
        + f"  {escape(r.message)}"
        for r in results
        if r.status != "pass"
    ]


def print_results(
    out: Console, results: Sequence[Result], info: BackendInfo, profile: Profile, level: int
) -> None:
    """A run for people: what is no plain pass, and the verdict."""
    for line in lines(results):
        out.print(line, soft_wrap=True)
    out.print(verdict(results, info, profile, level), soft_wrap=True)


def write_files(
    results: Sequence[Result],
    info: BackendInfo,
    profile: Profile,
    level: int,
    *,
    name: str,
    junit: Path | None,
    markdown: Path | None,
) -> None:
    """A run for machines, in the files that were asked for; ``name`` is the suite's in JUnit."""
    if junit:
        junit.write_text(to_junit(results, f"mixer-spec {name}"), encoding="utf-8")
    if markdown:
        markdown.write_text(to_markdown(results, info, profile, level), encoding="utf-8")


def to_junit(results: Sequence[Result], name: str) -> str:
    """JUnit's XML, which every CI reads."""
    suite = ElementTree.Element(
        "testsuite",
        name=name,
        tests=str(len(results)),
        failures=str(sum(r.status in ("fail", "unexpected_pass") for r in results)),
        errors=str(sum(r.status == "error" for r in results)),
        skipped=str(sum(r.status in ("unsupported", "expected_fail") for r in results)),
        time=f"{sum(r.seconds for r in results):.3f}",
    )
    kinds = {
        "fail": "failure",
        "unexpected_pass": "failure",
        "error": "error",
        "unsupported": "skipped",
        "expected_fail": "skipped",
    }
    for r in results:
        one = ElementTree.SubElement(
            suite, "testcase", classname=r.case, name=r.id, time=f"{r.seconds:.3f}"
        )
        if r.status in kinds:
            found = ElementTree.SubElement(one, kinds[r.status], message=_printable(r.message))
            found.text = _printable(r.message)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _printable(text: str) -> str:
    """Without the control characters that XML cannot have."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def to_markdown(results: Sequence[Result], info: BackendInfo, profile: Profile, level: int) -> str:
    """A summary for a pull request: a row for each family."""
    rows = [f"### {verdict(results, info, profile, level)}", ""]
    rows += ["| family | what | models | worst margin | status |", "|---|---|---|---|---|"]
    for case in CASES.values():
        mine = [r for r in results if r.case == case.id]
        if not mine:
            continue
        counts = Counter(r.status for r in mine)
        status = ", ".join(f"{n} {s}" if len(counts) > 1 else s for s, n in counts.items())
        margins = [r.margin for r in mine if r.margin is not None]
        worst = f"{max(margins):.2g}" if margins and max(margins) < math.inf else "-"
        rows.append(f"| {case.id} | {case.title} | {len(mine)} | {worst} | {status} |")
    bad = [r for r in results if r.status not in ("pass", "unsupported")]
    if bad:
        rows += ["", *(f"- `{r.id}` **{r.status}**: {_cell(r.message)}" for r in bad)]
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")
