"""The project's metadata: it says the same everywhere, and the lock keeps its promises."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mixer_spec
from mixer_spec.extras import EXTRAS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8").splitlines()


def _pins() -> dict[str, str]:
    pins = (line.split("==") for line in LOCK if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pins}


def _requirements() -> list[Requirement]:
    """Every dependency of the project and its extras on another project."""
    lists = (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    found = [Requirement(line) for lines in lists for line in lines]
    return [requirement for requirement in found if requirement.name != "mixer-spec"]


def test_version_is_the_same_everywhere() -> None:
    assert mixer_spec.__version__ == PROJECT["version"]
    assert importlib.metadata.version("mixer-spec") == PROJECT["version"]
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_extras_table_names_what_the_metadata_brings() -> None:
    distributions = importlib.metadata.packages_distributions()
    brought = {
        extra: {canonicalize_name(distributions[package][0]) for package in packages}
        for extra, packages in EXTRAS.items()
    }
    optional = dict(PROJECT["optional-dependencies"])
    declared = {
        extra: {Requirement(line).name for line in lines} - {"mixer-spec"}
        for extra, lines in optional.items()
        if extra != "all"
    }
    assert brought == declared
    (everything,) = optional["all"]
    assert Requirement(everything).extras == declared.keys()


def test_every_dependency_has_a_lowest_version_and_no_highest() -> None:
    for requirement in _requirements():
        operators = [specifier.operator for specifier in requirement.specifier]
        assert operators == [">="], f"{requirement} has other bounds than a lowest version"


@pytest.mark.parametrize("group", ["mixer_spec.backends", "mixer_spec.commands"])
def test_installed_entry_points_are_those_of_the_project(group: str) -> None:
    installed = {
        entry.name: entry.value
        for entry in importlib.metadata.distribution("mixer-spec").entry_points
        if entry.group == group
    }
    assert installed == PROJECT["entry-points"][group]


@pytest.mark.parametrize("group", ["mixer_spec.backends", "mixer_spec.commands"])
def test_every_entry_point_can_be_loaded(group: str) -> None:
    entries = importlib.metadata.distribution("mixer-spec").entry_points.select(group=group)
    assert len(entries) > 3
    for entry in entries:
        assert callable(entry.load()), entry


# --- the lock -------------------------------------------------------------------------------


def test_lock_is_exact_pins_in_order_and_nothing_else() -> None:
    pins = [line for line in LOCK if not line.startswith("#")]
    assert pins == sorted(pins, key=str.lower)
    for line in pins:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line), line


def test_lock_is_what_the_tests_run_with() -> None:
    installed = {name: importlib.metadata.version(name).partition("+")[0] for name in _pins()}
    assert installed == _pins()


def test_lock_meets_every_range_of_the_project() -> None:
    pins = _pins()
    for requirement in _requirements():
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_lock_holds_no_gpu_packages() -> None:
    assert [name for name in _pins() if name.startswith(("nvidia", "cuda", "triton"))] == []
