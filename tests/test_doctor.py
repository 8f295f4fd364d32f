"""``mixer-spec doctor``: missing, old and known-bad packages, and backends that cannot be loaded."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mixer_spec.doctor as findings
from mixer_spec.doctor import KNOWN_FAULTS, KnownFault, complete_extras, examine_packages
from mixer_spec.errors import MissingExtraError
from mixer_spec.extras import EXTRAS
from mixer_spec.reference import ReferenceBackend


def _pretend(monkeypatch: pytest.MonkeyPatch, name: str, version: str | None) -> None:
    """Let the metadata say that ``name`` is installed in ``version``, or is not installed."""
    real = importlib.metadata.version

    def pretended(distribution: str) -> str:
        if distribution != name:
            return real(distribution)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", pretended)


def _require(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Let the metadata of mixer-spec require ``lines`` and nothing else."""
    monkeypatch.setattr(importlib.metadata, "requires", lambda distribution: list(lines))


def _finding(name: str) -> findings.Finding:
    (found,) = [finding for finding in examine_packages() if finding.name == name]
    return found


def test_every_package_of_every_extra_is_examined_once() -> None:
    packages = examine_packages()
    names = [package.name for package in packages]
    assert len(names) == len(set(names))
    assert {"numpy", "safetensors", "jax", "torch", "onnx-ir", "onnxruntime", "optax"} <= {*names}
    assert set(complete_extras(packages)) == set(EXTRAS)


def test_everything_of_the_development_environment_is_fit_to_use() -> None:
    assert [p for p in examine_packages() if p.verdict not in ("good", "caution")] == []


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("2.5.9", "bad"),
        ("1.13", "bad"),
        ("2.6", "good"),
        ("2.6.0", "good"),
        ("2.6.0+cpu", "good"),
        ("2.10.0.dev20260101", "good"),
        ("3.0", "good"),
    ],
)
def test_version_below_the_supported_range_is_bad(
    monkeypatch: pytest.MonkeyPatch, version: str, verdict: str
) -> None:
    _require(monkeypatch, "numpy>=2.0", 'torch>=2.6; extra == "torch"')
    _pretend(monkeypatch, "torch", version)
    found = _finding("torch")
    assert found.verdict == verdict
    if verdict == "bad":
        assert found.reason == (
            f"too old; expected at least 2.6, got {version}; "
            'do `pip install --upgrade "torch>=2.6"`'
        )


def test_missing_extra_is_no_fault_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _pretend(monkeypatch, "jax", None)
    found = _finding("jax")
    assert (found.verdict, found.version) == ("missing", None)
    assert found.reason == 'not installed; do `pip install "mixer-spec[jax]"`'
    assert complete_extras(examine_packages()) == {
        "h5": True,
        "hf": True,
        "hub": True,
        "jax": False,
        "onnx": True,
        "report": True,
        "torch": True,
        "train": False,
    }


def test_missing_core_package_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, "safetensors", None)
    assert _finding("safetensors").verdict == "bad"


def test_guarded_fault_is_a_caution_and_an_unguarded_one_is_bad(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _pretend(monkeypatch, "safetensors", "0.8.0")
    found = _finding("safetensors")
    assert found.verdict == "caution"
    assert "not C-contiguous" in found.reason
    monkeypatch.setattr(
        findings,
        "KNOWN_FAULTS",
        (
            KnownFault(
                distribution="numpy",
                version="9.9.9",
                fault="adds wrongly; do not use it",
                guarded=False,
                source="made up",
            ),
        ),
    )
    _pretend(monkeypatch, "numpy", "9.9.9+local")
    assert _finding("numpy").verdict == "bad"
    assert _finding("numpy").reason == "adds wrongly; do not use it (made up)"
    assert _finding("safetensors").verdict == "good"


def test_metadata_of_any_build_backend_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    _require(
        monkeypatch,
        "numpy>=2.0",
        "jax>=0.6; extra == 'all'",
        'jax>=0.6; extra == "jax"',
        "jax>=0.6 ; extra == 'train'",
        'mixer-spec[jax]; extra == "train"',
    )
    assert findings.requirements() == [
        findings.Requirement(distribution="numpy", at_least="2.0", extras=()),
        findings.Requirement(distribution="jax", at_least="0.6", extras=("jax", "train")),
    ]


def test_every_known_fault_is_of_a_package_that_is_examined() -> None:
    assert {known.distribution for known in KNOWN_FAULTS} <= {p.name for p in examine_packages()}


# --- backends and the command ---------------------------------------------------------------


def _pretend_backends(monkeypatch: pytest.MonkeyPatch, load: Callable[[str], object]) -> None:
    monkeypatch.setattr(findings, "backend_names", lambda: ("made_up",))
    monkeypatch.setattr(findings, "load_backend", load)


def test_backend_that_loads_tells_its_versions_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_backends(monkeypatch, lambda name: ReferenceBackend())
    (found,) = findings.examine_backends()
    assert found.verdict == "good"
    assert found.version == f"numpy {np.__version__}; cpu"


def test_backend_without_its_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> object:
        raise MissingExtraError(f"backend {name}", "needs the package made_up")

    _pretend_backends(monkeypatch, refuse)
    (found,) = findings.examine_backends()
    assert (found.verdict, found.reason) == ("missing", "needs the package made_up")


def test_backend_that_crashes_on_import_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(name: str) -> object:
        raise OSError("libmade_up.so: cannot open shared object file")

    _pretend_backends(monkeypatch, crash)
    (found,) = findings.examine_backends()
    assert found.verdict == "bad"
    assert (
        found.reason == "cannot be loaded: OSError: libmade_up.so: cannot open shared object file"
    )


@pytest.mark.parametrize(("version", "code"), [("2.6", 0), ("1.0", 1)])
def test_command_exits_with_1_when_a_bad_version_is_installed(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, version: str, code: int
) -> None:
    monkeypatch.setattr(findings, "backend_names", lambda: ("reference",))
    _require(monkeypatch, "numpy>=2.0", 'torch>=2.6; extra == "torch"')
    _pretend(monkeypatch, "torch", version)
    for outcome in (run("doctor"), run("doctor", "--json")):
        assert outcome.code == code
        assert ("too old" in outcome.out) == bool(code)
    told = outcome.data
    assert told["healthy"] is not bool(code)
    assert told["extras"]["torch"] is True
    assert {package["name"] for package in told["packages"]} >= {"numpy", "torch"}
