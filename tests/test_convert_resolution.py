"""`mixer-spec convert --resolution`: exact for whole factors, `--interpolate` for any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from mixer_conformance import compare, conformance_inputs, conformance_weights
from mixer_converters import load, save
from mixer_converters.cli_layouts import convert
from mixer_spec import FileError, InputError, SpecError, families, variant
from mixer_spec.model_files import read_model
from mixer_spec.reference import forward
from mixer_spec.weights import initial

SPEC = families.mixer(
    image_size=8, patch=4, channels=8, depth=1, token_hidden=6, channel_hidden=12, classes=5
)
WEIGHTS = conformance_weights(SPEC)


def _run(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(convert)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save(tmp_path / "small.safetensors", SPEC, WEIGHTS)
    return tmp_path / "small.safetensors"


@pytest.mark.parametrize("layout", ["canonical", "timm"])
def test_repeated_image_has_the_old_logits_in_any_layout(source: Path, layout: str) -> None:
    target = source.with_name("large.safetensors")
    result = _run(source, target, "--resolution", "16x24", "--to", layout, "--json")
    assert result.exit_code == 0, result.exception
    assert "block-diagonal form" in " ".join(json.loads(result.stdout)["notes"])
    large = load(target)
    assert large.spec.input.shape == (16, 24, 3)
    inputs = conformance_inputs(SPEC, 2).astype(np.float64)
    found = forward(large.spec, dict(large.weights), np.tile(inputs, (1, 2, 3, 1)))["logits"]
    expected = forward(SPEC, WEIGHTS, inputs)["logits"]
    assert np.abs(found - expected).max() <= 1e3 * 2.0**-53  # as many roundings of float64


def test_variant_is_named_only_while_it_is_that(tmp_path: Path) -> None:
    for name, kept in (("mixer_s32", None), ("resmlp_12", "resmlp_12")):
        spec = variant(name).spec(image_size=32, classes=3)
        save(tmp_path / f"{name}.safetensors", spec, initial(spec), variant=name)
        target = tmp_path / f"{name}_64.safetensors"
        assert _run(tmp_path / f"{name}.safetensors", target, "--resolution", "64").exit_code == 0
        assert load(target).variant == kept


def test_other_resolution_is_refused_and_names_the_way(source: Path) -> None:
    target = source.with_name("large.safetensors")
    result = _run(source, target, "--resolution", "12")
    assert isinstance(result.exception, SpecError)
    assert "convert --interpolate" in str(result.exception)
    assert not target.exists()


def test_other_resolution_can_be_interpolated(source: Path) -> None:
    target = source.with_name("large.safetensors")
    result = _run(source, target, "--resolution", "12", "--interpolate")
    assert result.exit_code == 0, result.exception
    assert "which is approximate" in result.stdout
    assert load(target).spec.input.shape == (12, 12, 3)


def test_interpolation_needs_a_resolution(source: Path) -> None:
    result = _run(source, source.with_name("large.safetensors"), "--interpolate")
    assert isinstance(result.exception, InputError)


def test_foreign_layout_is_the_same_function_and_a_reader_opens_it(source: Path) -> None:
    target: Any = source.with_name("google.npz")
    assert _run(source, target).exit_code == 0
    found = compare(read_model(source), read_model(target), ["reference"])
    assert found.same
    assert found.other_weights == ()


@pytest.mark.parametrize("to", ["canonical", "timm"])
def test_force_never_replaces_a_folder_of_other_things(source: Path, to: str) -> None:
    folder = source.with_name("home")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "thesis.txt").write_text("years of work")
    result = _run(source, folder, "--to", to, "--force")
    assert isinstance(result.exception, FileError)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "thesis.txt"]
