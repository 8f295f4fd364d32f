"""`export`: run every case against a backend that writes down what it is asked."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mixer_spec
from mixer_conformance.cases import Effort
from mixer_conformance.precision import PRECISIONS
from mixer_conformance.result import Result
from mixer_conformance.suite import planned, subject_of
from mixer_spec import BackendInfo
from mixer_spec.backend import PROFILES, Profile
from mixer_spec.errors import FileError, InputError

from .backend import FileBackend
from .index import (
    INDEX,
    INPUTS,
    OUTPUTS,
    REFUSAL,
    REQUEST,
    SCHEMA_VERSION,
    Index,
    Listed,
    ListedCase,
    sha256,
)
from .request import Answers, Request
from .tensors import write_tensors


def export(
    folder: str | os.PathLike[str],
    *,
    level: int = 2,
    profile: Profile = "f32-strict",
    effort: Effort = "quick",
    scales: Sequence[str] = (),
    families: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[Result], None] = lambda result: None,
) -> Index:
    """Write the cases that ``run`` would judge a backend with; all of them or, on an error, none.

    Args:
        folder: a new or an empty one.
        level: the highest: 0 structure, 1 logits, 2 taps, 3 gradients, 4 optimiser.
        profile: the arithmetic that the program will claim.
        effort: how much is asked: ``quick``, ``full`` or ``nightly``.
        scales: models or groups of the zoo, instead of the effort's own.
        families: ids of case families; by default all up to the level.
        seed: of weights and inputs.
        progress: is told each case that was written.

    Raises:
        InputError: if a level, family or scale does not exist, or files can ask none of them.
        FileError: if the folder holds something already, or cannot be written.
    """
    target = Path(folder).resolve()
    _check_target(target, str(folder))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
        recorder = _Recorder(temporary)
        subject = subject_of(FileBackend(_INFO, recorder.ask), profile, level, effort)
        cases = []
        for one in planned(
            subject, level=level, effort=effort, scales=scales, cases=families, seed=seed
        ):
            recorder.asked = {}
            result = one.run()
            if result.status == "error":  # the recorder's own, as a full disk
                raise FileError(str(folder), f"could not be written; got: {result.message}")
            cases.append(
                ListedCase(
                    id=one.id,
                    title=one.case.title,
                    requests=tuple(recorder.asked),
                    unsupported=result.message if result.status == "unsupported" else "",
                )
            )
            progress(result)
        requests = recorder.listed()
        if not requests:
            told = "; ".join(f"{case.id}: {case.unsupported}" for case in cases) or "no case suits"
            raise InputError("cases", f"nothing to ask; {told}")
        index = Index(
            version=mixer_spec.__version__,
            level=level,
            profile=profile,
            effort=effort,
            scales=tuple(scales),
            families=tuple(families),
            seed=seed,
            cases=tuple(cases),
            requests=requests,
        )
        _write_json(temporary / INDEX, index.to_data())
        os.replace(temporary, target)
    except OSError as error:
        raise FileError(str(folder), f"could not be written; got: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return index


_INFO = BackendInfo(name="recorder", versions={}, device="files", profiles=PROFILES)


def _check_target(target: Path, where: str) -> None:
    if not target.parent.is_dir():
        raise FileError(where, f"there is no folder {target.parent.name!r}; make it first")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileError(where, "holds something already; expected a new or an empty folder")


class _Recorder:
    """Writes each request once, and answers zeros.

    A backend that is wrong is asked more than one that is right, so nothing is missing later.

    Args:
        folder: where to write.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hashes: dict[str, str] = {}
        self._forms: dict[str, dict[str, Any]] = {}
        self.asked: dict[str, None] = {}

    def ask(self, request: Request) -> Answers:
        """Write a request, or what it asks beyond one that differs in the taps alone."""
        digest = request.digest
        self.asked[digest] = None
        form = self._forms.get(digest)
        if form is None:
            self._forms[digest] = self._written(request)
        elif request.taps:
            both = {*form["taps"], *request.taps}
            form["taps"] = [tap for tap in request.spec.taps if tap in both]
        return _nothing(request)

    def _written(self, request: Request) -> dict[str, Any]:
        """The form of a request whose arrays are in their files."""
        place = _place(request.digest)
        (self._folder / place).mkdir(parents=True)
        weights = f"weights/{request.weights_digest[:16]}.safetensors"
        self._write(weights, request.weights)
        inputs = f"{place}/{INPUTS}" if request.tensors else None
        if inputs:
            self._write(inputs, request.tensors)
        settings = dict(request.settings)
        if settings.get("after"):
            settings["after"] = f"{_place(settings['after'])}/{OUTPUTS}"
        return {
            "schema_version": SCHEMA_VERSION,
            "digest": request.digest,
            "kind": request.kind,
            "profile": request.profile,
            "spec": request.spec.to_data(),
            "weights": weights,
            "inputs": inputs,
            "taps": list(request.taps),
            **settings,
            "outputs": f"{place}/{OUTPUTS}",
            "refusal": f"{place}/{REFUSAL}",
        }

    def _write(self, name: str, tensors: Answers) -> None:
        if name not in self._hashes:
            path = self._folder / name
            path.parent.mkdir(exist_ok=True)
            write_tensors(path, tensors)
            self._hashes[name] = sha256(path)

    def listed(self) -> tuple[Listed, ...]:
        """Every request, now that all of its taps are known."""
        found = []
        for digest, form in self._forms.items():
            place = _place(digest)
            name = f"{place}/{REQUEST}"
            _write_json(self._folder / name, form)
            self._hashes[name] = sha256(self._folder / name)
            files = {
                file: self._hashes[file] for file in (name, form["inputs"], form["weights"]) if file
            }
            found.append(Listed(digest=digest, folder=place, kind=form["kind"], files=files))
        return tuple(found)


def _place(digest: str) -> str:
    """The folder of a request."""
    return f"requests/{digest[:16]}"


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _nothing(request: Request) -> Answers:
    """Zeros of the names, shapes and dtype of the right answer."""
    spec, dtype = request.spec, PRECISIONS[request.profile].dtype
    weights = {f"weights.{name}": one.shape for name, one in spec.parameters().items()}
    match request.kind:
        case "export_weights":
            return request.weights
        case "forward":
            batch = len(request.tensors["inputs"])
            shapes = {step.tap: (batch, *step.outgoing.shape) for step in spec.steps}
        case "vjp":
            shapes = {**weights, "inputs": request.tensors["inputs"].shape}
        case "train_step":
            shapes = {"loss": (), **weights}
            for slot in request.settings["slots"]:
                shapes |= {f"{slot}.{name}": one.shape for name, one in spec.parameters().items()}
    return {name: np.zeros(shape, dtype) for name, shape in shapes.items()}
