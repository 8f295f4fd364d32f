"""`mixer-spec verify`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

import mixer_conformance.cli
import mixer_conformance.in_process
from mixer_conformance.cli import verify
from mixer_spec import (
    VARIANTS,
    BackendInfo,
    FileError,
    InputError,
    MissingExtraError,
    ModelSpec,
    SpecError,
    UnknownNameError,
    families,
)
from mixer_spec.reference import Arithmetic, forward
from mixer_spec.shapes import TokenIds, Vectors

Array = np.ndarray[Any, Any]
SPEC = families.mixer(
    image_size=(8, 12),
    patch=4,
    channels=8,
    depth=2,
    token_hidden=5,
    channel_hidden=12,
    classes=7,
)


class Patched:
    """The float32 reference, whose tap ``norm`` is multiplied by ``factor``."""

    factor = 1.0
    taps = True

    def info(self) -> BackendInfo:
        return BackendInfo(
            name=type(self).__name__.lower(),
            versions={"patched": "1.0"},
            device="cpu",
            profiles=("f32-strict",),
            taps=self.taps,
        )

    def load(self, spec: ModelSpec, weights: Mapping[str, Array], *, profile: str) -> Any:
        self.spec, self.weights = spec, weights
        return self

    def forward(self, images: Array, taps: Sequence[str] = ()) -> Mapping[str, Array]:
        found = forward(self.spec, self.weights, images, taps, arithmetic=Arithmetic(np.float32))
        if "norm" in found:
            found["norm"] = found["norm"] * np.float32(self.factor)
        return found

    def export_weights(self) -> Mapping[str, Array]:
        return self.weights


class Honest(Patched):
    pass


class Wrong(Patched):
    factor = 1.25


class Blind(Patched):
    taps = False


class Crashing(Patched):
    def forward(self, images: Array, taps: Sequence[str] = ()) -> Mapping[str, Array]:
        raise RuntimeError("no memory [0 bytes]")


BACKENDS = {"honest": Honest, "wrong": Wrong, "blind": Blind, "crashing": Crashing}


@pytest.fixture
def spec_file(tmp_path: Path) -> str:
    path = tmp_path / "small.json"
    path.write_text(SPEC.to_json())
    return str(path)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Patched]]:
    """Backends of this file in place of the registered ones."""
    found: dict[str, type[Patched]] = dict(BACKENDS)

    def load(name: str) -> Patched:
        if name not in found:
            raise MissingExtraError(f"backend {name}", "needs the package that is not installed")
        return found[name]()

    monkeypatch.setattr(mixer_conformance.in_process, "load_backend", load)
    monkeypatch.setattr(
        mixer_conformance.cli, "backend_names", lambda: (*found, "absent", "reference")
    )
    return found


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(verify)
    return CliRunner().invoke(app, arguments)


def test_a_conformant_backend_exits_with_0(spec_file: str) -> None:
    result = run(spec_file, "--backends", "honest")
    assert result.exit_code == 0
    assert "small.json  f32-strict, 2 inputs, seed 0; judged by float64 NumPy" in result.output
    assert re.search(r"^stem +\d\d\.\d  0\.\d+", result.output, re.MULTILINE)
    assert re.search(
        r"^token_mixing \(worst of 2\) +\d\d\.\d  0\.\d+ @[01]", result.output, re.MULTILINE
    )
    assert re.search(
        r"honest \(patched 1.0; cpu\): conformant; worst 0\.\d+ of the tolerance, at", result.output
    )
    assert "4 x (root mean square) and 8 x (largest error)" in result.output


def test_the_full_table_has_a_row_for_every_tap(spec_file: str) -> None:
    output = run(spec_file, "--backends", "honest", "--full-table").output
    rows = [line.split()[0] for line in output.splitlines() if line.strip()]
    assert [row for row in rows if row in SPEC.taps] == list(SPEC.taps)


def test_a_wrong_backend_exits_with_1_and_is_located(spec_file: str) -> None:
    result = run(spec_file, "--backends", "honest,wrong")
    assert result.exit_code == 1
    assert "wrong (patched 1.0; cpu): NOT conformant; first bad stage: norm" in result.output
    assert re.search(
        r"norm, from its own previous tap: error 2\.5e-01 rms, .* max at index \[\d, \d, \d\] \(the "
        r"sample first\): expected \S+, got \S+; tolerance .* rms = 4 x max\(yardstick .*, floor .*\), .* max = .* x the same; .* x over",
        result.output,
    )
    assert "honest (patched 1.0; cpu): conformant" in result.output


def test_a_crash_exits_with_3_and_the_others_are_judged(spec_file: str) -> None:
    result = run(spec_file, "--backends", "crashing,honest")
    assert result.exit_code == 3
    assert "crashed: forward raised RuntimeError: no memory [0 bytes]" in result.output
    assert "honest (patched 1.0; cpu): conformant" in result.output


def test_a_backend_without_taps_is_said_to_be_judged_on_its_logits(spec_file: str) -> None:
    result = run(spec_file, "--backends", "blind")
    assert result.exit_code == 0
    assert "conformant, judged on its logits only: some weights do not reach them" in result.output
    assert re.search(r"^stem +not seen", result.output, re.MULTILINE)


def test_by_default_every_installed_backend_but_the_reference_is_judged(spec_file: str) -> None:
    result = run(spec_file, "--json")
    assert result.exit_code == 3
    (report,) = json.loads(result.output)["reports"]
    assert [backend["name"] for backend in report["backends"]] == list(BACKENDS)


def test_nothing_installed_exits_with_4(
    spec_file: str, registered: dict[str, type[Patched]]
) -> None:
    registered.clear()
    result = run(spec_file)
    assert result.exit_code == 4
    assert (
        'Nothing was executed: no backend is installed; do `pip install "mixer-spec[torch]"`'
        in (result.output)
    )
    result = run(spec_file, "--json")
    assert result.exit_code == 4
    assert json.loads(result.output) == {"conformant": False, "reports": []}


@pytest.mark.parametrize(
    "entering", [TokenIds(tokens=6, vocabulary=30), Vectors(tokens=6, channels=5)]
)
def test_a_spec_for_sequences_is_judged_too(tmp_path: Path, entering: TokenIds | Vectors) -> None:
    widths = {"channels": 8, "depth": 1, "token_hidden": 5, "channel_hidden": 12, "classes": 2}
    path = tmp_path / "sequence.json"
    path.write_text(families.sequence_mixer(input=entering, **widths).to_json())
    result = run(str(path), "--backends", "honest,wrong", "--json")
    assert result.exit_code == 1
    (report,) = json.loads(result.output)["reports"]
    assert [backend["conformant"] for backend in report["backends"]] == [True, False]
    assert report["backends"][1]["first_bad_stage"] == "norm"


def test_all_means_every_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    some = {name: VARIANTS[name] for name in ("mixer_s32", "gmlp_ti16", "resmlp_12_conv")}
    monkeypatch.setattr(mixer_conformance.cli, "VARIANTS", some)
    arguments = ("--all", "--image-size", "32", "--classes", "2", "--backends", "honest", "--json")
    reports = json.loads(run(*arguments).output)["reports"]
    assert [report["name"] for report in reports] == list(some)


def test_json_is_one_document_for_several_specs(spec_file: str) -> None:
    result = run(
        spec_file, spec_file, "--backends", "honest", "--json", "--seed", "7", "--batch", "1"
    )
    data = json.loads(result.output)
    assert data["conformant"] is True
    assert [report["fingerprint"] for report in data["reports"]] == [SPEC.fingerprint] * 2
    assert {(report["seed"], report["batch"]) for report in data["reports"]} == {(7, 1)}


def test_a_variant_takes_an_image_size_and_classes() -> None:
    arguments = (
        "S/32",
        "--image-size",
        "32x64",
        "--classes",
        "5",
        "--backends",
        "honest",
        "--json",
    )
    (report,) = json.loads(run(*arguments).output)["reports"]
    assert report["name"] == "mixer_s32"
    assert report["backends"][0]["conformant"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (),
            InputError,
            "nothing to verify; expected a variant, as in `verify mixer_s32`, or --all",
        ),
        (
            ("mixer_s33",),
            UnknownNameError,
            "there is no such variant; expected a name like mixer_s",
        ),
        (("S/32", "--image-size", "50"), SpecError, "must be a multiple of the patch's"),
        (("missing.json",), FileError, "missing.json: cannot be read; got: No such file"),
        (
            ("S/32", "--backends", "honest,,wrong"),
            InputError,
            "--backends: an empty name; expected",
        ),
        (("S/32", "--backends", "absent"), MissingExtraError, "needs the package"),
    ],
)
def test_bad_input_is_an_error_before_anything_runs(
    arguments: tuple[str, ...], error: type[Exception], message: str
) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, error)
    assert message in str(result.exception)
    assert result.output == ""


def test_the_installed_command_reports_bad_input_with_2() -> None:
    command = [sys.executable, "-m", "mixer_spec", "verify", "mixer_s33", "--backends", "reference"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: variant 'mixer_s33': there is no such variant")


def test_the_command_module_imports_no_framework() -> None:
    code = (
        "import sys, mixer_conformance.cli\n"
        "print(sorted({'torch', 'jax', 'onnx', 'onnxruntime', 'PIL'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_a_mistake_marks_its_own_row_and_no_later_one(spec_file: str) -> None:
    output = run(spec_file, "--backends", "wrong").output
    margins = {
        row.split()[0]: float(row.split()[-1])
        for row in output.splitlines()
        if row.startswith(("stem", "norm", "logits"))
    }
    assert margins["norm"] > 1
    assert margins["stem"] < 1
    assert margins["logits"] < 1
