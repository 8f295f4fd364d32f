"""``mixer-spec train``, ``finetune`` and ``evaluate``, as a user types them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mixer_converters import deployment
from mixer_converters.canonical import load
from mixer_spec import InputError, MixerSpecError, families, reference
from mixer_spec.cli import app
from mixer_spec.data import open_source
from mixer_spec.evaluation import evaluation_batches, predictions
from mixer_spec.recipe import Recipe, changed
from mixer_spec.recipes import recipe
from mixer_spec.starting import weights_from

SPEC = families.mixer(
    image_size=8, patch=4, channels=8, depth=1, token_hidden=5, channel_hidden=12, classes=3
)
QUICK = [
    "--set",
    "steps=60",
    "--set",
    "optimiser.learning_rate=0.01",
    "--set",
    "batch=12",
    "--set",
    "schedule.warm_up=3",
]


def invoke(*arguments: object, code: int = 0) -> Result:
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == code, found.output
    return found


def answer(*arguments: object, code: int = 0) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(invoke(*arguments, "--json", code=code).stdout)
    return document


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three shades as npz files, and a model for them."""
    folder = tmp_path_factory.mktemp("place")
    generator = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 31)):
        labels = np.arange(count) % 3
        noise = generator.integers(0, 60, (count, 8, 8, 3))
        images = (labels[:, None, None, None] * 90 + noise).clip(0, 255).astype(np.uint8)
        np.savez(folder / f"{split}.npz", images=images, labels=labels)
    (folder / "model.json").write_text(SPEC.to_json())
    return folder


