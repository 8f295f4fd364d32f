"""The worked example in Node: it reaches level L2 through files alone, and a mistake in it is found."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mixer_conformance.cases import CASES
from mixer_conformance.commands import conformance
from mixer_conformance.files import check, export
from mixer_spec.backend import Profile

EXAMPLE = Path(__file__).parents[1] / "examples" / "node-backend"
IN_PROCESS = {case.id for case in CASES.values() if case.in_process}


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.fail("node is missing; this example is tested with Node 20 or later: install it")
    return found


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything of a quick run up to level L2, unanswered."""
    folder = tmp_path_factory.mktemp("cases") / "quick"
    export(folder, level=2)
    return folder


def run(node: str, program: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [node, program / "main.mjs", folder],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def judged(folder: Path) -> tuple[int, dict[str, Any]]:
    """What the command says."""
    told = CliRunner().invoke(conformance, ["cases", "check", str(folder), "--json"])
    return told.exit_code, json.loads(told.stdout)


def edited(program: Path, file: str, old: str, new: str) -> Path:
    """A copy of the example with one mistake."""
    shutil.copytree(EXAMPLE, program)
    text = (program / file).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (program / file).write_text(text.replace(old, new), encoding="utf-8")
    return program


def test_the_example_is_conformant_at_level_2(node: str, cases: Path) -> None:
    done = run(node, EXAMPLE, cases)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in (EXAMPLE.parents[1] / "docs" / "cases.md").read_text(encoding="utf-8")
    code, verdict = judged(cases)
    assert (code, verdict["conformant"]) == (0, True)
    assert (verdict["backend"], verdict["level"], verdict["profile"]) == ("node", 2, "f32-strict")
    by_status = {r["id"]: r["status"] for r in verdict["results"] if r["case"] not in IN_PROCESS}
    assert set(by_status.values()) == {"pass"}
    assert len(by_status) == 50
    assert verdict["worst_passing_margin"] < 0.5


@pytest.mark.parametrize("profile", ["f32-strict", "f64"])
def test_every_family_is_right_in_both_arithmetics(
    node: str, tmp_path: Path, profile: Profile
) -> None:
    export(tmp_path / "cases", profile=profile, scales=["Z1"], families=["F01", "F22"])
    assert run(node, EXAMPLE, tmp_path / "cases").returncode == 0
    found = check(tmp_path / "cases").results
    assert {result.status for result in found} == {"pass"}
    assert len(found) == 20


def test_a_planted_mistake_is_rejected_located_and_named(
    node: str, cases: Path, tmp_path: Path
) -> None:
    wrong = edited(
        tmp_path / "wrong", "layers.mjs", 'approximation === "tanh"', 'approximation !== "tanh"'
    )
    folder = shutil.copytree(cases, tmp_path / "cases")
    assert run(node, wrong, folder).returncode == 0
    code, verdict = judged(folder)
    assert (code, verdict["conformant"]) == (1, False)
    found = {r["id"]: r for r in verdict["results"]}
    located = found["F01/mixer/f32-strict"]
    assert (located["status"], located["culprit"]) == ("fail", "blocks.0.token_mixing")
    assert located["margin"] > 100
    named = [one["diagnosis"] for one in verdict["results"] if one["diagnosis"]]
    # The one edit exchanges both forms, and the zoo has models of either.
    assert {one["mistake"] for one in named} == {"gelu by erf", "gelu by tanh"}
    diagnosis = found["F01/mixer/f32-strict"]["diagnosis"]
    assert diagnosis["mistake"] == "gelu by erf"
    assert "gelu by erf explains 100 %" in diagnosis["sentence"]
    assert found["F26/probe/f32-strict"]["message"] == "GELU's form: expected tanh, got erf"
    assert found["F21/mixer/f32-strict"]["status"] == "pass"  # the weights are as they were


def test_a_crash_in_one_layer_leaves_the_other_answers(
    node: str, cases: Path, tmp_path: Path
) -> None:
    wrong = edited(
        tmp_path / "wrong", "layers.mjs", "const size =", "throw Error('out of memory') ??"
    )
    folder = shutil.copytree(cases, tmp_path / "cases")
    done = run(node, wrong, folder)
    assert done.returncode == 1
    assert "out of memory" in done.stderr
    code, verdict = judged(folder)
    statuses = {r["id"]: r["status"] for r in verdict["results"]}
    assert code == 3
    assert statuses["F01/vit/f32-strict"] == "error"
    assert statuses["F01/mixer/f32-strict"] == "pass"


def test_a_layer_kind_that_is_missing_is_unsupported(
    node: str, cases: Path, tmp_path: Path
) -> None:
    fewer = edited(tmp_path / "fewer", "model.mjs", '  attention: "attention",', " ")
    folder = shutil.copytree(cases, tmp_path / "cases")
    assert run(node, fewer, folder).returncode == 0
    found = {result.id: result for result in check(folder).results}
    assert found["F01/vit/f32-strict"].status == "unsupported"
    assert found["F01/vit/f32-strict"].message == "layers of kind attention"
    assert found["F01/mixer/f32-strict"].status == "pass"


def test_gradients_are_unsupported_and_nothing_is_executed(node: str, tmp_path: Path) -> None:
    export(tmp_path / "cases", level=4, scales=["mixer"], families=["F17", "F19"])
    assert run(node, EXAMPLE, tmp_path / "cases").returncode == 0
    code, verdict = judged(tmp_path / "cases")
    assert code == 4
    assert [r["message"] for r in verdict["results"]] == [
        "requests of kind vjp",
        "requests of kind train_step",
    ]


def test_a_folder_without_cases_is_refused(node: str, tmp_path: Path) -> None:
    done = run(node, EXAMPLE, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: node main.mjs DIR")
