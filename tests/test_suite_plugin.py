"""The suite as pytest's plugin: what each status becomes, and that a refusal is never a pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ENGINE = '''
"""Another fault for each model, told apart by its layers."""

from mixer_conformance.mutants.hostile import Honest


class Mixed(Honest):
    def model(self, spec, weights):
        right = super().model(spec, weights)
        kinds = {node.layer.kind for node in spec.nodes()}
        if "attention" in kinds:
            raise NotImplementedError("attention")
        if kinds & {"affine", "spatial_gate"}:
            return super().model(spec, {**weights, "head.bias": 0 * weights["head.bias"]})
        if "token_embed" in kinds:
            raise RuntimeError("no device")
        return right


class RefusesAll(Honest):
    def model(self, spec, weights):
        raise NotImplementedError("any model")
'''

EXCUSES = """
[[excuse]]
case = "F01/gmlp"
reason = "no bias"
issue = "https://example.org/1"
expires = 2999-01-01

[[excuse]]
case = "F01/mixer"
reason = "mended long ago"
issue = "https://example.org/2"
expires = 2999-01-01
"""


def judged(
    folder: Path, engine: str, scales: str, *more: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """A run of F01, and what pytest says of each model."""
    (folder / "plugin_engine.py").write_text(ENGINE)
    options = ["--backend", f"plugin_engine:{engine}", "--scales", scales, *more]
    chosen = ["-k", "F01", "-rA", "-p", "no:cacheprovider", "--junit-xml", "found.xml"]
    command = ["-p", "mixer_conformance.plugin", "--pyargs", "mixer_conformance"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *command, *options, *chosen],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    found = {}
    for case in ElementTree.parse(folder / "found.xml").iter("testcase"):
        model = case.attrib["name"].split("/")[1]
        (kind,) = [child for child in case if child.tag != "properties"] or [None]
        found[model] = "passed" if kind is None else kind.attrib.get("type", kind.tag)
    return done, found


@pytest.fixture(scope="module")
def mixed(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "excuses.toml").write_text(EXCUSES)
    scales = "no_block,vit,resmlp,gmlp,mixer,words"
    return judged(folder, "Mixed", scales, "--excuses", "excuses.toml")


def test_each_status_has_its_own_outcome(
    mixed: tuple[subprocess.CompletedProcess[str], dict[str, str]],
) -> None:
    done, found = mixed
    assert found == {
        "no_block": "passed",
        "mixer": "failure",
        "resmlp": "failure",
        "gmlp": "pytest.xfail",
        "vit": "pytest.skip",
        "words": "failure",
    }
    assert done.returncode == 1


def test_each_outcome_is_told_in_one_sentence(
    mixed: tuple[subprocess.CompletedProcess[str], dict[str, str]],
) -> None:
    text = mixed[0].stdout
    assert "unexpected_pass: passes, but is excused until 2999-01-01: mended long ago" in text
    assert "fail: logits, from its own previous tap: error" in text
    assert "\nlogits: head's bias dropped explains" in text
    assert "error: load raised RuntimeError: no device" in text
    assert "load raised NotImplementedError: attention" in text
    assert "Traceback" not in text


def test_a_run_in_which_everything_is_refused_is_no_success(tmp_path: Path) -> None:
    done, found = judged(tmp_path, "RefusesAll", "mixer,vit")
    assert set(found.values()) == {"pytest.skip"}
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "nothing was executed: the backend supports none of the cases" in done.stdout