@pytest.fixture(scope="module")
def trained(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("trained")
    model = place / "model.json"
    return out, answer("train", "digits", "--data", place, "--model", model, "--out", out, *QUICK)


def test_training_ends_in_files_that_say_everything(trained: tuple[Path, dict[str, Any]]) -> None:
    out, said = trained
    for name in ("model.safetensors", "model.onnx", "recipe.json", "metrics.jsonl", "run.png"):
        assert (out / name).stat().st_size > 0
    file = load(out / "model.safetensors")
    assert file.spec == SPEC
    assert file.labels == ("0", "1", "2")
    assert file.preprocessing == recipe("digits").data.evaluation
    used = Recipe.from_json((out / "recipe.json").read_text())
    assert used.steps == 60
    assert file.provenance["recipe"] == used.fingerprint
    assert said["held_out_accuracy"] > 0.9


def test_deployment_is_proven_in_three_backends(
    trained: tuple[Path, dict[str, Any]], place: Path
) -> None:
    out, said = trained
    found = said["deployment"]
    assert found == json.loads((out / "deployment.json").read_text())
    assert found["good"]
    assert found["same_predictions"]
    assert found["verdict"]["conformant"]
    assert list(found["backends"]) == ["jax", "torch", "onnxruntime"]
    test = open_source(str(place), "test")
    file = load(out / "model.safetensors")
    exact = predictions(
        lambda images: reference.forward(file.spec, file.weights, images)["logits"],
        evaluation_batches(test, file.preprocessing, (8, 8), 7),
    )
    for run in found["backends"].values():
        assert (run["examples"], run["correct"]) == (31, exact.correct)
    assert said["held_out_accuracy"] == exact.accuracy


def test_evaluate_counts_every_example_whatever_the_batch(
    trained: tuple[Path, dict[str, Any]], place: Path
) -> None:
    out, said = trained
    for batch in (1, 8, 31, 500):
        found = answer("evaluate", out / "model.onnx", "--data", place, "--batch", batch)
        assert found["examples"] == 31
        assert found["backends"]["onnxruntime"]["accuracy"] == said["held_out_accuracy"]
    shown = invoke(
        *("evaluate", out / "model.safetensors", "--data", place, "--backends", "jax,torch")
    )
    assert "torch" in shown.stdout


def test_backends_that_disagree_exit_with_one(
    trained: tuple[Path, dict[str, Any]], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = deployment.evaluate_file

    def off_by_one(path: Path, backend: str, *given: Any, **more: Any) -> Any:
        found = good(path, backend, *given, **more)
        if backend == "torch":
            found.classes[3] = (found.classes[3] + 1) % 3
        return found

    monkeypatch.setattr(deployment, "evaluate_file", off_by_one)
    model = trained[0] / "model.safetensors"
    given = ("evaluate", model, "--data", place, "--backends", "jax,torch")
    assert answer(*given, code=1)["same_predictions"] is False
    assert "torch gives 1 examples another class than jax" in invoke(*given, code=1).stdout
    proof = deployment.prove(model, trained[0] / "model.onnx", open_source(str(place), "test"))
    assert not proof.same
    assert not proof.good


def test_finetune_at_twice_the_resolution(
    trained: tuple[Path, dict[str, Any]], place: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    large.mkdir()
    for split in ("train", "test"):
        stored = np.load(place / f"{split}.npz")
        images = stored["images"].repeat(2, axis=1).repeat(2, axis=2)
        np.savez(large / f"{split}.npz", images=images, labels=stored["labels"])
    said = answer(
        *("finetune", "fashion_mnist_finetune", "--init", trained[0] / "model.safetensors"),
        *("--data", large, "--out", tmp_path / "out", "--resolution", "16"),
        *("--set", "steps=6", "--set", "batch=12", "--set", "schedule.warm_up=2"),
        *("--set", "init.resolution=exact"),
    )
    assert said["deployment"]["good"]
    file = load(tmp_path / "out" / "model.safetensors")
    assert (file.spec.input.height, file.spec.input.width) == (16, 16)
    assert file.weights["blocks.0.token_mixing.dense_0.kernel"].shape == (20, 16)
    assert "fine-tuned from model.safetensors" in file.provenance["weights"]


def test_new_head_is_of_the_data_and_zero() -> None:
    from mixer_spec.weights import initial

    settings = dataclasses.replace(
        recipe("finetune_imagenet"),
        data=dataclasses.replace(recipe("finetune_imagenet").data, image_size=(16, 16)),
    )
    spec, weights = weights_from(SPEC, initial(SPEC, seed=1), settings, classes=7)
    assert spec.classes == 7
    assert weights["head.kernel"].shape == (8, 7)
    assert not weights["head.kernel"].any()
    kept = changed(settings, {"init.head": "kept"})
    with pytest.raises(InputError, match=r"keeps a head of other classes; expected 7.*got 3"):
        weights_from(SPEC, initial(SPEC, seed=1), kept, classes=7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "digits"],
            r"class count does not match the data; expected 3.*got a model of 10",
        ),
        (
            ["train", "digits", "--model", "MODEL", "--set", "data.image_size=[16,16]"],
            "16 x 16 RGB",
        ),
        (["train", "vtab"], "has no model of its own"),
        (
            ["train", "vtab", "--model", "MODEL", "--set", "data.image_size=[8,8]"],
            "begins with the weights of a file",
        ),
        (["train", "digitz"], "digits"),
        (["train", "digits", "--set", "steps"], "expected place=value"),
        (["train", "none.json"], "cannot be read"),
        (["train", "digits", "--model", "MODEL", "--profile", "a:b"], "expected FIRST:COUNT"),
        (["train", "digits", "--model", "MODEL", "--cluster", "here"], "HOST:PORT,PROCESSES"),
        (
            ["train", "digits", "--model", "MODEL", "--cluster", "localhost:1,2,2"],
            "expected a process of 2, from 0 on; got process 2",
        ),
        (["finetune", "digits", "--init", "MODEL"], "model.json"),
        (
            ["train", "digits", "--model", "MODEL", "--set", "batch=1000000000"],
            r"does not fit into the memory; expected at most [0-9.]+ GB .* activations [0-9.]+\)",
        ),
    ],
)
def test_bad_input_is_said(arguments: list[str], message: str, place: Path, tmp_path: Path) -> None:
    model = str(place / "model.json")
    given = [model if argument == "MODEL" else argument for argument in arguments]
    with pytest.raises(MixerSpecError, match=message.replace("MODEL", "model.json")):
        invoke(*given, "--data", place, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
