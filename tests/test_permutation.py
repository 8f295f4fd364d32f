"""Shuffled patches and pixels: the same function, the same training; and what is not the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mixer_converters.canonical import save
from mixer_spec import families, variant
from mixer_spec import permutation as module
from mixer_spec.backend import load_backend
from mixer_spec.cli import app
from mixer_spec.data import open_source
from mixer_spec.errors import InputError, SpecError
from mixer_spec.permutation import (
    InputPermutation,
    draw_permutation,
    permute_weights,
    shuffle_all_pixels,
    shuffle_each_image,
    training_by,
    training_invariance,
)
from mixer_spec.recipes import RECIPES
from mixer_spec.reference import forward
from mixer_spec.reference.backend import ReferenceModel
from mixer_spec.shapes import Vectors
from mixer_spec.training import AdamW, CrossEntropy, Momentum

RANDOM = np.random.default_rng(0)


def _weights(spec: Any) -> dict[str, Any]:
    """Nothing zero, nothing symmetric."""
    generator = np.random.default_rng(1)
    return {
        name: generator.standard_normal(parameter.shape) * 0.3
        for name, parameter in spec.parameters().items()
    }


SPECS = {
    "mixer": families.mixer(
        image_size=(8, 12),
        patch=4,
        channels=6,
        depth=2,
        token_hidden=5,
        channel_hidden=7,
        classes=3,
    ),
    "gmlp": families.gmlp(image_size=12, patch=4, channels=6, depth=2, classes=3),
    "vit": families.vit(
        image_size=8, patch=4, channels=6, depth=1, heads=2, channel_hidden=7, classes=3
    ),
    "resmlp": families.resmlp(image_size=8, patch=4, channels=6, depth=1, classes=3),
}


@pytest.mark.parametrize("name", SPECS)
def test_permuted_weights_do_with_permuted_images_what_weights_do_with_images(name: str) -> None:
    spec = SPECS[name]
    weights, images = _weights(spec), RANDOM.standard_normal((4, *spec.input.shape))
    permutation = draw_permutation(spec, 3)
    shuffled, adapted = permutation.of_images(images), permute_weights(spec, weights, permutation)
    expected = forward(spec, weights, images)["logits"]
    size = np.abs(expected).max()
    assert np.abs(forward(spec, adapted, shuffled)["logits"] - expected).max() < 1e-13 * size
    # controls: either change alone is seen
    for wrong in (forward(spec, weights, shuffled), forward(spec, adapted, images)):
        assert np.abs(wrong["logits"] - expected).max() > 1e-3 * size


@pytest.mark.parametrize("name", ["mixer_s16_grouped", "mixer_s32_untied", "mixer_s16_views"])
def test_ablations_with_rearranged_tokens_follow_or_refuse(name: str) -> None:
    spec = variant(name).spec(image_size=64, classes=3)
    weights = {n: a[...] for n, a in _weights(spec).items()}
    permutation = draw_permutation(spec, 0)
    images = RANDOM.standard_normal((2, *spec.input.shape))
    adapted = permute_weights(spec, weights, permutation)
    expected = forward(spec, weights, images)["logits"]
    found = forward(spec, adapted, permutation.of_images(images))["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_images_are_cut_as_the_stem_cuts_them() -> None:
    image = np.arange(8 * 12, dtype=float).reshape(1, 8, 12, 1)
    rotated = InputPermutation((2, 3), (4, 4), np.array([1, 2, 0, 3, 4, 5]), np.arange(16))
    found = rotated.of_images(image)
    assert np.array_equal(found[:, :4, :4], image[:, :4, 4:8])
    assert np.array_equal(found[:, :4, 8:], image[:, :4, :4])
    assert np.array_equal(found[:, 4:], image[:, 4:])
    mirrored = InputPermutation((2, 3), (4, 4), np.arange(6), np.arange(16)[::-1])
    assert np.array_equal(mirrored.of_images(image)[:, :4, :4], image[:, 3::-1, 3::-1])


def test_controls_keep_every_pixel_and_change_its_place() -> None:
    images = RANDOM.standard_normal((3, 8, 8, 3))
    for shuffled in (shuffle_all_pixels(images, 0), shuffle_each_image(images, 0)):
        assert not np.array_equal(shuffled, images)
        for one, other in zip(shuffled, images, strict=True):
            key = lambda image: sorted(map(tuple, image.reshape(-1, 3)))
            assert key(one) == key(other)
    twice = np.concatenate([images[:1], images[:1]])
    assert np.array_equal(*shuffle_all_pixels(twice, 0))
    assert not np.array_equal(*shuffle_each_image(twice, 0))


OPTIMISERS = [
    AdamW(
        learning_rate=3e-3,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-8,
        weight_decay=0.1,
        decayed=("kernel",),
    ),
    Momentum(learning_rate=0.05, decay=0.9, form="nesterov"),
]


@pytest.mark.parametrize(
    ("backend", "optimiser"),
    [("reference", OPTIMISERS[1]), ("jax", OPTIMISERS[0]), ("torch", OPTIMISERS[0])],
    ids=lambda value: getattr(value, "kind", value),
)
def test_training_on_digits_is_the_same_step_by_step(backend: str, optimiser: Any) -> None:
    spec = RECIPES["digits"].model
    digits = open_source("digits", "train")
    images = np.stack([digits[n].image for n in range(20 * 8)]) / 127.5 - 1
    labels = np.array([digits[n].label for n in range(20 * 8)])
    batches = [(images[n : n + 8], labels[n : n + 8]) for n in range(0, len(images), 8)]
    weights = {
        name: array * 0.3 if array.ndim > 1 else array for name, array in _weights(spec).items()
    }
    train = training_by(load_backend(backend), spec, optimiser, CrossEntropy(label_smoothing=0.1))
    found = training_invariance(spec, weights, batches, train)
    assert len(found.plain) == 20
    assert found.distance("permuted") < 1e-9
    for control in ("unadapted", "all_pixels", "each_image"):
        assert found.distance(control) > 1e-3, control


def test_a_backend_that_cannot_train_is_refused() -> None:
    spec = SPECS["mixer"]
    adamw, loss = OPTIMISERS[0], CrossEntropy(label_smoothing=0.0)

    class Frozen:
        def info(self) -> Any: ...

        def load(self, spec: Any, weights: Any, *, profile: str) -> Any:
            return object()

    with pytest.raises(InputError, match="cannot train; expected a model with train_step"):
        training_by(Frozen(), spec, adamw, loss)(_weights(spec), [])


def test_layers_that_know_neighbours_and_pools_of_one_patch_are_refused() -> None:
    spec = variant("resmlp_12_conv").spec(image_size=64, classes=3)
    with pytest.raises(SpecError, match=r"blocks\.0.*: a depthwise_conv knows the neighbours"):
        permute_weights(spec, _weights(spec), draw_permutation(spec, 0))


def test_sequences_have_no_patches_to_shuffle() -> None:
    spec = families.sequence_mixer(
        input=Vectors(tokens=4, channels=3),
        channels=5,
        depth=1,
        token_hidden=6,
        channel_hidden=7,
        classes=2,
    )
    with pytest.raises(SpecError, match="is of images in patches; expected an image"):
        draw_permutation(spec, 0)


# --- the command ----------------------------------------------------------------------------


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["permutation", *arguments])


def test_the_command_shows_the_invariance_and_its_controls() -> None:
    answer = _run("--steps", "4", "--batch", "8", "--json")
    assert answer.exit_code == 0, answer.exception
    told = json.loads(answer.stdout)
    assert told["invariant"] is True
    assert told["controls_differ"] is True
    assert len(told["losses"]["plain"]) == 4
    assert told["distances"]["permuted"] < 1e-9 < told["distances"]["unadapted"]
    assert "invariant: every loss within 1e-09" in _run("--steps", "2", "--batch", "4").stdout


def test_the_command_gives_a_negative_verdict_where_the_weights_do_not_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "permute_weights", lambda spec, weights, permutation: weights)
    answer = _run("--steps", "2", "--batch", "4")
    assert answer.exit_code == 1
    assert "not invariant: expected every loss within 1e-09 of the plain one" in answer.stdout


def test_a_backend_that_crashes_is_told_from_a_negative_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(ReferenceModel, "train_step", crash)
    answer = _run("--steps", "2", "--batch", "4")
    assert answer.exit_code == 3
    assert "RuntimeError: out of memory" in answer.stderr


def test_the_command_takes_spec_and_model_files_and_refuses_other_classes(tmp_path: Path) -> None:
    spec = families.mixer(
        image_size=8, patch=4, channels=6, depth=1, token_hidden=5, channel_hidden=7, classes=10
    )
    (tmp_path / "spec.json").write_text(spec.to_json())
    assert _run(str(tmp_path / "spec.json"), "--steps", "2", "--batch", "4").exit_code == 0
    save(tmp_path / "model.safetensors", spec, _weights(spec))
    assert _run(str(tmp_path / "model.safetensors"), "--steps", "2", "--batch", "4").exit_code == 0
    (tmp_path / "other.json").write_text(SPECS["mixer"].to_json())
    answer = _run(str(tmp_path / "other.json"))
    assert "class count does not match the model; expected 3, got 10" in str(answer.exception)
