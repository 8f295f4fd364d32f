"""Commands that call a backend in their own process: what it breaks is a sentence and an exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ENGINE = '''
"""Right, but for what each of these does."""

import os
import time

import numpy as np

from mixer_conformance.mutants.hostile import Honest


class Raises(Honest):
    def load(self, *given, **named):
        raise RuntimeError("no device")


class Hangs(Honest):
    def load(self, *given, **named):
        time.sleep(1000)


class Aborts(Honest):
    def load(self, *given, **named):
        os.abort()


class TakesLong(Honest):
    """Wrong in its first case, and still at work in the second."""

    loads = 0

    def model(self, spec, weights):
        TakesLong.loads += 1
        if TakesLong.loads > 2:  # the first case, and its diagnosis
            open("began", "w").close()
            time.sleep(1000)
        return super().model(spec, {**weights, "head.bias": 0 * weights["head.bias"]})


class CannotBeMade:
    def __init__(self):
        raise OSError("no driver")


class HasNoSuchModel(Honest):
    def load(self, *given, **named):
        raise NotImplementedError("token_dense")


class ReturnsTooLittle(Honest):
    def model(self, spec, weights):
        right = super().model(spec, weights)
        forward = right.forward
        right.forward = lambda inputs, taps=(): {"logits": forward(inputs)["logits"]}
        return right
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hostile_engine.py").write_text(ENGINE)
    return tmp_path


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mixer_spec", "conformance", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("engine", "code", "message"),
    [
        ("Raises", 3, "load raised RuntimeError: no device"),
        ("Hangs", 3, "load did not return; expected an answer within 1 s"),
        ("CannotBeMade", 3, "making backend hostile_engine:CannotBeMade raised OSError: no driver"),
        ("HasNoSuchModel", 4, "load raised NotImplementedError: token_dense"),
        ("ReturnsTooLittle", 1, "stem was not returned"),
    ],
)
def test_locate_says_what_a_backend_broke(
    folder: Path, engine: str, code: int, message: str
) -> None:
    backend = f"hostile_engine:{engine}"
    done = command(folder, "locate", "--backend", backend, "--limit", "1", "--json")
    assert done.returncode == code
    assert done.stdout == ""
    *stack, last = done.stderr.splitlines()
    assert last == f"error: {message}"
    # Where a backend raised, its own line is in the stack.
    assert any("hostile_engine.py" in line for line in stack) == (" raised " in message)


@pytest.mark.parametrize(
    ("text", "stack"),
    [
        ("import no_such_driver", ['  File "{path}", line 1, in <module>']),
        ("def load(:", ['  File "{path}", line 1', "    def load(:"]),
    ],
)
def test_a_module_that_cannot_be_imported_shows_its_own_line_alone(
    folder: Path, text: str, stack: list[str]
) -> None:
    (folder / "spoiled.py").write_text(text + "\n")
    done = command(folder, "run", "--backend", "spoiled:Backend")
    assert done.returncode == 3
    expected = [line.format(path=folder / "spoiled.py") for line in stack]
    assert [line for line in done.stderr.splitlines() if line in expected] == expected
    assert "mixer_conformance" not in done.stderr
    assert "importlib" not in done.stderr
    assert "Where and why" not in done.stdout


def test_whoever_ends_a_run_is_told_what_was_found_and_gets_no_verdict(folder: Path) -> None:
    run = ["run", "--backend", "hostile_engine:TakesLong", "--scales", "mixer", "--json"]
    # Where the tests run in the background, a shell has it ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [sys.executable, "-m", "mixer_spec", "conformance", *run],
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        signal.signal(signal.SIGINT, before)
        deadline = time.monotonic() + 60
        while not (folder / "began").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        try:
            out, told = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out) == (130, "")
    assert "fail  F01/mixer/f32-strict  logits" in told
    assert told.endswith("interrupted; cases judged so far: 1; no verdict\n")
    assert "Traceback" not in told


def test_fingerprint_says_it_too(folder: Path) -> None:
    done = command(folder, "fingerprint", "--backend", "hostile_engine:Raises")
    assert done.returncode == 3
    assert done.stderr.endswith("error: load raised RuntimeError: no device\n")


def test_a_backend_that_hangs_is_told_beside_the_other(folder: Path) -> None:
    given = ("--a", "hostile_engine:Hangs", "--b", "reference", "--limit", "1", "--json")
    done = command(folder, "diff", *given)
    assert done.returncode == 3
    hangs, right = json.loads(done.stdout)["backends"]
    assert hangs["crash"] == "load did not return; expected an answer within 1 s"
    assert right["conformant"]


def test_a_backend_that_aborts_leaves_its_stack(folder: Path) -> None:
    done = command(folder, "locate", "--backend", "hostile_engine:Aborts")
    assert done.returncode not in (0, 1)
    assert "Fatal Python error: Aborted" in done.stderr
    assert 'hostile_engine.py", line 24 in load' in done.stderr


def test_a_case_above_the_level_is_refused_with_its_level(folder: Path) -> None:
    done = command(folder, "run", "--backend", "reference", "--cases", "F01,F19")
    assert done.returncode == 2
    assert done.stderr == "error: cases: ['F19'] are not at level 2; do ask for level 4\n"
