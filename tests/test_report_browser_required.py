"""Without a browser the tests of the page are skipped, but never where a browser is required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("required", "code", "told"),
    [
        ({}, 0, "no chromium here"),
        ({"MIXER_BROWSER_REQUIRED": "1"}, 1, "chromium is required here"),
    ],
)
def test_a_missing_browser_fails_where_it_is_required(
    required: dict[str, str], code: int, told: str, tmp_path: Path
) -> None:
    environment = {name: text for name, text in os.environ.items() if "BROWSER" not in name}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-k",
            "light_or_dark",
            "tests/test_report_browser.py",
        ],
        env=environment | required | {"PATH": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    assert told in done.stdout


def test_the_check_of_a_clean_clone_requires_a_browser() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    before, _, _ = text.partition("make test")
    assert "export MIXER_BROWSER_REQUIRED=1" in before
    assert "install -yq --no-install-recommends chromium" in before
