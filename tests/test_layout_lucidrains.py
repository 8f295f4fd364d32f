"""lucidrains: mlp-mixer-pytorch and g-mlp-pytorch themselves, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from g_mlp_pytorch import gMLPVision
from mlp_mixer_pytorch import MLPMixer

from mixer_converters import convert, load
from mixer_spec.errors import FileError
from tests.foreign_models import (
    CLASSES,
    PATCH,
    SIZE,
    assert_same_function,
    randomise,
    run_torch,
)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.written_by_others("lucidrains", "mixer")
def test_lucidrains_mixer(ending: str, tmp_path: Path) -> None:
    module = randomise(
        MLPMixer(image_size=SIZE, channels=3, patch_size=PATCH, dim=8, depth=3, num_classes=CLASSES)
    )
    path = tmp_path / f"mixer{ending}"
    save = torch.save if ending == ".pth" else safetensors.torch.save_file
    save(module.state_dict(), path)
    found = load(path)
    assert found.layout == "lucidrains"
    assert_same_function(found, run_torch(module))
    convert(path, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "again.pth", to="lucidrains")
    again = torch.load(tmp_path / "again.pth", weights_only=True, mmap=True)
    assert list(again) != []
    for name, tensor in module.state_dict().items():
        assert torch.equal(again[name], tensor)


@pytest.mark.written_by_others("lucidrains", "gmlp")
def test_lucidrains_gmlp(tmp_path: Path) -> None:
    sizes = {"image_size": SIZE, "patch_size": PATCH, "dim": 8, "depth": 2, "num_classes": CLASSES}
    module = randomise(gMLPVision(**sizes))
    torch.save({"model": module.state_dict(), "epoch": 3}, tmp_path / "gmlp.pth")
    found = load(tmp_path / "gmlp.pth")
    assert (found.layout, found.match.prefix) == ("lucidrains", "model/")
    assert_same_function(found, run_torch(module))


@pytest.mark.parametrize("option", [{"heads": 2}, {"attn_dim": 4}])
def test_a_gmlp_that_no_spec_says_is_refused(option: dict[str, int], tmp_path: Path) -> None:
    sizes = {"image_size": SIZE, "patch_size": PATCH, "dim": 8, "depth": 2, "num_classes": CLASSES}
    torch.save(gMLPVision(**sizes, **option).state_dict(), tmp_path / "gmlp.pth")
    with pytest.raises(FileError):
        load(tmp_path / "gmlp.pth")
