"""Stored runs: JSON of ``mixer-spec conformance run --json``, held against its schema."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from mixer_conformance.outputs import SCHEMA_VERSION
from mixer_conformance.result import exit_code_of
from mixer_spec.errors import FileError

SCHEMA = Path(__file__).parents[1] / "run.schema.json"
"""Describes every field."""

_MOST = 20
"""Problems of one file that are told."""


def read_runs(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The runs of these files.

    Raises:
        FileError: if any is missing, is no such report, or says something else than its results.
    """
    runs, problems = [], []
    for path in paths:
        try:
            run = _parsed(path.read_bytes())
        except OSError as error:
            problems.append(f"{path}: cannot be read; got: {error.strerror}")
        except ValueError as error:
            problems.append(f"{path}: is no JSON: {error}")
        else:
            wrong = list(itertools.islice(_wrong(run), _MOST))
            problems += [f"{path}: {one}" for one in wrong]
            runs.append(run)
    if problems:
        raise FileError("report", problems)
    return runs


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _wrong(run: Any) -> Iterator[str]:
    version = run.get("schema_version") if isinstance(run, dict) else None
    if version != SCHEMA_VERSION:
        yield (
            f"schema_version: expected {SCHEMA_VERSION}, got {version!r}; do make the report anew "
            "with `mixer-spec conformance run --json`"
        )
        return
    broken = False
    for error in _broken(run):
        broken = True
        yield error
    if not broken:
        statuses = [result["status"] for result in run["results"]]
        said, found = run["exit_code"], exit_code_of(statuses)
        if said != found or run["conformant"] != (found == 0):
            yield f"exit_code: its own results make it {found} and not {said}; do make it anew"


def _broken(run: Any) -> Iterable[str]:
    validator = Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    for error in sorted(validator.iter_errors(run), key=lambda e: e.json_path):
        yield f"{error.json_path}: {error.message[:200]}"
