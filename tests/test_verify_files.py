"""Whether two models are the same function: `compare`, and `mixer-spec verify FILE FILE`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from mixer_conformance import compare, conformance_weights
from mixer_conformance.cli import verify
from mixer_conformance.compare import spec_differences
from mixer_converters import save, save_pretrained
from mixer_converters.onnx_export import export_onnx
from mixer_spec import (
    BackendInfo,
    FileError,
    InputError,
    ModelSpec,
    UnknownNameError,
    WeightsError,
    families,
)
from mixer_spec.model_files import read_model
from mixer_spec.surgery import raise_resolution

Array = np.ndarray[Any, Any]


def _mixer(**changes: Any) -> ModelSpec:
    sizes: dict[str, Any] = {
        "image_size": (8, 12),
        "patch": 4,
        "channels": 8,
        "depth": 2,
        "token_hidden": 6,
        "channel_hidden": 12,
        "classes": 7,
    }
    return families.mixer(**{**sizes, **changes})


TANH, ERF = _mixer(gelu="tanh"), _mixer(gelu="none")
WEIGHTS = conformance_weights(TANH)


def _model(spec: ModelSpec, weights: Mapping[str, Array] = WEIGHTS) -> Any:
    return SimpleNamespace(spec=spec, weights=weights)


def _changed(name: str, change: Any) -> dict[str, Array]:
    return {**WEIGHTS, name: change(WEIGHTS[name])}


def _permuted_hidden_units() -> dict[str, Array]:
    """The same function: hidden units of one MLP in the reverse order."""
    path = "blocks.1.channel_mixing"
    return {
        **WEIGHTS,
        f"{path}.dense_0.kernel": WEIGHTS[f"{path}.dense_0.kernel"][:, ::-1],
        f"{path}.dense_0.bias": WEIGHTS[f"{path}.dense_0.bias"][::-1],
        f"{path}.dense_1.kernel": WEIGHTS[f"{path}.dense_1.kernel"][::-1],
    }


# --- the function ----------------------------------------------------------------------------


def test_model_is_the_same_function_as_itself() -> None:
    found = compare(_model(TANH), _model(TANH), ["reference"])
    assert found.same
    assert found.first_difference is None
    assert found.logits_apart == 0.0
    assert (found.spec_differences, found.other_weights) == ((), ())
    assert found.report is not None
    names = [backend.name for backend in found.report.backends]
    assert names == ["float64: second", "reference: first", "reference: second"]


@pytest.mark.parametrize("backends", [[], ["reference"], ["torch", "jax", "onnxruntime"]], ids=str)
def test_other_gelu_is_another_function_and_the_stage_is_named(backends: list[str]) -> None:
    found = compare(_model(TANH), _model(ERF), backends)
    assert not found.same
    assert found.first_difference == "blocks.0.token_mixing"
    assert found.logits_apart is not None
    assert 1e-5 < found.logits_apart < 1e-2
    assert found.other_weights == ()
    assert found.spec_differences == (
        "stages[0].block[0].layers[2].approximation: tanh | none",
        "stages[0].block[1].layers[2].approximation: tanh | none",
    )
    assert found.report is not None
    verdicts = {b.name: b.conformant for b in found.report.backends}
    for name, conformant in verdicts.items():
        assert conformant == name.endswith(": first"), name


def test_hidden_units_in_another_order_are_the_same_function() -> None:
    found = compare(_model(TANH), _model(TANH, _permuted_hidden_units()), ["torch", "jax"])
    assert found.same
    assert found.other_weights == tuple(
        f"blocks.1.channel_mixing.{name}"
        for name in ("dense_0.kernel", "dense_0.bias", "dense_1.kernel")
    )
    assert found.logits_apart is not None
    assert found.logits_apart < 1e-14


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("stem.kernel", "stem"),
        ("blocks.0.channel_mixing.dense_1.bias", "blocks.0.channel_mixing"),
        ("blocks.1.token_mixing.dense_0.kernel", "blocks.1.token_mixing"),
        ("norm.scale", "norm"),
        ("head.bias", "logits"),
    ],
)
def test_first_stage_with_other_weights_is_named(name: str, stage: str) -> None:
    changed = _changed(name, lambda array: (array * 1.001).astype(np.float32))
    found = compare(_model(TANH), _model(TANH, changed))
    assert not found.same
    assert found.first_difference == stage
    assert found.other_weights == (name,)


def test_rounding_to_bfloat16_is_another_function() -> None:
    noisy = {n: a + np.float32(1e-3) * a for n, a in WEIGHTS.items()}
    rounded = {n: a.astype(ml_dtypes.bfloat16).astype(np.float32) for n, a in noisy.items()}
    assert not compare(_model(TANH, noisy), _model(TANH, rounded)).same


def test_zero_head_hides_nothing() -> None:
    headless = {**WEIGHTS, "head.kernel": np.zeros_like(WEIGHTS["head.kernel"])}
    found = compare(_model(TANH, headless), _model(ERF, headless))
    assert not found.same
    assert found.logits_apart == 0.0


def test_infinite_weights_are_judged_not_warned_of() -> None:
    broken = _changed("norm.bias", lambda array: np.full_like(array, np.inf))
    found = compare(_model(TANH), _model(TANH, broken))
    assert not found.same
    assert found.first_difference == "norm"
    assert json.loads(json.dumps(found.to_data(), allow_nan=False))["logits_apart"] is None


def test_models_with_other_taps_are_compared_at_their_logits() -> None:
    one, two = _mixer(depth=1), _mixer(depth=2)
    weights = dict(conformance_weights(two))
    for name in ("token_mixing.dense_1", "channel_mixing.dense_1"):
        for part in ("kernel", "bias"):
            weights[f"blocks.1.{name}.{part}"] *= 0  # a second block that adds nothing
    shared = {name: array for name, array in weights.items() if not name.startswith("blocks.1.")}
    found = compare(_model(one, shared), _model(two, weights), ["torch"])
    assert found.same
    assert "stages[0].depth: 1 | 2" in found.spec_differences
    weights["blocks.1.channel_mixing.dense_1.bias"] += np.arange(8, dtype=np.float32)
    found = compare(_model(one, shared), _model(two, weights), ["torch"])
    assert not found.same
    assert found.first_difference == "logits"


@pytest.mark.parametrize("change", [{"classes": 6}, {"image_size": (8, 16)}])
def test_other_inputs_or_classes_are_another_function(change: dict[str, Any]) -> None:
    other = _mixer(**change)
    found = compare(_model(TANH), _model(other, conformance_weights(other)), ["reference"])
    assert not found.same
    assert found.report is None
    assert found.spec_differences


def test_raised_resolution_is_told_by_its_spec() -> None:
    large, raised = raise_resolution(TANH, WEIGHTS, image_size=(16, 24))
    found = compare(_model(TANH), _model(large, raised))
    assert not found.same
    assert "input.height: 8 | 16" in found.spec_differences


class Broken:
    """A backend that raises, or whose logits are off."""

    def info(self) -> BackendInfo:
        return BackendInfo(name="broken", versions={}, device="cpu", profiles=("f32-strict",))

    def load(self, spec: ModelSpec, weights: Mapping[str, Array], *, profile: str) -> Any:
        return self

    def forward(self, inputs: Array, taps: Sequence[str] = ()) -> Mapping[str, Array]:
        raise RuntimeError("no such kernel")

    def export_weights(self) -> Mapping[str, Array]:
        return WEIGHTS


def test_backend_that_crashes_is_reported() -> None:
    found = compare(_model(TANH), _model(TANH), [Broken()])
    assert found.crashed
    assert not found.same
    assert found.first_difference is None


def test_weights_that_do_not_fit_are_refused_by_their_models_name() -> None:
    with pytest.raises(WeightsError, match=r"^two: "):
        compare(_model(TANH), _model(_mixer(channels=4)), names=("one", "two"))


def test_few_differences_are_written_out_and_the_others_counted() -> None:
    other = families.gmlp(image_size=(8, 12), patch=4, channels=8, depth=2, classes=7)
    assert list(spec_differences(TANH, other)) == ["stages[0].block: 2 of them | 1 of them"]
    every = families.vit(
        image_size=(8, 12), patch=4, channels=4, depth=9, heads=2, channel_hidden=3, classes=6
    )
    stage = dataclasses.replace(every.stages[0], depth=1)
    many = dataclasses.replace(
        every,
        stages=tuple(dataclasses.replace(stage, block=(*stage.block[:1],)) for _ in range(9)),
    )
    few = dataclasses.replace(
        many,
        stages=tuple(
            dataclasses.replace(
                stage, block=(dataclasses.replace(stage.block[0], name="attention"),)
            )
            for _ in range(9)
        ),
    )
    found = compare(_model(many, conformance_weights(many)), _model(few, conformance_weights(few)))
    assert len(found.spec_differences) == 9
    assert found.spec_differences[-1] == "and 1 more"


# --- the command -----------------------------------------------------------------------------


def _run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(verify)
    return CliRunner().invoke(app, arguments)


def _write(folder: Path, name: str, spec: ModelSpec, weights: Any = WEIGHTS) -> str:
    path = folder / name
    if name.endswith(".onnx"):
        export_onnx(spec, weights, path)
    elif name.endswith(".safetensors"):
        save(path, spec, weights)
    else:
        save_pretrained(path, spec, weights)
    return str(path)


@pytest.mark.parametrize("other", ["b.safetensors", "b.onnx", "b"])
def test_same_function_in_any_layout_is_exit_code_0(tmp_path: Path, other: str) -> None:
    one, two = _write(tmp_path, "a.safetensors", TANH), _write(tmp_path, other, TANH)
    result = _run(one, two, "--backends", "torch,onnxruntime")
    assert result.exit_code == 0, result.output
    assert f"the same function: {one} and {two}" in result.stdout
    assert "weights: the same bits" in result.stdout
    assert f"torch: {two}" in result.stdout


@pytest.mark.parametrize("other", ["b.safetensors", "b.onnx", "b"])
def test_erf_for_tanh_is_exit_code_1_and_says_where_and_how_much(
    tmp_path: Path, other: str
) -> None:
    one, two = _write(tmp_path, "a.safetensors", TANH), _write(tmp_path, other, ERF)
    result = _run(one, two, "--backends", "reference")
    assert result.exit_code == 1
    assert f"NOT the same function: {one} and {two}" in result.stdout
    assert "they part at blocks.0.token_mixing" in result.stdout
    assert "approximation: tanh | none" in result.stdout
    assert "weights: the same bits" in result.stdout


def test_json_is_one_document(tmp_path: Path) -> None:
    one, two = _write(tmp_path, "a.safetensors", TANH), _write(tmp_path, "b.onnx", ERF)
    result = _run(one, two, "--backends", "reference", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["same"] is False
    assert told["models"] == [one, two]
    assert told["first_difference"] == "blocks.0.token_mixing"
    assert 1e-5 < told["logits_apart"] < 1e-2
    assert [b["name"].partition(":")[0] for b in told["report"]["backends"]] == [
        "float64",
        "reference",
        "reference",
    ]


def test_one_file_is_verified_with_its_own_weights(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.onnx", TANH)
    result = _run(path, "--backends", "torch", "--json")
    assert result.exit_code == 0
    (report,) = json.loads(result.stdout)["reports"]
    assert report["name"] == path
    assert report["fingerprint"] == TANH.fingerprint


def test_models_that_cannot_be_compared_are_exit_code_1(tmp_path: Path) -> None:
    wide = _mixer(classes=9)
    one = _write(tmp_path, "a.safetensors", TANH)
    two = _write(tmp_path, "b.safetensors", wide, conformance_weights(wide))
    result = _run(one, two, "--backends", "reference")
    assert result.exit_code == 1
    assert "spec: head.classes: 7 | 9" in result.stdout


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["mixer_s32"], "expected one or two files and nothing else"),
        (["FILE", "FILE"], "expected one or two files and nothing else"),
        (["--all"], "expected one or two files and nothing else"),
        (["--image-size", "64"], "a model file has an image size and classes of its own"),
        (["--classes", "5"], "a model file has an image size and classes of its own"),
    ],
)
def test_what_does_not_go_with_files_is_refused(
    tmp_path: Path, more: list[str], words: str
) -> None:
    path = _write(tmp_path, "a.safetensors", TANH)
    result = _run(path, *(path if word == "FILE" else word for word in more))
    assert isinstance(result.exception, InputError)
    assert words in str(result.exception)


def test_missing_file_is_a_file_error_and_a_missing_name_is_not(tmp_path: Path) -> None:
    result = _run(str(tmp_path / "none.safetensors"), "--backends", "reference")
    assert isinstance(result.exception, FileError)
    assert "there is no such file" in str(result.exception)
    result = _run("mixer_b17", "--backends", "reference")
    assert isinstance(result.exception, UnknownNameError)


def test_file_of_no_reader_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(FileError, match=r"notes\.txt"):
        read_model(tmp_path / "notes.txt")


def test_every_reader_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    def refuse(path: Path) -> Any:
        raise FileError(str(path), "is not mine")

    def entry(name: str, reader: Any) -> Any:
        made = importlib.metadata.EntryPoint(name, "made:up", "mixer_spec.readers")
        monkeypatch.setitem(readers, name, reader)
        return made

    readers: dict[str, Any] = {}
    entries = [entry("b", lambda path: _model(TANH)), entry("a", refuse), entry("c", refuse)]
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: readers[self.name])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries)
    assert read_model(tmp_path).spec == TANH
    readers["b"] = refuse
    with pytest.raises(FileError) as caught:
        read_model(tmp_path)
    assert len(caught.value.problems) == 3
    entries.clear()
    with pytest.raises(FileError, match="nothing reads it"):
        read_model(tmp_path)
