"""timm itself, and deit's ResMLP, whose names are others: both ways, as files and as folders."""

from __future__ import annotations

import functools
import importlib
import json
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch

from mixer_converters import convert, load
from mixer_spec.errors import SpecError
from mixer_spec.preprocess import PIPELINES
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


class _Anything(type):
    """A class with every attribute, such as the members of an enumeration."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Placeholder(types.ModuleType):
    """torchvision has no build for this torch; timm imports names of it that no model here uses."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (torch.nn.Module,), {})


@pytest.fixture(scope="module")
def timm() -> Iterator[Any]:
    """timm itself."""
    names = [
        *("", ".ops", ".ops.misc", ".models", ".models.feature_extraction", ".datasets"),
        *(".transforms", ".transforms.functional", ".utils"),
    ]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            module = _Placeholder(f"torchvision{name}")
            patch.setitem(sys.modules, module.__name__, module)
            parent, _, child = module.__name__.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
        yield importlib.import_module("timm")


TINY = ("mixer", "gmixer", "resmlp", "gmlp", "vit")


def tiny(timm: Any, family: str, **more: Any) -> torch.nn.Module:
    """timm's own module of a family, as its entry points make it, at a tiny size."""
    mixers, vits = timm.models.mlp_mixer, timm.models.vision_transformer
    sizes = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": 8, "num_classes": CLASSES, **more}
    if family == "vit":
        return randomise(vits.VisionTransformer(depth=2, num_heads=2, **sizes))
    options: dict[str, Any] = {
        "mixer": {},
        "gmixer": {"mlp_ratio": (1.0, 4.0), "mlp_layer": mixers.GluMlp, "act_layer": torch.nn.SiLU},
        "resmlp": {"mlp_ratio": 4, "block_layer": mixers.ResBlock, "norm_layer": mixers.Affine},
        "gmlp": {
            "mlp_ratio": 6,
            "block_layer": mixers.SpatialGatingBlock,
            "mlp_layer": mixers.GatedMlp,
        },
    }[family]
    return randomise(mixers.MlpMixer(num_blocks=2, **options, **sizes))


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", TINY)
@pytest.mark.written_by_others("timm", "mixer")
@pytest.mark.written_by_others("timm", "gmixer")
@pytest.mark.written_by_others("timm", "resmlp")
@pytest.mark.written_by_others("timm", "gmlp")
@pytest.mark.written_by_others("timm", "vit")
def test_timm(name: str, ending: str, timm: Any, tmp_path: Path) -> None:
    module = tiny(timm, name)
    path = tmp_path / f"model{ending}"
    save = torch.save if ending == ".pth" else safetensors.torch.save_file
    save(module.state_dict(), path)
    asked = {"gelu": "none"} if name in ("mixer", "vit") else {}
    if asked:
        with pytest.raises(SpecError, match="--gelu"):
            load(path, heads=2)
    found = load(path, heads=2, **asked)  # type: ignore[arg-type]
    assert found.layout == "timm"
    assert_same_function(found, run_torch(module))
    convert(found, tmp_path / "again.pth", to="timm")
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    module.load_state_dict(again)
    assert list(again) != []


def test_the_arguments_that_are_offered_make_timm_agree(timm: Any, tmp_path: Path) -> None:
    params, logits = flax_mixer()
    np.savez(tmp_path / "mixer.npz", **flat(params))
    done = convert(tmp_path / "mixer.npz", tmp_path / "m.safetensors", to="timm")
    [note] = done.notes
    assert "relative" in note
    offered = note.partition("To make it agree: ")[2]
    arguments = eval(f"dict({offered})", {"functools": functools, "torch": torch})
    assert_same_function(done.source, logits)
    for extra, same in ((arguments, True), ({}, False)):
        module = tiny(timm, "mixer", mlp_ratio=(0.75, 1.25), **extra)
        module.load_state_dict(safetensors.torch.load_file(tmp_path / "m.safetensors"))
        found = run_torch(module.eval())
        assert is_same_function(done.source.spec, done.source.weights, found) == same


def test_a_hugging_face_folder_of_timm(timm: Any, tmp_path: Path) -> None:
    module = randomise(timm.create_model("mixer_s32_224", num_classes=CLASSES))
    config = {
        "architecture": "mixer_s32_224",
        "num_classes": CLASSES,
        "pretrained_cfg": {
            "tag": "mine",
            "input_size": [3, 224, 224],
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "crop_mode": "center",
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
        },
    }
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(module.state_dict(), folder / "model.safetensors")
    with pytest.raises(SpecError, match="--gelu"):
        load(folder)
    found = load(folder, gelu="none")
    assert (found.container, found.variant) == ("huggingface", "mixer_s32")
    assert found.preprocessing is not None
    assert found.preprocessing.geometry == PIPELINES["timm_inception"].geometry
    convert(found, tmp_path / "mine", to="timm")
    written = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert written["architecture"] == "mixer_s32_224"
    assert written["pretrained_cfg"]["mean"] == [0.5] * 3
    tensors = safetensors.torch.load_file(tmp_path / "mine" / "model.safetensors")
    module.load_state_dict(tensors)


def test_a_published_name_answers_the_question_and_tells_the_truth(
    timm: Any, tmp_path: Path
) -> None:
    module = timm.create_model("mixer_b16_224")
    path = tmp_path / "mixer_b16_224.goog_in21k_ft_in1k.safetensors"
    safetensors.torch.save_file(module.state_dict(), path)
    found = load(path)
    assert "tanh" in found.notes[0]
    assert "published as" in found.notes[0]
    assert "from scratch" in found.provenance["trained_on"]
    assert "mislabelled" in found.provenance
    assert found.preprocessing == PIPELINES["timm_inception"]


@pytest.mark.written_by_others("deit", "resmlp")
def test_deit_resmlp(timm: Any, tmp_path: Path) -> None:
    module = tiny(timm, "resmlp")
    names = [
        *(("stem.", "patch_embed."), ("linear_tokens.", "attn."), ("mlp_channels.", "mlp.")),
        *((".ls", ".gamma_"),),
    ]
    deit = {}
    for name, tensor in module.state_dict().items():
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        deit[name] = tensor.reshape(-1) if tensor.ndim == 3 else tensor
    torch.save(deit, tmp_path / "resmlp.pth")
    found = load(tmp_path / "resmlp.pth")
    assert found.layout == "deit"
    assert_same_function(found, run_torch(module))
