"""`init-backend`: a package with a backend that works, its test and its CI, to start from."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from mixer_spec.errors import FileError, InputError

_PYPROJECT = """[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "mixer-{name}"
version = "0.1.0"
description = "A backend of mixer-spec"
requires-python = ">=3.11"
dependencies = ["mixer-spec"]

[project.optional-dependencies]
test = ["pytest"]

[project.entry-points."mixer_spec.backends"]
{name} = "mixer_{name}:Backend"

[tool.hatch.build.targets.wheel]
packages = ["mixer_{name}"]
"""

_MODULE = '''"""A backend of mixer-spec. It computes in NumPy until you put your framework in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixer_spec import BackendInfo, ModelSpec
from mixer_spec.backend import Profile, check_inputs, check_profile
from mixer_spec.reference import Arithmetic, run_step
from mixer_spec.weights import Weights, validate


class Model:
    """A spec with weights, ready to run."""

    def __init__(self, spec: ModelSpec, weights: Weights) -> None:
        self._spec = spec
        self._weights = {{name: array.copy() for name, array in weights.items()}}
        # Convert the weights to your framework's arrays here. Names and shapes of everything:
        # spec.parameters(). Each node of spec.steps has its path, shapes and own_parameters.

    def forward(self, inputs: np.ndarray[Any, Any], taps: Sequence[str] = ()) -> Mapping[str, Any]:
        """Run a batch: NumPy in, NumPy out, always with the logits."""
        check_inputs(self._spec, inputs, taps)
        found, x = {{}}, inputs
        for step in self._spec.steps:
            # Replace this line by your own function for each layer kind:
            # for node in step.nodes: x = COMPUTE[type(node.layer)](node, x)
            x = run_step(step, self._weights, x, Arithmetic(np.float32))
            if step.tap in taps or step.tap == "logits":
                found[step.tap] = x
        return found

    def export_weights(self) -> Weights:
        """The weights, bit for bit as they were loaded."""
        return self._weights


class Backend:
    """What mixer-spec finds under the name {name!r}."""

    def info(self) -> BackendInfo:
        """Name, versions, device, and the arithmetics that it claims."""
        return BackendInfo(
            name="{name}",
            versions={{"numpy": np.__version__}},
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

from mixer_conformance import read_excuses, run

EXCUSES = read_excuses(Path(__file__).parents[1] / "excuses.toml")


def test_the_backend_is_conformant() -> None:
    results = run("{name}", excuses=EXCUSES)
    assert any(result.status == "pass" for result in results)
    bad = [r for r in results if r.status in ("fail", "error", "unexpected_pass")]
    assert not bad, "\\n".join(f"{{r.id}} {{r.status}}: {{r.message}}" for r in bad)
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
      - run: pytest
      - run: >-
          mixer-spec conformance run --backend {name} --full --excuses excuses.toml
          --junit conformance.xml --markdown conformance.md
      - if: always()
        run: cat conformance.md >> "$GITHUB_STEP_SUMMARY"
"""

_README = """# mixer-{name}

A backend of mixer-spec.

```
pip install -e ".[test]"
mixer-spec conformance run --backend {name}            # seconds
mixer-spec conformance run --backend {name} --full     # minutes
mixer-spec conformance locate --backend {name} --write repro.py
```
"""

_FILES = {
    "pyproject.toml": _PYPROJECT,
    "mixer_{name}/__init__.py": _MODULE,
    "tests/test_conformance.py": _TEST,
    "excuses.toml": _EXCUSES,
    ".github/workflows/conformance.yml": _CI,
    "README.md": _README,
}


def write_skeleton(name: str, folder: Path) -> list[Path]:
    """Write ``mixer-NAME/`` below ``folder``.

    Args:
        name: of the backend.
        folder: where the package's own folder is made.

    Returns:
        The files, ``pyproject.toml`` first.

    Raises:
        InputError: if the name is no lower-case identifier.
        FileError: if the package's folder exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise InputError(
            "name", f"must be a lower-case identifier, as in tinygrad or my_engine, got {name!r}"
        )
    root = folder / f"mixer-{name}"
    if root.exists():
        raise FileError(str(root), "exists already; do choose another name or folder")
    written = []
    for place, text in _FILES.items():
        path = root / place.format(name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(name=name), encoding="utf-8")
        written.append(path)
    return written
