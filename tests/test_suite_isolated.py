"""The suite in a process of its own: what hangs, aborts or exits is a finding, and the rest goes on."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mixer_conformance import Excuse, Result, isolated, run, run_isolated
from mixer_conformance.result import exit_code
from mixer_spec import InputError, UnknownNameError

HOSTILE = '''
"""Right on most inputs; what each does on the others stops a process."""

import ctypes
import os
import sys
import threading

import numpy as np

from mixer_conformance.mutants.hostile import Honest


def on_five(fault):
    """A backend that has a fault on batches of five, which only F11 makes."""

    class Faulty(Honest):
        def model(self, spec, weights):
            right = super().model(spec, weights)
            forward = right.forward

            def faulty(inputs, taps=()):
                if len(inputs) == 5:
                    fault()
                return forward(inputs, taps)

            right.forward = faulty
            return right

    return Faulty


def loop():
    while True:
        pass


def lock():
    held = threading.Lock()
    held.acquire()
    held.acquire()


class Exits:
    def __init__(self):
        os._exit(7)


class Raises:
    def __init__(self):
        raise RuntimeError("no device")


class Prints(Honest):
    def load(self, *given, **named):
        print("{not a result}")
        os.write(1, b"nor this\\n")
        return super().load(*given, **named)


class AlwaysHangs(Honest):
    def load(self, *given, **named):
        loop()


Loops = on_five(loop)
Locks = on_five(lock)
KeepsTheInterpreter = on_five(lambda: ctypes.PyDLL(None).sleep(1000))
Aborts = on_five(os.abort)
Segfaults = on_five(lambda: ctypes.string_at(0))
Quits = on_five(lambda: os._exit(0))
'''


@pytest.fixture(autouse=True)
def _hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostile_engine.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(isolated, "GRACE", 5.0)


def judged(
    name: str, cases: Sequence[str] = ("F01", "F11", "F21"), limit: float = 5.0
) -> dict[str, Result]:
    _, results = run_isolated(f"hostile_engine:{name}", scales=["mixer"], cases=cases, limit=limit)
    return {result.case: result for result in results}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Loops", "forward did not return; expected an answer within 5 s"),
        (
            "KeepsTheInterpreter",
            "the backend did not let Python run and its process had to be ended",
        ),
        ("Aborts", "the backend ended its process by SIGABRT"),
        ("Segfaults", "the backend ended its process by SIGSEGV"),
        ("Quits", "the backend ended its process with exit code 0"),
    ],
)
def test_what_stops_a_process_is_a_finding_and_the_rest_goes_on(name: str, message: str) -> None:
    found = judged(name)
    assert {case: result.status for case, result in found.items()} == {
        "F01": "pass",
        "F11": "error",
        "F21": "pass",
    }
    assert found["F11"].message == message
    assert exit_code(found.values()) == 3


def test_after_three_hangs_the_rest_is_named_and_not_run() -> None:
    found = judged("AlwaysHangs", cases=["F01", "F03", "F10", "F11", "F22"], limit=0.5)
    assert [result.status for result in found.values()] == ["error"] * 5
    assert [r.message[:20] for r in found.values()] == ["load did not return;"] * 3 + [
        "not run: 3 calls hun"
    ] * 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Exits", "the backend ended its process with exit code 7 while it was imported and made"),
        ("Raises", "the backend raised RuntimeError: no device while it was imported and made"),
    ],
)
def test_a_backend_that_cannot_be_made_is_one_finding(name: str, message: str) -> None:
    info, (result,) = run_isolated(f"hostile_engine:{name}")
    assert (result.id, result.status) == ("start/-/f32-strict", "error")
    assert result.message == message
    assert info.name == f"hostile_engine:{name}"


def test_what_a_backend_prints_does_not_disturb_the_results(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert {result.status for result in judged("Prints").values()} == {"pass"}
    assert "nor this" in capfd.readouterr().err


def test_an_isolated_run_says_the_same_as_one_in_this_process() -> None:
    info, apart = run_isolated("reference", scales=["mixer", "vit"])
    here = run("reference", scales=["mixer", "vit"])
    assert info.name == "reference"
    assert len(here) > 30
    plain = [(r.id, r.status, r.margin, r.message, r.culprit, r.level) for r in here]
    assert [(r.id, r.status, r.margin, r.message, r.culprit, r.level) for r in apart] == plain


def test_a_crash_can_be_excused() -> None:
    tomorrow = datetime.date.today() + datetime.timedelta(days=1)
    excuse = Excuse(case="F11", reason="asserts", issue="https://example.org/1", expires=tomorrow)
    _, results = run_isolated(
        "hostile_engine:Aborts", scales=["mixer"], cases=["F01", "F11"], excuses=[excuse]
    )
    assert [result.status for result in results] == ["pass", "expected_fail"]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"level": 5}, InputError),
        ({"cases": ["F99"]}, InputError),
        ({"scales": ["Z9"]}, InputError),
        ({"profile": "f32-tf32"}, UnknownNameError),
    ],
)
def test_an_unknown_choice_is_refused_as_in_this_process(
    wrong: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error) as here:
        run("reference", **wrong)  # type: ignore[arg-type]
    with pytest.raises(error) as apart:
        run_isolated("reference", **wrong)  # type: ignore[arg-type]
    assert str(apart.value) == str(here.value)


COMMAND = [sys.executable, "-m", "mixer_spec", "conformance", "run", "--json"]
CASES = ["--scales", "mixer", "--cases", "F01,F11,F21", "--limit", "5"]


def test_the_command_ends_with_its_code_though_a_call_never_returns(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--backend", "hostile_engine:Locks", *CASES],
        cwd=tmp_path,  # where hostile_engine.py lies, which is enough
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    assert report["counts"] == {"pass": 2, "error": 1}
    assert report["exit_code"] == 3
