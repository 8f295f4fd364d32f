"""Cases as files: what an export writes, and what it refuses to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mixer_conformance.files import export, read_index
from mixer_conformance.files.tensors import read_tensors
from mixer_spec import FileError, InputError


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything of a quick run."""
    folder = tmp_path_factory.mktemp("cases") / "quick"
    export(folder, level=4)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_equal_exports_are_equal_in_every_byte(cases: Path, tmp_path: Path) -> None:
    export(tmp_path / "again", level=4)
    assert _files(tmp_path / "again") == _files(cases)


def test_the_index_lists_every_file(cases: Path) -> None:
    index = read_index(cases)
    listed = {name for one in index.requests for name in one.files}
    assert listed | {"cases.json"} == _files(cases).keys()
    known = {one.digest for one in index.requests}
    assert all(set(case.requests) <= known for case in index.cases)
    assert all(bool(case.requests) != bool(case.unsupported) for case in index.cases)


def test_a_step_comes_after_the_one_that_it_goes_on_from(cases: Path) -> None:
    seen, steps = set(), 0
    for listed in read_index(cases).requests:
        request = json.loads((cases / listed.folder / "request.json").read_text())
        if request.get("after"):
            assert request["after"] in seen
            steps += 1
        seen.add(request["outputs"])
    assert steps == 6  # momentum, Nesterov and AdamW take three steps each


def test_weights_keep_their_stored_dtype(cases: Path) -> None:
    dtypes = {
        array.dtype
        for path in (cases / "weights").iterdir()
        for array in read_tensors(path, path.name)[0].values()
    }
    assert dtypes == {np.dtype(d) for d in (np.float32, np.float16, np.float64, ml_dtypes.bfloat16)}


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileError, match="holds something already; expected a new or an empty"):
        export(tmp_path)
    assert _files(tmp_path) == {"notes.txt": b"mine"}


def test_a_folder_in_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no folder 'nowhere'; make it first"):
        export(tmp_path / "nowhere" / "cases")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, tensors: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mixer_conformance.files.recording.write_tensors", full)
    with pytest.raises(FileError, match="No space left on device"):
        export(tmp_path / "cases", scales=["mixer"], families=["F01"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"families": ["F99"]}, "unknown ['F99']"),
        ({"scales": ["Z9"]}, "unknown ['Z9']"),
        ({"level": 5}, "level: must be one of 0 to 4"),
        ({"profile": "f31"}, "profile: must be one of"),
        (
            {"families": ["F24"], "scales": ["mixer"]},
            "nothing to ask; F24/mixer/f32-strict: cannot",
        ),
        ({"families": ["F28"]}, "nothing to ask; no case suits"),
    ],
)
def test_a_choice_that_cannot_be_exported_is_refused(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        export(tmp_path / "cases", **wrong)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []
