"""Cases as files: what a check makes of right, wrong and damaged answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner

from mixer_conformance import Result, run
from mixer_conformance.cases import CASES
from mixer_conformance.commands import conformance
from mixer_conformance.files import Check, check, export, read_index
from mixer_conformance.files.tensors import read_tensors
from mixer_conformance.mutants import MUTANTS
from mixer_spec import Backend, FileError, load_backend
from tests.case_program import answer, tensors, write

Array = np.ndarray[Any, Any]
IN_PROCESS = {case.id for case in CASES.values() if case.in_process}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything of a quick run, unanswered."""
    folder = tmp_path_factory.mktemp("cases") / "quick"
    export(folder, level=4)
    return folder


def answered(cases: Path, folder: Path, backend: Backend) -> Check:
    shutil.copytree(cases, folder)
    answer(folder, backend)
    return check(folder)


# --- a check says what a run says -------------------------------------------------------------


def _said(results: Sequence[Result]) -> list[Result]:
    """What files can ask, without the time; a file's order of axes in memory moves the last bit."""
    return [
        replace(r, seconds=0.0, margin=r.margin and float(f"{r.margin:.9g}"))
        for r in results
        if r.case not in IN_PROCESS
    ]


def test_a_right_program_is_judged_as_if_it_were_here(cases: Path, tmp_path: Path) -> None:
    found = answered(cases, tmp_path / "answered", load_backend("reference"))
    direct = run("reference", level=4)
    assert _said(found.results) == _said(direct)
    assert {r.status for r in _said(found.results)} == {"pass"}
    assert [r.id for r in found.results] == [r.id for r in direct]
    assert found.diagnoses == {}


@pytest.mark.parametrize(
    "mutant",
    [
        "gelu by erf",
        "a tap missing",
        "a branch detached",
        "gradients clipped",
        "adam's epsilon in the root",
    ],
)
def test_a_wrong_program_is_judged_as_if_it_were_here(
    cases: Path, tmp_path: Path, mutant: str
) -> None:
    backend = MUTANTS[mutant].backend
    found = answered(cases, tmp_path / "answered", backend)
    assert _said(found.results) == _said(run(backend, level=4))
    assert {r.status for r in _said(found.results)} >= {"pass", "fail"}


def test_a_mistake_is_named(cases: Path, tmp_path: Path) -> None:
    found = answered(cases, tmp_path / "answered", MUTANTS["gelu by erf"].backend)
    named = found.diagnoses["mixer"]
    assert named.startswith("blocks.0.token_mixing: gelu by erf explains 100 % of the error")


def test_a_program_without_taps_is_judged_at_its_logits(cases: Path, tmp_path: Path) -> None:
    backend = replace(MUTANTS["gelu by erf"].backend, sees_taps=False)
    found = answered(cases, tmp_path / "answered", backend)
    assert _said(found.results) == _said(run(backend, level=4))
    (first,) = [r for r in found.results if r.id == "F01/mixer/f32-strict"]
    assert (first.status, first.culprit) == ("fail", "logits")
    assert found.diagnoses == {}


def test_what_files_cannot_ask_is_unsupported_and_says_why(cases: Path, tmp_path: Path) -> None:
    found = answered(cases, tmp_path / "answered", load_backend("reference"))
    left_out = {r.case: r for r in found.results if r.status == "unsupported"}
    assert left_out.keys() == IN_PROCESS == {"F12", "F23", "F24", "F25", "F29"}
    for case, result in left_out.items():
        assert result.message == f"cannot be asked in files: {CASES[case].in_process}"
        assert result.margin is None


# --- one damaged answer, and the rest goes on -------------------------------------------------

