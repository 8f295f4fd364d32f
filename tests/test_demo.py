"""The main job, run whole as a user runs it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that the demo wrote, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    found = subprocess.run(
        [sys.executable, "examples/digits.py", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return folder, found.stdout


def test_every_framework_is_right_on_97_percent_of_the_held_out_digits(demo):
    accuracies = [float(text) for text in re.findall(r"(\d+\.\d+)% +\d+ of 360", demo[1])]
    assert len(accuracies) == 3
    assert min(accuracies) >= 97.0


def test_every_framework_gives_every_digit_the_same_class(demo):
    assert "all predictions are the same" in demo[1]
    assert json.loads((demo[0] / "deployment.json").read_text())["same_predictions"] is True


def test_every_framework_is_conformant(demo):
    for name in ("jax", "torch", "onnxruntime"):
        assert re.search(rf"^{name} \(.*\): conformant", demo[1], re.MULTILINE)
    assert len(re.findall("with the trained weights: conformant", demo[1])) == 3
    assert "FAILED" not in demo[1]


def test_the_canonical_file_says_where_it_comes_from(demo):
    with safe_open(demo[0] / "model.safetensors", "numpy") as file:
        metadata = file.metadata()
    provenance = json.loads(metadata["mixer_spec.provenance"])
    assert float(provenance["held_out_accuracy"]) >= 0.97
    assert "load_digits" in provenance["data"]
    assert json.loads(metadata["mixer_spec.labels"]) == list("0123456789")
    assert json.loads(metadata["mixer_spec.preprocessing"])["geometry"] == {"kind": "as_is"}


def test_the_picture_shows_digits_and_the_mistakes_in_red(demo):
    pixels = np.asarray(Image.open(demo[0] / "answers.png").convert("RGB")).astype(int)
    assert pixels.shape[0] > 600
    assert pixels.shape[1] > 1000
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    mistakes = re.search(r"^ONNX Runtime +100.00%", demo[1], re.MULTILINE) is None
    assert (((red > 180) & (green < 80) & (blue < 80)).sum() > 500) == mistakes
    assert (pixels == 0).all(axis=-1).mean() > 0.05  # the digits' black ground


@pytest.mark.parametrize(
    ("model", "backend"), [("model.onnx", "onnxruntime"), ("model.safetensors", "torch")]
)
def test_the_suggested_command_names_the_sample_digits(demo, model, backend):
    folder = demo[0]
    samples = sorted((folder / "samples").glob("*.png"))
    assert len(samples) == 10
    command = [sys.executable, "-m", "mixer_spec", "predict", *map(str, samples)]
    command += ["--model", str(folder / model), "--backend", backend, "--top", "2", "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    answers = [p["top"][0]["label"] for p in json.loads(found.stdout)["predictions"]]
    truth = [re.search(r"(\d)\.png$", sample.name).group(1) for sample in samples]
    assert sum(a == t for a, t in zip(answers, truth, strict=True)) >= 9
