"""`check`: run every case against a backend whose answers are read from the files of a program."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mixer_spec
from mixer_conformance.excuses import Excuse
from mixer_conformance.result import Result
from mixer_conformance.subject import Violation
from mixer_conformance.suite import run
from mixer_spec import BackendInfo
from mixer_spec.errors import FileError

from .backend import FileBackend
from .index import BACKEND, OUTPUTS, REFUSAL, Index, Listed, read_index, read_json, sha256
from .request import Answers, Request
from .tensors import read_tensors


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """The verdict on a folder of answers.

    Args:
        index: what was asked.
        info: what the program says of itself.
        results: of every case.
    """

    index: Index
    info: BackendInfo
    results: tuple[Result, ...]

    @property
    def diagnoses(self) -> dict[str, str]:
        """For each model with a failure that a known mistake explains, the explanation."""
        return {r.model: r.diagnosis.sentence for r in self.results if r.diagnosis}


def check(
    folder: str | os.PathLike[str],
    *,
    excuses: Sequence[Excuse] = (),
    progress: Callable[[Result], None] = lambda result: None,
) -> Check:
    """Judge the answers in a folder of cases, as ``run`` judges a backend.

    Where no request at all was answered, every case is unsupported, which is no success.

    Args:
        folder: that ``export`` wrote, and a program answered.
        excuses: known failures, from the program's own file.
        progress: is told each result.

    Raises:
        FileError: if the index or ``backend.json`` is missing or damaged, or the index is of
            another version of mixer_spec.
    """
    root = Path(folder)
    index = read_index(root)
    if index.version != mixer_spec.__version__:
        raise FileError(
            str(folder),
            f"was exported by another version; expected {mixer_spec.__version__}, got "
            f"{index.version}; do export it again",
        )
    reader = _Reader(root, index)
    backend = FileBackend(_info(root, index, reader), reader.ask)
    results = run(
        backend,
        level=index.level,
        profile=index.profile,
        effort=index.effort,
        scales=index.scales,
        cases=index.families,
        seed=index.seed,
        excuses=excuses,
        progress=progress,
    )
    return Check(index=index, info=backend.info(), results=tuple(results))


def _info(root: Path, index: Index, reader: _Reader) -> BackendInfo:
    """What the program says of itself; nobody has to say anything who has answered nothing."""
    if not reader.answered and not (root / BACKEND).exists():
        return BackendInfo(name=root.name, versions={}, device="files", profiles=(index.profile,))
    where = str(root / BACKEND)
    data = read_json(
        root / BACKEND, where, 'let the program write {"name": ..., "versions": {...}, ...}'
    )
    wanted: dict[str, tuple[type, str]] = {
        "name": (str, "a string"),
        "versions": (dict, "an object of strings"),
        "device": (str, "a string"),
        "taps": (bool, "true or false"),
    }
    problems = [
        f"{key}: expected {noun}, got {data.get(key)!r}"
        for key, (kind, noun) in wanted.items()
        if not isinstance(data.get(key), kind)
        or (kind is dict and not all(isinstance(value, str) for value in data[key].values()))
    ]
    problems += [f"unknown field {key!r}; expected {list(wanted)}" for key in data.keys() - wanted]
    if problems:
        raise FileError(where, problems)
    return BackendInfo(**data, profiles=(index.profile,))


class _Reader:
    """Finds the answer to each request.

    Args:
        root: the folder of cases.
        index: what it holds.
    """

    def __init__(self, root: Path, index: Index) -> None:
        self._root = root
        self._requests = {listed.digest: listed for listed in index.requests}
        self._intact: set[str] = set()
        self.answered = any(
            (root / listed.folder / name).exists()
            for listed in index.requests
            for name in (OUTPUTS, REFUSAL)
        )

    def ask(self, request: Request) -> Answers:
        """The program's outputs.

        Raises:
            Violation: if the program refused, or there is no answer to just this request.
        """
        if not self.answered:
            raise Violation("no request was answered; do run the program first", "unsupported")
        listed = self._requests.get(request.digest)
        if listed is None:
            raise Violation(
                f"a {request.kind} request was not exported; expected its digest "
                f"{request.digest[:16]} in cases.json; do export the cases again",
                "error",
            )
        self._check_files(listed)
        outputs, refusal = (f"{listed.folder}/{name}" for name in (OUTPUTS, REFUSAL))
        try:
            if (self._root / refusal).exists():
                raise self._refused(refusal, outputs, request.digest)
            if not (self._root / outputs).exists():
                raise FileError(
                    outputs,
                    f"there is no such file; expected the answer to a {request.kind} request; "
                    "do run the program again",
                )
            answers, metadata = read_tensors(self._root / outputs, outputs)
            _check_digest(outputs, "__metadata__", metadata.get("request"), request.digest)
        except FileError as error:
            raise Violation(str(error), "error") from None
        return answers

    def _refused(self, refusal: str, outputs: str, digest: str) -> Violation:
        if (self._root / outputs).exists():
            raise FileError(
                refusal, "stands beside an answer; expected one of the two; do remove the old one"
            )
        data: Any = read_json(self._root / refusal, refusal, "")
        _check_digest(refusal, "it", data.get("request"), digest)
        reason = data.get("unsupported")
        if not isinstance(reason, str) or not reason:
            raise FileError(refusal, f"expected a reason under 'unsupported', got {reason!r}")
        return Violation(reason, "unsupported")

    def _check_files(self, listed: Listed) -> None:
        """What the program read must be what was exported."""
        for name, expected in listed.files.items():
            if name in self._intact:
                continue
            path = self._root / name
            found = sha256(path) if path.is_file() else "nothing"
            if found != expected:
                raise Violation(
                    f"{name}: is not what was exported; expected SHA-256 {expected[:16]}, "
                    f"got {found[:16]}; do export the cases again",
                    "error",
                )
            self._intact.add(name)


def _check_digest(name: str, place: str, found: Any, expected: str) -> None:
    if found != expected:
        cure = "write it there" if found is None else "run the program again"
        raise FileError(
            name,
            f"does not answer this request; expected 'request' {expected!r} in {place}, got "
            f"{found!r}; do {cure}",
        )
