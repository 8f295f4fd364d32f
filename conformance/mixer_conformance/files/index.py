"""``cases.json``: what a folder of cases holds, how it was made, and the digest of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from mixer_conformance.cases import EFFORTS, Effort
from mixer_spec.backend import PROFILES, Profile
from mixer_spec.errors import FileError

from .request import Kind

SCHEMA_VERSION = 1
"""The version of the protocol; a change that old programs would misread raises it."""

INDEX = "cases.json"
BACKEND = "backend.json"
REQUEST = "request.json"
INPUTS = "inputs.safetensors"
OUTPUTS = "outputs.safetensors"
REFUSAL = "refusal.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """One request of a folder.

    Args:
        digest: over everything that is asked but the taps.
        folder: where it lies.
        kind: what is asked.
        files: each file that belongs to it, weights too, with the SHA-256 of its bytes.
    """

    digest: str
    folder: str
    kind: Kind
    files: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedCase:
    """One case family on one model.

    Args:
        id: ``F05/mixer/f32-strict``.
        title: what is done.
        requests: the digests of what it asks, in order.
        unsupported: why files cannot ask it; empty where they can.
    """

    id: str
    title: str
    requests: tuple[str, ...]
    unsupported: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """A folder of cases.

    Args:
        version: of mixer_spec, which must be the same when answers are judged.
        level: the highest.
        profile: the arithmetic that is claimed.
        effort: how much of the suite it is.
        scales: models or groups; empty for the effort's own.
        families: ids of case families; empty for all.
        seed: of weights and inputs.
        cases: in the order of the suite.
        requests: in an order in which each comes after those that it needs.
    """

    version: str
    level: int
    profile: Profile
    effort: Effort
    scales: tuple[str, ...]
    families: tuple[str, ...]
    seed: int
    cases: tuple[ListedCase, ...]
    requests: tuple[Listed, ...]

    def to_data(self) -> dict[str, Any]:
        """As plain data, ready for JSON."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def read_index(folder: Path) -> Index:
    """The index of a folder of cases.

    Raises:
        FileError: if there is none, it is damaged, or of another version.
    """
    where = str(folder / INDEX)
    data = read_json(folder / INDEX, where, "do `mixer-spec conformance cases export` first")
    version = data.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise FileError(
            where, f"another version; expected schema_version {SCHEMA_VERSION}, got {version!r}"
        )
    try:
        found = Index(
            **data
            | {
                "scales": tuple(data["scales"]),
                "families": tuple(data["families"]),
                "cases": tuple(
                    ListedCase(**case | {"requests": tuple(case["requests"])})
                    for case in data["cases"]
                ),
                "requests": tuple(Listed(**one) for one in data["requests"]),
            }
        )
        sound = (
            found.profile in PROFILES
            and found.effort in EFFORTS
            and isinstance(found.level, int)
            and isinstance(found.seed, int)
            and all(
                one.kind in get_args(Kind)
                and isinstance(one.folder, str)
                and isinstance(one.files, dict)
                for one in found.requests
            )
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileError(where, f"is damaged; got: {error!r}; do export it again") from None
    if not sound:
        raise FileError(where, "is damaged; expected a known profile, effort and kinds of request")
    return found


def read_json(path: Path, where: str, hint: str) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        FileError: if there is none; ``hint`` says what to do then.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(where, f"there is no such file; {hint}") from None
    except (OSError, ValueError) as error:
        raise FileError(where, f"is no JSON file; got: {error}") from None
    if not isinstance(data, dict):
        raise FileError(where, f"expected an object, got {type(data).__name__}")
    return data


def sha256(path: Path) -> str:
    """64 hexadecimal digits over the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
