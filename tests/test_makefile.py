"""The Makefile's environment: made when missing, left alone when it is there, renewed on change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

# Stands for Python: writes down what it is asked for, and makes an environment that has itself.
_PYTHON = """#!/bin/sh
case "$*" in
  "-m pip --version") ;;
  -c*) exit ${OLD_PYTHON:-0} ;;
  *) echo "$*" >> calls ;;
esac
case "$*" in *venv*) mkdir -p .venv/bin && cp python3 .venv/bin/python ;; esac
"""

LOCKED = "-m pip install --quiet --no-deps -r requirements-dev.lock"
EDITABLE = "-m pip install --quiet --no-deps --no-build-isolation -e ."
CREATED = "-m venv --clear .venv"


class Checkout:
    """A folder with the Makefile, the files it depends on, and a python3 that only writes down."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("Makefile", "requirements-dev.lock", "pyproject.toml"):
            shutil.copy(ROOT / name, path)
        (path / "python3").write_text(_PYTHON)
        (path / "python3").chmod(0o755)

    def make(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Ask for the environment."""
        return subprocess.run(
            ["make", "PYTHON=./python3", ".venv/.installed"],
            cwd=self.path,
            env={**os.environ, "MAKEFLAGS": "", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[str]:
        """What Python was asked for since the last question."""
        log = self.path / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def touch(self, name: str) -> None:
        """Change a file, later than everything else by any clock."""
        later = time.time() + 5
        os.utime(self.path / name, (later, later))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_environment_is_made_when_missing_and_left_alone_after(checkout: Checkout) -> None:
    assert checkout.make().returncode == 0
    assert checkout.calls() == [CREATED, LOCKED, EDITABLE]
    assert checkout.make().returncode == 0
    assert checkout.calls() == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [("requirements-dev.lock", [LOCKED, EDITABLE]), ("pyproject.toml", [EDITABLE])],
)
def test_change_of_the_lock_or_the_project_installs_again(
    checkout: Checkout, changed: str, expected: list[str]
) -> None:
    checkout.make()
    checkout.calls()
    checkout.touch(changed)
    assert checkout.make().returncode == 0
    assert checkout.calls() == expected


def test_environment_that_is_half_made_is_made_anew(checkout: Checkout) -> None:
    (checkout.path / ".venv" / "bin").mkdir(parents=True)
    assert checkout.make().returncode == 0
    assert checkout.calls() == [CREATED, LOCKED, EDITABLE]


def test_old_python_is_refused_before_anything_is_made(checkout: Checkout) -> None:
    done = checkout.make(OLD_PYTHON="1")
    assert done.returncode != 0
    assert "error: ./python3 must be Python 3.11 or later; try make PYTHON=" in done.stderr
    assert not (checkout.path / ".venv").exists()


def test_help_names_every_target() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    told = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^make ([a-z-]+) ", told, re.MULTILINE) == phony.split()
