"""The commands that write the page: `conformance run --html` and `conformance report`."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixer_conformance.page.findings import causes

Run = Callable[..., Any]


@pytest.fixture
def run(run: Run) -> Run:
    """Run ``mixer-spec conformance`` with arguments."""
    return functools.partial(run, "conformance")


BAD = "mixer_conformance.mutants.hostile:WritesInput"


def test_run_writes_every_form_at_once(run: Run, tmp_path: Path) -> None:
    html, junit, markdown = (tmp_path / name for name in ("a.html", "a.xml", "a.md"))
    told = run(
        *("run", "--backend", "reference", "--scales", "mixer", "--cases", "F01,F03", "--json"),
        *("--html", str(html), "--junit", str(junit), "--markdown", str(markdown)),
    )
    assert told.code == 0, told.err
    assert json.loads(told.out)["conformant"] is True
    assert "reference is conformant" in html.read_text(encoding="utf-8")
    assert "<testcase" in junit.read_text(encoding="utf-8")
    assert "| F01 |" in markdown.read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.md", "a.xml"]


def test_report_joins_stored_runs_and_exits_with_the_worst(run: Run, tmp_path: Path) -> None:
    paths = []
    for number, backend in enumerate(("reference", BAD)):
        told = run("run", "--backend", backend, "--scales", "mixer", "--cases", "F12", "--json")
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(told.out, encoding="utf-8")
    page = tmp_path / "page.html"
    joined = run("report", *map(str, paths), "--html", str(page), "--json")
    assert joined.code == 1
    data = json.loads(joined.out)
    assert data["page"] == str(page)
    assert [one["conformant"] for one in data["runs"]] == [True, False]
    assert f"--backend {BAD}" in page.read_text(encoding="utf-8")
    alone = run("report", str(paths[0]), "--html", str(page))
    assert alone.code == 0
    assert alone.out.splitlines() == [
        "reference: conformant at level 2 in f32-strict",
        str(page),
    ]


def test_the_command_of_a_finding_shows_it_again(run: Run, tmp_path: Path) -> None:
    told = run("run", "--backend", BAD, "--scales", "mixer", "--json")
    (cause, *_) = causes(json.loads(told.out))
    found = cause.found[0]
    words = shlex.split(found.again)
    again = run(*words[2:], "--json")
    assert again.code == told.code
    (result,) = json.loads(again.out)["results"]
    assert (result["id"], result["message"]) == (found.result["id"], found.result["message"])


def test_a_page_that_cannot_be_written_is_bad_input(run: Run, tmp_path: Path) -> None:
    told = run(
        *("run", "--backend", "reference", "--scales", "mixer", "--cases", "F01"),
        *("--html", str(tmp_path / "nowhere" / "a.html")),
    )
    assert told.code == 2
    assert "nowhere/a.html: there is no folder" in told.err


def test_a_bad_file_is_bad_input(run: Run, tmp_path: Path) -> None:
    told = run("report", str(tmp_path / "no.json"), "--html", str(tmp_path / "a.html"))
    assert told.code == 2
    assert "no.json: cannot be read" in told.err
    assert not (tmp_path / "a.html").exists()


def test_without_a_template_engine_the_extra_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "mixer_conformance.page")
    monkeypatch.delattr("mixer_conformance.page")
    told = run("run", "--backend", "reference", "--html", str(tmp_path / "a.html"))
    assert told.code == 2
    assert 'do `pip install "mixer-spec[report]"`' in told.err
