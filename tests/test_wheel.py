"""The wheel and the sdist: built, opened, and the wheel used where no framework is."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

from mixer_spec import VARIANTS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = CONFIGURATION["project"]
TARGETS = CONFIGURATION["tool"]["hatch"]["build"]["targets"]
PACKAGES = {Path(folder).name: folder for folder in TARGETS["wheel"]["packages"]}
INFORMATION = f"mixer_spec-{PROJECT['version']}.dist-info"
STRAYS = ("stray.bin", "notes/diary.txt", "mixer_spec/__pycache__/stray.pyc", "out/demo/model.onnx")


class Built(NamedTuple):
    tree: Path  # the sources, among stray files
    wheel: Path  # from the source tree
    sdist: Path
    wheel_of_sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both artefacts of a copy of the sources in which other files lie about."""
    base = tmp_path_factory.mktemp("build")
    tree = base / "tree"
    ignored = shutil.ignore_patterns(".venv", ".git", "__pycache__", ".*_cache", "out", "dist")
    shutil.copytree(ROOT, tree, ignore=ignored)
    for stray in STRAYS:
        (tree / stray).parent.mkdir(parents=True, exist_ok=True)
        (tree / stray).write_bytes(b"stray")
    # Without a target, `build` makes the sdist and then the wheel out of that.
    _run([sys.executable, "-m", "build", "-q", "--no-isolation", "-o", f"{base}/both", f"{tree}"])
    wheel_only = ["--wheel", "-o", f"{base}/wheel", f"{tree}"]
    _run([sys.executable, "-m", "build", "-q", "--no-isolation", *wheel_only])
    (wheel,) = (base / "wheel").glob("*.whl")
    (sdist,) = (base / "both").glob("*.tar.gz")
    (wheel_of_sdist,) = (base / "both").glob("*.whl")
    return Built(tree, wheel, sdist, wheel_of_sdist)


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _sources(tree: Path) -> Iterator[tuple[str, bytes]]:
    """What the wheel must hold: every file of the packages, by its name in the wheel."""
    for name, folder in PACKAGES.items():
        for path in (tree / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{name}/{path.relative_to(tree / folder).as_posix()}", path.read_bytes()


# --- what the artefacts hold ----------------------------------------------------------------


def test_wheel_has_exactly_the_packages_at_its_top(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert tops == {
        "mixer_spec",
        "mixer_converters",
        "mixer_conformance",
        "mixer_jax",
        "mixer_torch",
        "mixer_onnxruntime",
        INFORMATION,
    }


def test_wheel_holds_every_source_file_and_no_other(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        held = {n: wheel.read(n) for n in wheel.namelist() if not n.startswith(INFORMATION)}
    assert held == dict(_sources(built.tree))
    assert "mixer_spec/spec.schema.json" in held
    for package in PACKAGES:
        assert f"{package}/__init__.py" in held
        assert f"{package}/py.typed" in held, f"{package} does not tell that it has types"


def test_wheel_of_the_sdist_is_the_wheel_of_the_tree(built: Built) -> None:
    contents = []
    for path in (built.wheel, built.wheel_of_sdist):
        with zipfile.ZipFile(path) as wheel:
            contents.append({name: wheel.read(name) for name in wheel.namelist()})
    assert contents[0] == contents[1]


def test_wheel_describes_itself(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        text = wheel.read(f"{INFORMATION}/METADATA").decode()
        entry_points = wheel.read(f"{INFORMATION}/entry_points.txt").decode()
        license_text = wheel.read(f"{INFORMATION}/licenses/LICENSE")
    metadata = Parser().parsestr(text)
    assert metadata["Name"] == "mixer-spec"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    extras = {"jax", "torch", "onnx", "train", "h5", "hf", "hub", "report", "all"}
    assert set(metadata.get_all("Provides-Extra", [])) == extras
    assert license_text == (ROOT / "LICENSE").read_bytes()
    for group, entries in PROJECT["entry-points"].items():
        assert f"[{group}]" in entry_points
        for name, value in entries.items():
            assert f"\n{name} = {value}\n" in entry_points
    assert "[console_scripts]\nmixer-spec = mixer_spec.cli:main\n" in entry_points


def test_sdist_holds_the_allow_list_and_no_stray_file(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        names = {
            Path(member.name).relative_to(f"mixer_spec-{PROJECT['version']}").as_posix()
            for member in sdist
            if member.isfile()
        }
    always = {".gitignore", "PKG-INFO", "README.md", "pyproject.toml"}
    assert {name.partition("/")[0] for name in names} <= {
        *TARGETS["sdist"]["only-include"],
        *always,
    }
    assert names.isdisjoint(STRAYS)
    needed = {"LICENSE", "Makefile", "CHANGELOG.md", "requirements-dev.lock", "tests/test_wheel.py"}
    assert needed | always <= names
    for folder in TARGETS["wheel"]["packages"]:
        assert f"{folder}/__init__.py" in names


# --- the wheel in use -----------------------------------------------------------------------


class Installed(NamedTuple):
    path: tuple[Path, ...]  # what stands on sys.path before the standard library
    workplace: Path

    def python(self, code: str, *arguments: str) -> str:
        """Run ``code`` in an interpreter that has nothing but the path and its own library."""
        places = [str(place) for place in self.path]
        # -S: no site-packages; -I: neither the working directory nor the environment.
        setup = f"import sys; sys.path[:0] = {places!r}; sys.argv = {['-', *arguments]!r}\n"
        return _run([sys.executable, "-I", "-S", "-c", setup + code], cwd=self.workplace)


def _core_distributions() -> set[str]:
    """The distributions that ``pip install mixer-spec`` brings, without any extra."""
    found: set[str] = set()
    waiting = [Requirement(line).name for line in PROJECT["dependencies"]]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            lines = map(Requirement, importlib.metadata.requires(name) or ())
            needed = (one for one in lines if not one.marker or one.marker.evaluate({"extra": ""}))
            waiting += [one.name for one in needed]
    return found


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in a folder outside the repository, beside links to its core dependencies."""
    base = tmp_path_factory.mktemp("installed")
    target = ["--no-deps", "--no-index", "--quiet", "--target", str(base / "wheel")]
    _run([sys.executable, "-m", "pip", "install", *target, str(built.wheel)])
    core = base / "core"
    core.mkdir()
    for name in _core_distributions():
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            (core / top).symlink_to(Path(str(distribution.locate_file(top))))
    workplace = base / "elsewhere"
    workplace.mkdir()
    return Installed((base / "wheel", core), workplace)


def test_there_is_no_framework_where_the_wheel_is_tried(installed: Installed) -> None:
    names = ("jax", "torch", "onnx", "onnx_ir", "onnxruntime", "optax", "sklearn")
    code = f"import importlib.util as u; print([n for n in {names!r} if u.find_spec(n)])"
    assert installed.python(code) == "[]\n"


def test_installed_wheel_computes_without_any_framework(installed: Installed) -> None:
    told = installed.python(
        """
import json
import numpy as np
import mixer_spec
from mixer_spec import families, weights

spec = families.mixer(
    image_size=8, patch=4, channels=6, depth=1, token_hidden=5, channel_hidden=7, classes=3
)
model = mixer_spec.load_backend("reference").load(spec, weights.initial(spec), profile="f64")
logits = model.forward(np.ones((2, 8, 8, 3)))["logits"]
print(json.dumps({
    "file": mixer_spec.__file__,
    "backends": mixer_spec.backend_names(),
    "logits": logits.tolist(),
}))
"""
    )
    answer = json.loads(told)
    assert Path(answer["file"]).is_relative_to(installed.path[0])
    assert answer["backends"] == sorted(PROJECT["entry-points"]["mixer_spec.backends"])
    assert answer["logits"] == [[0.0] * 3] * 2  # the head is zero at first


@pytest.mark.parametrize(
    ("backend", "extra"), [("torch", "torch"), ("jax", "jax"), ("onnxruntime", "onnx")]
)
def test_backend_without_its_framework_names_the_extra(
    installed: Installed, backend: str, extra: str
) -> None:
    told = installed.python(
        f"""
from mixer_spec import MissingExtraError, load_backend
try:
    load_backend({backend!r})
except MissingExtraError as error:
    print(error)
"""
    )
    assert told.startswith(f"backend {backend}: needs the package ")
    assert told.endswith(f'do `pip install "mixer-spec[{extra}]"`\n')


def test_installed_command_line_works_without_any_framework(installed: Installed) -> None:
    run = "from mixer_spec.cli import main; main()"
    listed = [variant["name"] for variant in json.loads(installed.python(run, "list", "--json"))]
    assert listed == list(VARIANTS)
    assert "verify" in installed.python(run, "--help")
    told = json.loads(installed.python(run, "doctor", "--json"))
    assert told["extras"] == dict.fromkeys(
        ["h5", "hf", "hub", "jax", "onnx", "report", "torch", "train"], False
    )
    verdicts = {backend["name"]: backend["verdict"] for backend in told["backends"]}
    expected = {"jax": "missing", "onnxruntime": "missing", "torch": "missing"}
    assert verdicts == {**expected, "reference": "good"}
    compared = json.loads(installed.python(run, "compare", "mixer_s32", "vit_s16", "--json"))
    assert compared["backends"] == {}
    assert [found["name"] for found in compared["architectures"]] == ["mixer_s32", "vit_s16"]
