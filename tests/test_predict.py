"""`mixer-spec predict` on real photos, through every kind of file and backend."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from sklearn.datasets import load_sample_image
from typer.testing import CliRunner

from mixer_converters import convert, save_pretrained
from mixer_converters.canonical import load, save
from mixer_converters.onnx_export import export_onnx
from mixer_converters.predict import classify, load_model, predict
from mixer_spec import FileError, InputError, UnknownNameError, WeightsError, families, reference
from mixer_spec.preprocess import PIPELINES, preprocess
from mixer_spec.shapes import TokenIds, Vectors
from mixer_spec.weights import initial
from tests.float32_noise import allowed_in_log_softmax, rms, truth_and_tolerance

SPEC = families.mixer(
    image_size=16, patch=4, channels=8, depth=1, token_hidden=5, channel_hidden=12, classes=7
)
LABELS = ("ant", "bee", "cat", "dog", "elk", "fox", "[gnu]")
PIPELINE = PIPELINES["big_vision"]


def _weights() -> dict[str, np.ndarray]:
    """Initial values with a head that is not zero, so that photos differ."""
    generator = np.random.default_rng(0)
    return {
        name: array + generator.normal(0, 0.3, array.shape).astype(np.float32)
        for name, array in initial(SPEC).items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos, and the same model in two formats."""
    path = tmp_path_factory.mktemp("predict")
    for name in ("china", "flower"):
        Image.fromarray(load_sample_image(f"{name}.jpg")).save(path / f"{name}.png")
    options: Any = {"preprocessing": PIPELINE, "labels": LABELS}
    save(path / "model.safetensors", SPEC, _weights(), **options)
    save(path / "bare.safetensors", SPEC, _weights())
    export_onnx(SPEC, _weights(), path / "model.onnx", **options)
    return path


def run(*arguments: str | Path) -> Any:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(predict)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def expected(photo: Path) -> np.ndarray:
    """The probabilities, by the reference in float64."""
    logits = reference.forward(SPEC, _weights(), preprocess(photo, PIPELINE, 16)[None])["logits"][0]
    return np.exp(logits) / np.exp(logits).sum()


@pytest.mark.parametrize(
    ("model", "backend"),
    [
        ("model.safetensors", "reference"),
        ("model.safetensors", "jax"),
        ("model.safetensors", "torch"),
        ("model.safetensors", "onnxruntime"),
        ("model.onnx", "onnxruntime"),
    ],
)
def test_every_file_and_backend_gives_the_references_probabilities(folder, model, backend):
    photos = [folder / "china.png", folder / "flower.png"]
    found = run(*photos, "--model", folder / model, "--backend", backend, "--top", 7, "--json")
    assert found.exit_code == 0, found.output
    answer = json.loads(found.stdout)
    assert answer["model"] == str(folder / model)
    assert answer["backend"] == backend
    assert [entry["image"] for entry in answer["predictions"]] == [str(p) for p in photos]
    pixels = np.stack([preprocess(photo, PIPELINE, 16) for photo in photos])
    _, tolerance = truth_and_tolerance(SPEC, _weights(), pixels)
    allowed = allowed_in_log_softmax(tolerance["logits"], SPEC.classes)
    for photo, entry in zip(photos, answer["predictions"], strict=True):
        exact = expected(photo)
        order = np.argsort(-exact)
        assert [guess["class"] for guess in entry["top"]] == order.tolist()
        assert [guess["label"] for guess in entry["top"]] == [LABELS[i] for i in order]
        probabilities = [guess["probability"] for guess in entry["top"]]
        assert rms(np.log(probabilities) - np.log(exact[order])) <= allowed
        assert sum(probabilities) == pytest.approx(1)


def test_the_two_photos_are_told_apart(folder):
    assert np.abs(expected(folder / "china.png") - expected(folder / "flower.png")).max() > 0.01


