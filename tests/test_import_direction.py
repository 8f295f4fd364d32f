"""Which package may import which, read from the sources; and what an import loads, by trying it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each package may import besides itself, NumPy and the standard library.
ALLOWED: dict[str, set[str]] = {
    "mixer_spec": {
        "PIL",
        "absl",  # whose flags grain asks for
        "array_record",
        "datasets",
        "google",  # protobuf, which grain brings
        "grain",
        "ml_dtypes",
        "rich",
        "sklearn",  # the digits
        "tensorflow_datasets",
        "typer",
    },
    "mixer_converters": {
        "google",  # protobuf, which onnx brings
        "h5py",
        "huggingface_hub",
        "mixer_spec",
        "ml_dtypes",
        "onnx",
        "onnx_ir",
        "onnxruntime",
        "orbax",
        "rich",
        "tensorstore",
        "typer",
    },
    "mixer_conformance": {
        "jinja2",
        "jsonschema",
        "markupsafe",  # jinja2's own
        "mixer_spec",
        "ml_dtypes",
        "pytest",
        "rich",
        "safetensors",
        "typer",
    },
    "mixer_jax": {
        "mixer_spec",
        "mixer_converters",  # training ends in a canonical file
        "flax",
        "jax",
        "matplotlib",
        "ml_dtypes",
        "optax",
        "orbax",
        "rich",
        "tensorboardX",
    },
    "mixer_torch": {"mixer_spec", "ml_dtypes", "torch"},
    "mixer_onnxruntime": {
        "mixer_spec",
        "mixer_converters",
        "ml_dtypes",
        "onnx",
        "onnx_ir",
        "onnxruntime",
    },
}

FRAMEWORKS = {
    "datasets",
    "flax",
    "grain",
    "huggingface_hub",
    "jax",
    "jaxlib",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "optax",
    "sklearn",
    "torch",
}


def _packages() -> dict[str, Path]:
    """Every package of the wheel, by name."""
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = configuration["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return {Path(folder).name: ROOT / folder for folder in folders}


def imported(source: str) -> Iterator[str]:
    """The top-level name of everything that ``source`` imports, wherever the import stands."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module.partition(".")[0]


def forbidden(package: str, source: str) -> set[str]:
    """What ``source``, a module of ``package``, imports against the rule."""
    always = sys.stdlib_module_names | {package, "numpy"}
    return {*imported(source)} - always - ALLOWED[package]


def test_every_package_has_a_rule() -> None:
    assert _packages().keys() == ALLOWED.keys()


@pytest.mark.parametrize("package", ALLOWED)
def test_package_imports_only_what_it_may(package: str) -> None:
    modules = sorted(_packages()[package].rglob("*.py"))
    assert modules, f"{package} has no modules"
    broken = {
        str(module.relative_to(ROOT)): found
        for module in modules
        if (found := forbidden(package, module.read_text(encoding="utf-8")))
    }
    assert broken == {}


@pytest.mark.parametrize(
    "source",
    [
        "import mixer_torch",
        "import numpy, mixer_torch.model as m",
        "from mixer_torch.model import Model",
        "def late():\n    from mixer_torch import TorchBackend",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mixer_torch",
        "import importlib\nimportlib.import_module('mixer_torch.model')",
        "from importlib import import_module\nimport_module('mixer_torch')",
        "__import__('mixer_torch')",
    ],
)
def test_forbidden_import_is_found_in_every_form(source: str) -> None:
    for package in ALLOWED.keys() - {"mixer_torch"}:
        assert forbidden(package, source) == {"mixer_torch"}
    assert forbidden("mixer_torch", source) == set()


def test_allowed_import_is_not_called_forbidden() -> None:
    source = "import os.path\nimport numpy as np\nfrom . import torch\nfrom .onnx import graph\n"
    assert forbidden("mixer_spec", source) == set()


# --- what an import loads -------------------------------------------------------------------


def _loaded_by(code: str) -> set[str]:
    """Top-level names of the modules that a new interpreter holds after ``code``."""
    tell = "import sys, json; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tell}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_spec_loads_nothing_heavy() -> None:
    loaded = _loaded_by("import mixer_spec")
    assert "numpy" in loaded
    assert loaded & (FRAMEWORKS | {"PIL", "rich", "safetensors", "typer"}) == set()


@pytest.mark.parametrize(
    "module", ["mixer_conformance", "mixer_converters.cli", "mixer_conformance.cli"]
)
def test_importing_commands_and_conformance_loads_no_framework(module: str) -> None:
    loaded = _loaded_by(f"import {module}")
    assert module.partition(".")[0] in loaded
    assert loaded & FRAMEWORKS == set()


@pytest.mark.parametrize("argument", ["list", "--help"])
def test_command_line_loads_no_framework(argument: str) -> None:
    run = (
        "import sys\nfrom mixer_spec.cli import main\n"
        f"sys.argv = ['mixer-spec', {argument!r}]\n"
        "try:\n    main()\nexcept SystemExit as exit_:\n    assert not exit_.code, exit_.code"
    )
    loaded = _loaded_by(run)
    assert "typer" in loaded
    assert loaded & FRAMEWORKS == set()


@pytest.mark.parametrize(
    ("module", "own"),
    [
        ("mixer_jax", {"jax", "jaxlib", "flax"}),
        ("mixer_torch", {"torch"}),
        ("mixer_onnxruntime", {"onnx", "onnx_ir", "onnxruntime"}),
    ],
)
def test_backend_loads_only_its_own_framework(module: str, own: set[str]) -> None:
    foreign = {"flax", "jax", "onnx", "onnxruntime", "torch"} - own
    assert _loaded_by(f"import {module}") & foreign == set()
