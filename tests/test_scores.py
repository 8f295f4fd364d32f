"""The README's scores: they are those of the file, and the file those of a fresh run."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mixer_conformance import run
from mixer_conformance.audit import examine
from mixer_conformance.cases import CASES
from mixer_conformance.mutants import MUTANTS, Mutant, hostile
from mixer_conformance.scores import (
    BACKENDS,
    kill_matrix,
    level_of,
    levels_table,
    main,
    of_results,
    of_verdict,
    with_scores,
)
from mixer_spec import FileError, InputError

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DATA_FILE = ROOT / "docs" / "conformance.json"
DATA: dict[str, Any] = json.loads(DATA_FILE.read_text(encoding="utf-8"))
MEASURED = {mutant["name"]: mutant for mutant in DATA["suite"]["mutants"]}

BEGIN, END = "<!-- conformance: begin mutants -->\n", "<!-- conformance: end -->\n"


def test_the_tables_of_the_readme_are_up_to_date() -> None:
    page = README.read_text(encoding="utf-8")
    told = "run: python -m mixer_conformance.scores tables docs/conformance.json README.md"
    assert with_scores(page, DATA) == page, told


def test_every_mutant_was_measured_with_the_family_that_must_kill_it() -> None:
    told = "run: python -m mixer_conformance.scores measure docs/conformance.json"
    expected = {name: known.killer for name, known in MUTANTS.items()}
    assert {name: one["family"] for name, one in MEASURED.items()} == expected, told


@pytest.mark.parametrize("name", [*MUTANTS][::10])
def test_a_fresh_audit_of_a_mutant_says_the_same(name: str) -> None:
    fresh, measured = of_verdict(examine(MUTANTS[name], [MUTANTS[name].killer])), MEASURED[name]
    margin, expected = fresh.pop("margin"), {**measured}.pop("margin")
    assert fresh == {key: value for key, value in measured.items() if key != "margin"}
    # The noise of float32 differs with the machine's products.
    assert margin == (expected if expected == "infinite" else pytest.approx(expected, rel=0.3))


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS)
def test_a_fresh_run_of_a_backend_reaches_the_same_level(name: str) -> None:
    (measured,) = [backend for backend in DATA["backends"] if backend["backend"] == name]
    cases = ["F01", "F17", "F19", "F27", "F28"]  # of every level
    fresh = of_results(run(name, level=4, scales=["mixer", "deep"], cases=cases, limit=600))
    assert level_of(fresh) == level_of(measured)
    for one, all_models in zip(fresh["levels"], measured["levels"], strict=True):
        assert one["cases"] <= all_models["cases"]
        if one["worst"] is not None:
            assert one["worst"] < 0.7


def test_every_figure_of_the_suite_is_reached() -> None:
    assert DATA["suite"]["false_alarms"] == []
    assert all(mutant["killed"] for mutant in MEASURED.values())
    margins = [m["margin"] for m in MEASURED.values() if m["margin"] != "infinite"]
    assert min(margins) >= 3
    for key in ("located", "named"):
        outcomes = [m[key] for m in MEASURED.values() if m[key] is not None]
        assert len(outcomes) > 80
        assert sum(outcomes) / len(outcomes) >= 0.95


def test_a_mutant_that_survived_shows_in_the_table() -> None:
    data = copy.deepcopy(DATA["suite"])
    data["mutants"][0] |= {"killed": False, "located": False, "named": False, "margin": 0.5}
    assert kill_matrix(data) != kill_matrix(DATA["suite"])
    first, last = (kill_matrix(data).splitlines()[i] for i in (2, -1))
    count = sum(mutant["family"] == "F01" for mutant in data["mutants"])
    assert f"| {count - 1} of {count} |" in first
    assert f"| {len(MUTANTS) - 1} of {len(MUTANTS)} |" in last
    assert first.endswith("| 0.5 |")


def test_a_backend_that_fails_reaches_no_level_above() -> None:
    wrong = of_results(run(MUTANTS["gelu by erf"].backend, scales=["mixer"], cases=["F01", "F27"]))
    assert level_of(wrong) == 0
    backend = {"backend": "acme", "versions": {"acme": "1.0"}, **wrong}
    (*_, row) = levels_table([backend]).splitlines()
    assert row == "| acme 1.0 | L0 structure | 1 of 2 | - | - | - |"
    lost = of_results(run(hostile.RefusesEverything(), scales=["mixer"], cases=["F01", "F27"]))
    assert level_of(lost) is None


def test_an_engine_without_gradients_stays_at_its_level() -> None:
    cases = ["F01", "F17", "F27", "F28"]
    results = run(Mutant(), level=4, scales=["mixer", "deep"], cases=cases)
    assert level_of(of_results(results)) == 2


def test_old_tables_are_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}old\n{END}below\n", encoding="utf-8")
    main(["tables", str(DATA_FILE), str(page)])
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"above\n{BEGIN}| family | what it does |")
    assert text.endswith(f"{END}below\n")
    assert "old" not in text
    assert with_scores(text, DATA) == text
    assert all(f"| {case} |" in text for case in {m["family"] for m in MEASURED.values()})
    assert set(CASES) >= {m["family"] for m in MEASURED.values()}


@pytest.mark.parametrize(
    "page", ["", BEGIN, END, BEGIN + BEGIN + END, BEGIN.replace("mutants", "x") + END]
)
def test_a_page_without_its_marks_is_refused(page: str) -> None:
    with pytest.raises(InputError, match=r"^notes\.md: .*expected `<!-- conformance: begin"):
        with_scores(page, DATA, "notes.md")


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected `measure DATA`"):
        main(["measure"])
    with pytest.raises(FileError, match="cannot be read"):
        main(["tables", str(DATA_FILE), str(tmp_path / "no.md")])


def test_a_command_line_that_is_wrong_says_so() -> None:
    command = [sys.executable, "-m", "mixer_conformance.scores", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: scores: expected `measure DATA`")