def test_the_table_shows_labels_as_they_are_written(folder):
    found = run(folder / "china.png", "--model", folder / "model.onnx", "--top", 7)
    assert found.exit_code == 0, found.output
    for label in LABELS:
        assert label in found.stdout
    best = expected(folder / "china.png").max()
    assert f"{best:.1%}" in found.stdout.splitlines()[2]


def test_more_classes_than_there_are_gives_all_of_them(folder):
    found = run(
        folder / "china.png", "--model", folder / "model.onnx", "--top", 99, "--json"
    )  # fmt: skip
    assert len(json.loads(found.stdout)["predictions"][0]["top"]) == 7


def test_without_labels_the_class_numbers_are_shown(folder):
    found = run(
        folder / "china.png", "--model", folder / "bare.safetensors", "--backend", "reference",
        "--preprocessing", "big_vision", "--top", 1, "--json",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    best = int(expected(folder / "china.png").argmax())
    guess = json.loads(found.stdout)["predictions"][0]["top"][0]
    assert (guess["class"], guess["label"]) == (best, str(best))


def test_a_named_pipeline_takes_the_place_of_the_files_own(folder):
    own = run(folder / "china.png", "--model", folder / "model.onnx", "--json")
    other = run(
        folder / "china.png", "--model", folder / "model.onnx", "--json",
        "--preprocessing", "timm_imagenet",
    )  # fmt: skip
    assert own.exit_code == other.exit_code == 0
    assert own.stdout != other.stdout


def test_many_images_are_run_in_batches_and_stay_in_order(folder):
    photos = [folder / "china.png", folder / "flower.png"] * 35
    found = classify(photos, load_model(folder / "model.onnx", "onnxruntime"), PIPELINE, top=1)
    assert [g[0].probability for g in found] == pytest.approx(
        [g[0].probability for g in found[:2]] * 35, rel=1e-5
    )
    assert found[0] != found[1]


# --- bad input -------------------------------------------------------------------------------


def refusal(error: type[Exception], *arguments: str | Path) -> str:
    found = run(*arguments)
    assert isinstance(found.exception, error), found.exception
    assert found.stdout == ""
    return str(found.exception)


def test_several_bad_images_are_all_named_at_once(folder, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    text = refusal(
        InputError,
        *(tmp_path / "text.png", folder / "china.png", tmp_path / "nowhere.jpg"),
        *("--model", folder / "model.onnx"),
    )
    assert "images: 2 rules broken" in text
    assert "text.png: is not an image" in text
    assert "nowhere.jpg: there is no such file" in text


def test_a_bad_image_behind_the_first_batch_is_found(folder, tmp_path):
    photos = [folder / "china.png"] * 33 + [tmp_path / "nowhere.png"]
    with pytest.raises(FileError, match=r"nowhere\.png: there is no such file"):
        classify(photos, load_model(folder / "model.onnx", "onnxruntime"), PIPELINE, top=1)


def test_a_file_without_preprocessing_asks_for_its_name(folder):
    text = refusal(
        FileError,
        *(folder / "china.png", "--model", folder / "bare.safetensors", "--backend", "reference"),
    )
    assert "--preprocessing big_vision" in text


def test_an_unknown_pipeline_is_refused(folder):
    text = refusal(
        UnknownNameError,
        *(folder / "china.png", "--model", folder / "model.onnx", "--preprocessing", "big-vision"),
    )
    assert "expected a name like big_vision" in text


def test_an_unknown_backend_is_refused(folder):
    text = refusal(
        UnknownNameError,
        *(folder / "china.png", "--model", folder / "model.onnx", "--backend", "pytorch"),
    )
    assert "torch" in text


def test_a_backend_that_reads_no_onnx_says_which_does(folder):
    text = refusal(
        FileError,
        *(folder / "china.png", "--model", folder / "model.onnx", "--backend", "reference"),
    )
    assert "--backend onnxruntime" in text


@pytest.mark.parametrize("name", ["nowhere.onnx", "nowhere.safetensors"])
def test_a_missing_model_is_refused(folder, name):
    text = refusal(FileError, folder / "china.png", "--model", folder / name)
    assert "there is no such file" in text


def test_what_is_no_model_is_refused(folder, tmp_path):
    (tmp_path / "model.bin").write_text("a note")
    text = refusal(FileError, folder / "china.png", "--model", tmp_path / "model.bin")
    assert "is of no known kind" in text


@pytest.mark.parametrize("name", ["a.npz", "hub"])
def test_models_of_any_layout_and_folders_are_run(folder, tmp_path, name):
    if name == "hub":
        options: Any = {"preprocessing": PIPELINE, "labels": LABELS}
        save_pretrained(tmp_path / name, SPEC, _weights(), **options)
    else:
        convert(folder / "model.safetensors", tmp_path / name)
    answers = [
        json.loads(
            run(folder / "china.png", "--model", model, "--backend", "torch", "--json").stdout
        )
        for model in (tmp_path / name, folder / "model.safetensors")
    ]
    assert answers[0]["predictions"] == answers[1]["predictions"]


def test_a_model_whose_weights_changed_since_is_refused(folder, tmp_path):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-2] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    text = refusal(FileError, folder / "china.png", "--model", tmp_path / "model.safetensors")
    assert "its weights are not those it was written with" in text


def test_a_model_of_grey_images_is_refused(folder, tmp_path):
    data = SPEC.to_json().replace('"channels":3', '"channels":1', 1)
    grey = type(SPEC).from_json(data)
    save(tmp_path / "grey.safetensors", grey, initial(grey), preprocessing=PIPELINE)
    text = refusal(
        InputError, folder / "china.png", "--model", tmp_path / "grey.safetensors"
    )  # fmt: skip
    assert "expected 3 channels, got 1" in text


@pytest.mark.parametrize("given", [TokenIds(tokens=6, vocabulary=9), Vectors(tokens=6, channels=3)])
@pytest.mark.parametrize("ending", ["safetensors", "onnx"])
@pytest.mark.parametrize("options", [(), ("--preprocessing", "big_vision")])
def test_a_model_of_sequences_is_refused(folder, tmp_path, given, ending, options):
    spec = families.sequence_mixer(
        input=given, channels=8, depth=1, token_hidden=5, channel_hidden=12, classes=7
    )
    path = tmp_path / f"words.{ending}"
    if ending == "onnx":
        export_onnx(spec, initial(spec), path)
    else:
        save(path, spec, initial(spec))
    text = refusal(InputError, folder / "china.png", "--model", path, *options)
    assert f"takes sequences, and predict is for photos; expected an image, got {given}" in text
    assert "from Python" in text


def test_logits_that_are_not_finite_are_refused(folder, tmp_path):
    weights = dict(load(folder / "model.safetensors").weights)
    weights["head.bias"] = np.full(7, np.nan, np.float32)
    save(tmp_path / "nan.safetensors", SPEC, weights, preprocessing=PIPELINE)
    text = refusal(WeightsError, folder / "china.png", "--model", tmp_path / "nan.safetensors")
    assert "not finite" in text


def test_no_image_and_no_class_are_usage_errors(folder):
    assert run("--model", folder / "model.onnx").exit_code == 2
    assert run(folder / "china.png", "--model", folder / "model.onnx", "--top", 0).exit_code == 2


class CrashingBackend(reference.ReferenceBackend):
    """A backend with a bug."""

    def load(self, spec, weights, *, profile="f32-strict"):
        raise RuntimeError("out of registers")


def test_a_crash_of_the_backend_exits_with_three(folder, monkeypatch):
    monkeypatch.setattr("mixer_converters.predict.load_backend", lambda name: CrashingBackend())
    found = run(folder / "china.png", "--model", folder / "model.safetensors")
    assert found.exit_code == 3
    assert "out of registers" in found.stderr
