"""A folder as timm puts it on the Hugging Face hub: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixer_spec.errors import FileError

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
    """Write the folder ``path``, which does not exist yet."""
    path.mkdir()
    (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    safetensors.write(path / WEIGHTS, tensors, {"format": "pt", **metadata})