DAMAGED = "F01/mixer/f32-strict"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases of one model, rightly answered."""
    folder = tmp_path_factory.mktemp("cases") / "few"
    export(folder, scales=["mixer"], families=["F01", "F21", "F27"])
    answer(folder, load_backend("reference"))
    return folder


@pytest.fixture
def damaged(few: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    shutil.copytree(few, tmp_path / "few")
    return tmp_path / "few"


def place(folder: Path) -> Path:
    """The folder of the request of :data:`DAMAGED`."""
    index = read_index(folder)
    (digest,) = next(case.requests for case in index.cases if case.id == DAMAGED)
    return folder / next(one.folder for one in index.requests if one.digest == digest)


def changed(folder: Path, change: Callable[[dict[str, Array]], dict[str, Array]]) -> None:
    path = place(folder) / "outputs.safetensors"
    found, metadata = read_tensors(path, "outputs")
    write(path, change(found), metadata["request"])


def refused(folder: Path, **fields: Any) -> None:
    (place(folder) / "outputs.safetensors").unlink()
    digest = json.loads((place(folder) / "request.json").read_text())["digest"]
    (place(folder) / "refusal.json").write_text(json.dumps({"request": digest, **fields}))


def _unlink(name: str) -> Callable[[Path], None]:
    return lambda folder: (place(folder) / name).unlink()


def _cut(folder: Path) -> None:
    path = place(folder) / "outputs.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def _garbage(folder: Path) -> None:
    (place(folder) / "outputs.safetensors").write_bytes(b"no safetensors at all")


def _unsigned(folder: Path) -> None:
    path = place(folder) / "outputs.safetensors"
    path.write_bytes(safetensors.numpy.save(dict(read_tensors(path, "outputs")[0])))


def _stale(folder: Path) -> None:
    """An answer of another seed's request."""
    other = folder.with_name("other")
    export(other, scales=["mixer"], families=["F01"], seed=1)
    answer(other, load_backend("reference"))
    shutil.copy(place(other) / "outputs.safetensors", place(folder))


def _with_bytes(folder: Path) -> None:
    changed(folder, lambda found: {**found, "stem": found["stem"].astype(np.uint8)})


