"""Backends of other people, in examples/: small, by the public protocol alone, found and conformant."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixer_conformance import run
from mixer_conformance.cases import CASES, Effort
from mixer_conformance.suite import planned, subject_of
from mixer_spec import Backend, ModelSpec, UnknownNameError, load_backend
from mixer_spec.backend import Profile

EXAMPLES = Path(__file__).parents[1] / "examples"
PACKAGES = ["mixer-openvino", "mixer-tinygrad"]
PUBLIC = {"mixer_spec", "mixer_converters.onnx_export"}

FAST = {"scales": ["mixer"], "cases": ["F01", "F10", "F12", "F21"], "limit": 600.0}


def module_of(package: str) -> str:
    return package.replace("-", "_")


def source(package: str) -> str:
    return (EXAMPLES / package / module_of(package) / "__init__.py").read_text(encoding="utf-8")


@pytest.fixture(params=PACKAGES)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.syspath_prepend(str(EXAMPLES / request.param))
    return load_backend(f"{module_of(request.param)}:Backend")


class ErfForTanh:
    """A backend with the other GELU, as most who port a Mixer write it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def info(self) -> Any:
        return self._backend.info()

    def load(self, spec: ModelSpec, weights: Mapping[str, Any], *, profile: Profile) -> Any:
        text = spec.to_json().replace('"approximation":"tanh"', '"approximation":"none"')
        assert text != spec.to_json()
        return self._backend.load(ModelSpec.from_json(text), weights, profile=profile)


def test_it_passes_at_every_tap_in_every_arithmetic_that_it_claims(backend: Backend) -> None:
    for profile in backend.info().profiles:
        results = run(backend, profile=profile, **FAST)  # type: ignore[arg-type]
        assert [f"{r.id}: {r.message}" for r in results if r.status != "pass"] == []
        assert len(results) == len(FAST["cases"]), profile


def test_it_is_rejected_with_the_other_gelu(backend: Backend) -> None:
    (result,) = run(ErfForTanh(backend), scales=["mixer"], cases=["F01"], limit=600.0)
    assert result.status == "fail"
    assert result.culprit == "blocks.0.token_mixing"


@pytest.mark.slow
def test_it_passes_every_case_of_a_quick_run(backend: Backend) -> None:
    results = run(backend, limit=600.0)
    wanted = [r for r in results if not CASES[r.case].optional]
    assert [f"{r.id}: {r.message}" for r in wanted if r.status != "pass"] == []
    assert len(wanted) > 50


@pytest.mark.parametrize(
    ("package", "effort", "profile", "row"),
    [
        ("mixer-openvino", "full", "f32-strict", "| `f32-strict` | `--full` | {} of {} |"),
        ("mixer-openvino", "quick", "bf16", "| `bf16` | `--quick` | {} of {} |"),
        ("mixer-tinygrad", "quick", "f32-strict", "| `--quick` | {} of {} |"),
    ],
)
def test_its_page_counts_the_cases_of_today(
    package: str, effort: Effort, profile: Profile, row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES / package))
    backend = load_backend(f"{module_of(package)}:Backend")
    if profile not in backend.info().profiles:  # bf16 is there where the processor has it
        backend = Claims(backend, profile)
    plan = list(planned(subject_of(backend, profile, 2, effort), level=2, effort=effort))
    left = sum(one.case.optional for one in plan)
    page = (EXAMPLES / package / "README.md").read_text(encoding="utf-8")
    assert row.format(len(plan) - left, len(plan)) in page


class Claims:
    """A backend that claims one more arithmetic; only its name is asked for."""

    def __init__(self, backend: Backend, profile: Profile) -> None:
        info = backend.info()
        self._info = replace(info, profiles=(*info.profiles, profile))

    def info(self) -> Any:
        return self._info

    def load(self, spec: ModelSpec, weights: Mapping[str, Any], *, profile: Profile) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("package", PACKAGES)
def test_it_is_under_150_lines_and_uses_nothing_but_what_is_public(package: str) -> None:
    text = source(package)
    assert text.count("\n") < 150
    nodes = list(ast.walk(ast.parse(text)))
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    modules += [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    ours = {module for module in modules if module.startswith("mixer_")}
    assert ours
    assert {m for m in ours if m not in PUBLIC and not m.startswith("mixer_spec.")} == set()
    assert {m for m in ours if m.startswith(("mixer_spec.reference", "mixer_spec._"))} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_it_can_be_installed_and_is_then_found_by_its_name(package: str, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = launched([*install, "--target", str(target), str(EXAMPLES / package)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list((EXAMPLES / package).glob("build"))
    name = package.removeprefix("mixer-")
    with pytest.raises(UnknownNameError, match="is not registered"):
        load_backend(name)  # not from here, where nobody installed it
    judge = ["-m", "mixer_spec", "conformance", "run", "--scales", "mixer", "--cases", "F21"]
    done = launched([*judge, "--backend", name], tmp_path, PYTHONPATH=str(target))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{name} (cpu): conformant at level 2 in f32-strict; 1 pass")


@pytest.mark.parametrize("package", PACKAGES)
def test_its_metadata_registers_its_class_and_needs_no_more_than_it_uses(package: str) -> None:
    text = (EXAMPLES / package / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    name = package.removeprefix("mixer-")
    registered = project["entry-points"]["mixer_spec.backends"]
    assert registered == {name: f"{module_of(package)}:Backend"}
    assert len(project["dependencies"]) == 2


def launched(arguments: list[str], folder: Path, **variables: str) -> Any:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
