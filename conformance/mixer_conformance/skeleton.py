"""`init-backend`: a package with a backend that works, its test and its CI, to start from."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import tempfile
from pathlib import Path

from mixer_spec.backend import backend_names
from mixer_spec.errors import FileError, InputError

# In all of them, NAME stands for the backend's name.

_PYPROJECT = """[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "mixer-NAME"
version = "0.1.0"
description = "A backend of mixer-spec"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["mixer-spec"]

[project.optional-dependencies]
test = ["pytest", "ruff"]

[project.entry-points."mixer_spec.backends"]
NAME = "mixer_NAME:Backend"

[tool.hatch.build.targets.wheel]
packages = ["mixer_NAME"]

[tool.ruff]
line-length = 100
extend-exclude = ["repro.py"]
"""

_LAYERS = '''"""What each layer kind computes; NumPy's reference stands in for those that are still to be written.

The definitions, one short function each, are in mixer_spec/reference/layers.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mixer_spec import layers
from mixer_spec.graph import Node
from mixer_spec.reference import Arithmetic, run_node

Array = np.ndarray[Any, Any]


def run(node: Node, weights: Mapping[str, Array], x: Array) -> Array:
    """One layer at its place in the model, with the layers inside it.

    Args:
        node: has the layer with its fields, its path, and the shapes that enter and leave.
        weights: canonical name to array.
        x: what enters, with a batch axis in front, as in ``[batch, token, channel]``.
    """
    own = {name: weights[f"{node.path}.{name}"] for name in node.own_parameters}

    def nested(x: Array) -> Array:
        for child in node.children:
            x = run(child, weights, x)
        return x

    match node.layer:
        case layers.Residual():
            return x + nested(x)
        case layers.ChannelDense():
            return x @ own["kernel"] + own["bias"]
    return run_node(node, weights, x, Arithmetic(np.float32))
'''

_MODULE = '''"""A backend of mixer-spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mixer_spec import BackendInfo, ModelSpec
from mixer_spec.backend import Profile, check_inputs, check_profile
from mixer_spec.weights import Weights, validate

from .layers import run

Array = np.ndarray[Any, Any]


class Model:
    """A spec with weights, ready to run."""

    def __init__(self, spec: ModelSpec, weights: Weights) -> None:
        self._spec = spec
        self._given = {name: array.copy() for name, array in weights.items()}
        # Make arrays of your framework here.
        self._weights = {name: np.asarray(array, np.float32) for name, array in weights.items()}

    def forward(self, inputs: Array, taps: Sequence[str] = ()) -> Mapping[str, Array]:
        """Run a batch: NumPy in, NumPy out, always with the logits."""
        check_inputs(self._spec, inputs, taps)
        x = inputs if inputs.dtype.kind in "iu" else np.asarray(inputs, np.float32)
        found = {}
        for step in self._spec.steps:
            for node in step.nodes:
                x = run(node, self._weights, x)
            if step.tap in taps or step.tap == "logits":
                found[step.tap] = x
        return found

    def export_weights(self) -> Weights:
        """The weights, bit for bit as they were loaded."""
        return self._given


class Backend:
    """What mixer-spec finds under the name NAME."""

    def info(self) -> BackendInfo:
        """Name, versions, device, and the arithmetics that it claims."""
        return BackendInfo(
            name="NAME",
            versions={"numpy": np.__version__},
            device="cpu",
            profiles=("f32-strict",),
        )

    def load(self, spec: ModelSpec, weights: Weights, *, profile: Profile = "f32-strict") -> Model:
        """Refuse what does not fit, then build the model.

        Raise NotImplementedError for a layer kind that you do not have: such models are then
        unsupported, which is no failure and no pass.
        """
        check_profile(self.info(), profile)
        validate(spec, weights)
        return Model(spec, weights)
'''

_TEST = '''"""The backend is conformant."""

from pathlib import Path

from mixer_conformance import read_excuses, run_isolated

EXCUSES = read_excuses(Path(__file__).parents[1] / "excuses.toml")


def test_the_backend_is_conformant() -> None:
    _, results = run_isolated("mixer_NAME:Backend", excuses=EXCUSES)
    assert any(result.status == "pass" for result in results)
    bad = [r for r in results if r.status in ("fail", "error", "unexpected_pass")]
    assert not bad, "\\n".join(f"{r.id} {r.status}: {r.message}" for r in bad)
'''

_EXCUSES = """# Known failures, each a table:
#
# [[excuse]]
# case = "F06/mixer"
# reason = "the engine computes the variance in one pass"
# issue = "https://example.org/issues/1"
# expires = 2027-01-01
#
# They are run all the same: one that passes, ran out or fits no case fails loudly.
"""

_CI = """name: conformance
on: [push, pull_request]
jobs:
  conformance:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: pip install -e ".[test]"
      - run: ruff check
      - run: ruff format --check
      - run: pytest
      - run: >-
          mixer-spec conformance run --backend NAME --full --excuses excuses.toml
          --junit conformance.xml --markdown conformance.md
      - if: always()
        run: cat conformance.md >> "$GITHUB_STEP_SUMMARY"
"""

_README = """# mixer-NAME

A backend of mixer-spec.

```
pip install -e ".[test]"
mixer-spec conformance run --backend NAME            # seconds
mixer-spec conformance run --backend NAME --full     # minutes
mixer-spec conformance locate --backend NAME --write repro.py
```
"""

_IGNORED = """__pycache__/
.venv/
.pytest_cache/
.ruff_cache/
conformance.md
conformance.xml
repro.py
"""

_FILES = {
    "pyproject.toml": _PYPROJECT,
    "mixer_NAME/__init__.py": _MODULE,
    "mixer_NAME/layers.py": _LAYERS,
    "tests/test_conformance.py": _TEST,
    "excuses.toml": _EXCUSES,
    ".github/workflows/conformance.yml": _CI,
    ".gitignore": _IGNORED,
    "README.md": _README,
}


def write_skeleton(name: str, folder: Path) -> list[Path]:
    """Write ``mixer-NAME/`` below ``folder``, whole or not at all.

    Args:
        name: of the backend.
        folder: where the package's own folder is made.

    Returns:
        The files, ``pyproject.toml`` first.

    Raises:
        InputError: if the name is no lower-case identifier, or a package has it.
        FileError: if the package's folder exists, or cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise InputError(
            "name", f"must be a lower-case identifier, as in tinygrad or my_engine, got {name!r}"
        )
    if name in backend_names() or importlib.util.find_spec(f"mixer_{name}"):
        raise InputError("name", f"mixer_{name} is installed already; do choose another name")
    root = folder / f"mixer-{name}"
    if root.exists():
        raise FileError(str(root), "exists already; do choose another name or folder")
    try:
        beside = Path(tempfile.mkdtemp(prefix=".init-backend-", dir=folder))
        try:
            for place, text in _FILES.items():
                path = beside / root.name / place.replace("NAME", name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text.replace("NAME", name), encoding="utf-8")
            (beside / root.name).rename(root)
        finally:
            shutil.rmtree(beside)
    except OSError as error:
        raise FileError(str(root), f"cannot be written; got: {error.strerror}") from None
    return [root / place.replace("NAME", name) for place in _FILES]
