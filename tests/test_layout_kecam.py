"""keras_cv_attention_models itself on its PyTorch backend, both ways, and what Keras 2 writes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mixer_conformance import conformance_weights
from mixer_converters import convert, load, save
from mixer_spec import ModelSpec, families
from mixer_spec.errors import SpecError
from tests.foreign_models import (
    CLASSES,
    PATCH,
    SIZE,
    assert_same_function,
    flat,
    flax_mixer,
    is_same_function,
    randomise,
    run_torch,
)


@pytest.fixture
def kecam(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of its Mixers; TensorFlow would be its other backend."""
    monkeypatch.setenv("KECAM_BACKEND", "torch")
    return importlib.import_module("keras_cv_attention_models.mlp_family.mlp_mixer")


def tiny(kecam: Any, **more: Any) -> Any:
    return kecam.MLPMixer(
        num_blocks=2,
        patch_size=PATCH,
        stem_width=8,
        tokens_mlp_dim=6,
        channels_mlp_dim=10,
        input_shape=(SIZE, SIZE, 3),
        num_classes=CLASSES,
        classifier_activation=None,
        pretrained=None,
        **more,
    )


def spec_of(gelu: Any) -> ModelSpec:
    return families.mixer(
        image_size=SIZE,
        patch=PATCH,
        channels=8,
        depth=2,
        token_hidden=6,
        channel_hidden=10,
        classes=CLASSES,
        gelu=gelu,
    )


@pytest.mark.written_by_others("kecam_torch", "mixer")
def test_a_file_of_its_own_save_function(kecam: Any, tmp_path: Path) -> None:
    module = randomise(tiny(kecam))
    path = tmp_path / "mixer.h5"
    module.save_weights(str(path))
    with pytest.raises(SpecError, match="--gelu"):
        load(path)
    found = load(path, gelu="none")
    assert (found.layout, found.container) == ("kecam_torch", "h5")
    assert_same_function(found, run_torch(module))


@pytest.mark.parametrize("layout", ["kecam", "kecam_torch"])
def test_what_we_write_is_the_same_function_there_with_the_arguments_that_are_offered(
    layout: str, kecam: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("tanh")
    weights = conformance_weights(spec)
    save(tmp_path / "a.safetensors", spec, weights)
    [note] = convert(tmp_path / "a.safetensors", tmp_path / "a.h5", to=layout).notes
    assert "activation='gelu/app'" in note
    assert "mlp_mixer.BATCH_NORM_EPSILON = 1e-06" in note
    for offered in (False, True):
        if offered:
            monkeypatch.setattr(kecam, "BATCH_NORM_EPSILON", 1e-6)
        module = tiny(kecam, activation="gelu/app" if offered else "gelu")
        module.load_weights(str(tmp_path / "a.h5"))
        assert is_same_function(spec, weights, run_torch(module.eval())) == offered


def keras_file(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """What Keras 2 writes: a group for each layer, in it the weights by their whole names."""
    leaves = {"scale": "gamma"}
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            layer, _, leaf = name.rpartition("/")
            leaf = "beta" if "orm" in layer and leaf == "bias" else leaves.get(leaf, leaf)
            file.require_group(layer).create_dataset(f"{layer}/{leaf}:0", data=array)


@pytest.mark.written_by_others("kecam", "mixer")
def test_a_file_of_tensorflow_with_google_s_weights(tmp_path: Path) -> None:
    params, logits = flax_mixer()
    keras_file(tmp_path / "mixer.h5", flat(params))
    with pytest.raises(SpecError, match="--gelu"):
        load(tmp_path / "mixer.h5")
    found = load(tmp_path / "mixer.h5", gelu="tanh")
    assert found.layout == "kecam"
    assert_same_function(found, logits)
    assert load(tmp_path / "mixer.h5", gelu="none").spec.norm.epsilon == 1e-5  # type: ignore[union-attr]
