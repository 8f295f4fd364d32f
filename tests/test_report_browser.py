"""The page in a real browser: it is laid out at every width, says nothing to the console, runs
nothing of what a report says, and is dark where the reader's screen is.

Each look is one headless Chromium whose document holds the page in a frame of the width in
question, untouched, and a probe outside of it that measures and writes what it saw as JSON.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mixer_conformance import run as run_suite
from mixer_conformance.mutants import MUTANTS
from mixer_conformance.outputs import SuiteRun, to_data
from mixer_conformance.page import render
from mixer_spec.backend import Backend
from mixer_spec.reference import ReferenceBackend

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
REQUIRED = "MIXER_BROWSER_REQUIRED" in os.environ

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None and not REQUIRED,
        reason="no chromium here; MIXER_BROWSER_REQUIRED=1, as in .ci/run, makes that a failure",
    ),
]

WIDTHS = (390, 1280)

_PROBE = """<!doctype html><meta name="color-scheme" content="light dark">
<iframe id="frame" style="width:{width}px;height:3000px;color-scheme:light dark" srcdoc="{page}">
</iframe><pre id="seen"></pre>
<script>
addEventListener("load", () => {{
  const page = document.getElementById("frame").contentDocument;
  const boxes = (what) => [...page.querySelectorAll(what)]
    .filter((one) => one.checkVisibility())
    .map((one) => one.getBoundingClientRect())
    .map((box) => [Math.round(box.width), Math.round(box.height), Math.round(box.left)]);
  const root = page.documentElement;
  document.getElementById("seen").textContent = JSON.stringify({{
    title: page.title,
    overflow: root.scrollWidth - root.clientWidth,
    paper: getComputedStyle(page.body).backgroundColor,
    stages: boxes("td.stage:not(.blank)"),
    bad: boxes("td.stage.far, td.stage.over").length,
    cards: boxes(".card"),
    cells: boxes(".matrix td[title]"),
    lines: boxes(".depth polyline"),
    bars: boxes(".limits b"),
    code: boxes("pre code"),
  }});
}});
</script>"""


class Look(NamedTuple):
    seen: dict[str, Any]
    console: list[str]


def look(page: str, folder: Path, *, width: int = 1280, dark: bool = False) -> Look:
    """What a browser makes of a page."""
    assert CHROMIUM, "chromium is required here and not installed"
    path = folder / "probe.html"
    path.write_text(_PROBE.format(width=width, page=html.escape(page)), encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *("--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"),
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            *("--window-size=1400,3200", "--virtual-time-budget=5000", "--dump-dom"),
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (seen,) = re.findall(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert seen, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Look(json.loads(html.unescape(seen)), console)


def page_of(*backends: Backend, named: str = "acme") -> str:
    found = []
    for backend in backends:
        results = run_suite(backend, scales=["mixer", "deep"], cases=["F01", "F03", "F26"])
        done = SuiteRun(
            backend=named,
            info=backend.info(),
            level=2,
            profile="f32-strict",
            effort="quick",
            seed=0,
            results=results,
        )
        found.append(json.loads(json.dumps(to_data(done))))
    return render(found)


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(ReferenceBackend(), MUTANTS["gelu by erf"].backend)


def visible(boxes: list[list[int]]) -> bool:
    """Whether every box has a width and a height."""
    return bool(boxes) and all(width > 0 and height > 0 for width, height, _ in boxes)


@pytest.mark.parametrize("width", WIDTHS)
def test_everything_has_its_place_and_nothing_is_wider_than_the_screen(
    page: str, tmp_path: Path, width: int
) -> None:
    seen, console = look(page, tmp_path, width=width)
    assert console == []
    assert seen["title"] == "Conformance: reference, mutant"
    assert seen["overflow"] == 0
    # Two backends; mixer has 2 blocks and deep 12, of two branches; and four other stages.
    assert len(seen["stages"]) == 2 * (2 * 2 + 4) + 2 * (12 * 2 + 4)
    assert seen["bad"] == 2 * (2 + 12)  # both branches of every block have a GELU
    assert all(w >= 8 and h >= 12 for w, h, _ in seen["stages"])
    assert len(seen["cards"]) == 2
    assert len({left for _, _, left in seen["cards"]}) == (1 if width < 600 else 2)
    assert len(seen["cells"]) == 4
    assert len(seen["bars"]) == 30
    assert len(seen["lines"]) == 2 * (2 + 2)  # two models: two backends, what is allowed, the root
    for what in ("cards", "cells", "bars", "code"):
        assert visible(seen[what]), what
    assert all(max(w, h) > 50 for w, h, _ in seen["lines"])


def test_it_is_light_or_dark_as_the_reader_has_it(page: str, tmp_path: Path) -> None:
    def brightness(*, dark: bool) -> int:
        paper = look(page, tmp_path, dark=dark).seen["paper"]
        return sum(map(int, re.findall(r"\d+", paper)[:3]))

    assert brightness(dark=True) < 150
    assert brightness(dark=False) > 600


def test_a_name_that_is_a_script_does_not_run(tmp_path: Path) -> None:
    attack = (
        "\"><img src=x onerror=\"document.title='caught'\"><script>document.title='caught'</script>"
    )
    seen, console = look(page_of(ReferenceBackend(), named=attack), tmp_path)
    assert seen["title"] == "Conformance: reference"
    assert console == []


def test_even_a_script_that_got_in_would_not_run(page: str, tmp_path: Path) -> None:
    script = "<script>document.title = 'caught'</script><img src='https://example.org/x.png'>"
    seen, console = look(page.replace("</main>", f"{script}</main>"), tmp_path)
    assert seen["title"] == "Conformance: reference, mutant"
    assert any("Content Security Policy" in line for line in console)


def test_the_probe_sees_a_page_that_is_broken(page: str, tmp_path: Path) -> None:
    style = "<style>.strips { display: none } .card { min-width: 2000px }</style>"
    seen, _ = look(page.replace("</head>", f"{style}</head>"), tmp_path)
    assert seen["stages"] == []
    assert seen["overflow"] > 0
