"""A folder as timm puts it on the Hugging Face hub: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixer_spec.errors import FileError, SpecError
from mixer_spec.model import ModelSpec
from mixer_spec.preprocess import PillowResample, Preprocessing, ResizeAndCrop
from mixer_spec.shapes import Image

from . import pth, safetensors
from .contents import Contents, Stored

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_OLD_WEIGHTS = "pytorch_model.bin"
_LARGEST_CONFIG = 1 << 26


def is_folder(path: Path) -> bool:
    """Whether a folder has a configuration and weights beside it."""
    return (path / CONFIG).is_file()


def read(path: Path) -> Contents:
    """The tensors of a folder, with its configuration.

    Raises:
        FileError: if a file is missing or damaged.
    """
    try:
        text = (path / CONFIG).read_bytes()
        config = json.loads(text if len(text) < _LARGEST_CONFIG else b"")
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(str(path / CONFIG), f"must be JSON; got: {error}") from None
    if not isinstance(config, dict):
        raise FileError(str(path / CONFIG), f"must be an object, got {type(config).__name__}")
    if (path / WEIGHTS).is_file():
        found = safetensors.read(path / WEIGHTS)
    elif (path / _OLD_WEIGHTS).is_file():
        found = pth.read(path / _OLD_WEIGHTS)
    else:
        raise FileError(str(path), f"has no weights; expected {WEIGHTS} or {_OLD_WEIGHTS}")
    return dataclasses.replace(found, container="huggingface", config=config)


def write(
    path: Path,
    tensors: Mapping[str, Stored],
    metadata: Mapping[str, str],
    config: Mapping[str, Any],
) -> None:
    """Write the two files into the folder ``path``."""
    path.mkdir(exist_ok=True)
    (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    safetensors.write(path / WEIGHTS, tensors, {"format": "pt", **metadata})


# --- timm's configuration -------------------------------------------------------------------

ARCHITECTURES: Mapping[str, str] = {
    "resmlp_b24": "resmlp_big_24_224",
    "vit_s16": "vit_small_patch16_224",
    "vit_b32": "vit_base_patch32_224",
    "vit_b16": "vit_base_patch16_224",
    "vit_l16": "vit_large_patch16_224",
    "vit_h14": "vit_huge_patch14_224",
}
"""timm's names of variants, where they are not ours with ``_224`` behind."""


def timm_config(
    variant: str, spec: ModelSpec, preprocessing: Preprocessing | None, gelu: str | None
) -> dict[str, Any]:
    """The ``config.json`` of a model for timm.

    Args:
        variant: our name of it.
        spec: the architecture.
        preprocessing: of the photos, if it is known.
        gelu: ``act_layer`` by timm's name, where timm's constructor takes a name.
    """
    assert isinstance(spec.input, Image)
    is_vit = variant.startswith("vit_")
    size = [spec.input.channels, spec.input.height, spec.input.width]
    settings: dict[str, Any] = {
        "custom_load": False,
        "input_size": size,
        "fixed_input_size": True,
        "num_classes": spec.classes,
        "pool_size": None,
        "first_conv": "patch_embed.proj" if is_vit else "stem.proj",
        "classifier": "head",
    }
    if preprocessing is not None:
        settings |= _settings(preprocessing)
    arguments: dict[str, Any] = {}
    if size[1:] != [224, 224]:
        arguments["img_size"] = size[1:]
    if gelu is not None:
        arguments["act_layer"] = gelu
    config = {
        "architecture": ARCHITECTURES.get(variant, f"{variant}_224"),
        "num_classes": spec.classes,
        "num_features": spec.parameters()["stem.bias"].size,
        "global_pool": "token" if is_vit else "avg",
        "pretrained_cfg": settings,
    }
    return config | ({"model_args": arguments} if arguments else {})


def _settings(preprocessing: Preprocessing) -> dict[str, Any]:
    found: dict[str, Any] = {"mean": list(preprocessing.mean), "std": list(preprocessing.std)}
    geometry = preprocessing.geometry
    if isinstance(geometry, ResizeAndCrop):
        found |= {"crop_pct": geometry.crop_fraction, "crop_mode": "center"}
        if isinstance(geometry.resample, PillowResample):
            found["interpolation"] = geometry.resample.filter
    return found


def preprocessing_of(config: Mapping[str, Any]) -> Preprocessing | None:
    """What a ``config.json`` of timm says about photos; ``None`` if it says nothing or not all."""
    settings = config.get("pretrained_cfg")
    if not isinstance(settings, Mapping) or settings.get("crop_mode", "center") != "center":
        return None
    try:
        return Preprocessing(
            orientation="stored",
            geometry=ResizeAndCrop(
                crop_fraction=settings["crop_pct"],
                long_side="floor",
                offset="half_even",
                resample=PillowResample(filter=settings["interpolation"]),
            ),
            mean=settings["mean"],
            std=settings["std"],
            source="config.json, as timm's transforms_factory.py reads it",
        )
    except (KeyError, SpecError):
        return None