def _nan(found: dict[str, Array]) -> dict[str, Array]:
    logits = found["logits"].copy()
    logits[1, 2] = np.nan
    return {**found, "logits": logits}


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "missing": (_unlink("outputs.safetensors"), "error", "there is no such file; expected the"),
    "cut off": (_cut, "error", "is not a whole safetensors file; expected header and tensors"),
    "garbage": (_garbage, "error", "is not a whole safetensors file"),
    "without digest": (_unsigned, "error", "in __metadata__, got None; do write"),
    "stale": (_stale, "error", "does not answer this request; expected 'request'"),
    "bytes": (_with_bytes, "error", "stem: unknown dtype; expected one of ['F64', 'F32', 'F16'"),
    "tap missing": (
        lambda folder: changed(folder, lambda a: {n: x for n, x in a.items() if n != "pooled"}),
        "fail",
        "pooled was not returned",
    ),
    "shape": (
        lambda folder: changed(folder, lambda a: {**a, "logits": a["logits"][:, :-1]}),
        "fail",
        "logits: wrong shape; expected [3, 7], got [3, 6]",
    ),
    "dtype": (
        lambda folder: changed(folder, lambda a: {**a, "norm": a["norm"].astype(np.float64)}),
        "fail",
        "norm: wrong dtype; expected float32, got float64",
    ),
    "values": (
        lambda folder: changed(folder, lambda a: {**a, "pooled": 2 * a["pooled"]}),
        "fail",
        " (the sample first): expected 0.865",
    ),
    "NaN": (
        lambda folder: changed(folder, _nan),
        "fail",
        "logits, from its own previous tap: not finite at index [1, 2]",
    ),
    "refused": (
        lambda folder: refused(folder, unsupported="layers of kind gelu"),
        "unsupported",
        "layers of kind gelu",
    ),
    "refused without a reason": (
        lambda folder: refused(folder, unsupported=""),
        "error",
        "expected a reason under 'unsupported', got ''",
    ),
    "stale refusal": (
        lambda folder: refused(folder, request="0" * 64, unsupported="gelu"),
        "error",
        "refusal.json: does not answer this request",
    ),
    "refusal beside an answer": (
        lambda folder: (place(folder) / "refusal.json").write_text("{}"),
        "error",
        "stands beside an answer; expected one of the two",
    ),
    "inputs changed": (
        lambda folder: (place(folder) / "inputs.safetensors").write_bytes(b""),
        "error",
        "inputs.safetensors: is not what was exported; expected SHA-256",
    ),
    "request missing": (_unlink("request.json"), "error", "request.json: is not what was exported"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_answer_has_its_own_message_and_the_rest_goes_on(
    damaged: Path, damage: str
) -> None:
    spoil, status, message = DAMAGES[damage]
    spoil(damaged)
    found = {result.id: result for result in check(damaged).results}
    assert found[DAMAGED].status == status
    assert message in found[DAMAGED].message
    others = [result for result in found.values() if result.id != DAMAGED]
    assert {result.status for result in others} == {"pass"}
    assert len(others) == 2


@pytest.mark.parametrize(
    ("case", "kind", "name", "message"),
    [
        ("F17", "vjp", "weights.norm.bias", "vjp returned no gradient of ['norm.bias']"),
        ("F19", "train_step", "loss", "train_step returned no ['loss']"),
        ("F19", "train_step", "weights.head.bias", "train_step returned no ['weights.head.bias']"),
    ],
)
def test_a_tensor_missing_in_training_is_named(
    trained: Path, tmp_path: Path, case: str, kind: str, name: str, message: str
) -> None:
    folder = shutil.copytree(trained, tmp_path / "trained")
    listed = next(one for one in read_index(folder).requests if one.kind == kind)
    path = folder / listed.folder / "outputs.safetensors"
    found = {n: array for n, array in tensors(path).items() if n != name}
    write(path, found, listed.digest)
    statuses = {result.case: result for result in check(folder).results}
    assert statuses[case].status == "fail"
    assert statuses[case].message == message
    assert {r.status for r in statuses.values() if r.case != case} == {"pass"}


@pytest.mark.parametrize(
    ("case", "kind", "change", "message"),
    [
        (
            "F17",
            "vjp",
            lambda a: {**a, "inputs": a["inputs"][:1]},
            "vjp returned inputs: expected float32 [3, 8, 12, 3], got float32 [1, 8, 12, 3]",
        ),
        (
            "F17",
            "vjp",
            lambda a: {**a, "weights.norm.bias": a["weights.norm.bias"].astype(np.float64)},
            "vjp returned weights.norm.bias: expected float32 [8], got float64 [8]",
        ),
        (
            "F17",
            "vjp",
            lambda a: {name: array / np.float32(3) for name, array in a.items()},
            "; it is 0.33333 times what is right",
        ),
        (
            "F19",
            "train_step",
            lambda a: {**a, "loss": a["loss"].reshape(1), "weights.head.bias": a["loss"]},
            "head.bias: expected float32 [7], got float32 []; loss: expected float32 [], got",
        ),
        (
            "F19",
            "train_step",
            lambda a: {**a, "loss": 2 * a["loss"]},
            "; expected 1.73089314, got 3.46",
        ),
    ],
)
def test_what_is_wrong_with_a_tensor_in_training_is_told(
    trained: Path, tmp_path: Path, case: str, kind: str, change: Any, message: str
) -> None:
    folder = shutil.copytree(trained, tmp_path / "trained")
    listed = next(one for one in read_index(folder).requests if one.kind == kind)
    path = folder / listed.folder / "outputs.safetensors"
    write(path, change(tensors(path)), listed.digest)
    (result,) = (result for result in check(folder).results if result.case == case)
    assert result.status == "fail"
    assert message in result.message


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients and steps of training of one model, rightly answered."""
    folder = tmp_path_factory.mktemp("cases") / "trained"
    export(folder, level=4, scales=["mixer"], families=["F17", "F19"])
    answer(folder, load_backend("reference"))
    return folder


def test_the_same_folder_without_damage_passes(damaged: Path) -> None:
    assert {result.status for result in check(damaged).results} == {"pass"}


def test_an_excuse_is_heard(damaged: Path) -> None:
    _cut(damaged)
    text = f"[[excuse]]\ncase = '{DAMAGED}'\nreason = 'disk'\nissue = 'x'\nexpires = 2999-01-01\n"
    (damaged / "excuses.toml").write_text(text)
    told = invoke("check", str(damaged), "--excuses", str(damaged / "excuses.toml"))
    assert told.exit_code == 0
    assert "1 expected_fail" in told.stdout


# --- a damaged folder -------------------------------------------------------------------------


def _index(folder: Path, **fields: Any) -> None:
    data = json.loads((folder / "cases.json").read_text())
    (folder / "cases.json").write_text(json.dumps({**data, **fields}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: (f / "cases.json").unlink(),
            "cases.json: there is no such file; do `mixer-spec",
        ),
        (lambda f: (f / "cases.json").write_text("{"), "cases.json: is no JSON file"),
        (lambda f: (f / "cases.json").write_text("[]"), "cases.json: expected an object, got list"),
        (lambda f: _index(f, schema_version=2), "expected schema_version 1, got 2"),
        (lambda f: _index(f, cases=None), "cases.json: is damaged"),
        (lambda f: _index(f, extra=1), "cases.json: is damaged"),
        (lambda f: _index(f, profile="f31"), "cases.json: is damaged; expected a known profile"),
        (lambda f: _index(f, version="0.0.1"), "was exported by another version; expected"),
        (lambda f: (f / "backend.json").unlink(), "backend.json: there is no such file"),
        (lambda f: (f / "backend.json").write_text("{}"), "backend.json: 4 rules broken"),
        (
            lambda f: (f / "backend.json").write_text(
                '{"name": "x", "versions": {}, "device": "cpu", "taps": true, "levels": 2}'
            ),
            "backend.json: unknown field 'levels'; expected",
        ),
    ],
)
def test_a_damaged_folder_is_refused(
    damaged: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(damaged)
    with pytest.raises(FileError) as caught:
        check(damaged)
    assert message in str(caught.value)


def test_a_request_that_was_not_exported_is_an_error(damaged: Path) -> None:
    _index(damaged, seed=1)
    results = check(damaged).results
    assert {result.status for result in results} == {"error"}
    assert "was not exported; expected its digest" in results[0].message


# --- the commands -----------------------------------------------------------------------------


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(conformance, ["cases", *arguments])


def test_commands_export_and_judge(tmp_path: Path) -> None:
    folder = tmp_path / "cases"
    told = invoke("export", str(folder), "--scales", "mixer", "--families", "F01,F24", "--json")
    assert told.exit_code == 0
    written = json.loads(told.stdout)
    assert (written["cases"], written["requests"]) == (2, 1)
    assert list(written["unsupported"]) == ["F24/mixer/f32-strict"]

    empty = invoke("check", str(folder), "--json")
    assert empty.exit_code == 4
    assert json.loads(empty.stdout)["counts"] == {"unsupported": 2}
    assert "no request was answered" in json.loads(empty.stdout)["results"][0]["message"]

    answer(folder, load_backend("reference"))
    junit, markdown = tmp_path / "junit.xml", tmp_path / "summary.md"
    right = invoke("check", str(folder), "--junit", str(junit), "--markdown", str(markdown))
    assert right.exit_code == 0
    assert "reference (cpu): conformant at level 2 in f32-strict; 1 pass" in right.stdout
    assert 'name="F01/mixer/f32-strict"' in junit.read_text()
    assert "| F01 |" in markdown.read_text()

    answer(folder, MUTANTS["gelu by erf"].backend)
    wrong = invoke("check", str(folder), "--json")
    assert wrong.exit_code == 1
    named = [one["diagnosis"] for one in json.loads(wrong.stdout)["results"] if one["diagnosis"]]
    assert "gelu by erf explains" in named[0]["sentence"]

    _cut(folder)
    assert invoke("check", str(folder)).exit_code == 3
