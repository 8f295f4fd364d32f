"""The architecture that a command's arguments mean: a variant's name or a spec file."""

from __future__ import annotations

import re
from pathlib import Path

from mixer_spec.errors import FileError, InputError
from mixer_spec.model import ModelSpec
from mixer_spec.shapes import ImageSize
from mixer_spec.variants import Variant, variant


def find_architecture(
    name: str, *, image_size: str | None = None, classes: int | None = None
) -> tuple[ModelSpec, Variant | None]:
    """The spec that ``name`` means, and its variant unless it is a file.

    Args:
        name: a variant's name, or the path of a spec file, which ends in ``.json``.
        image_size: ``224`` or ``HxW``; ``None`` is 224.
        classes: number of logits; ``None`` is 1000.

    Raises:
        UnknownNameError: if there is no such variant.
        SpecError: if the patch does not divide the image, or the file is not a spec.
        InputError: if the image size cannot be read, or is given beside a spec file.
        FileError: if the file cannot be read.
    """
    if name.endswith(".json"):
        if image_size is not None or classes is not None:
            raise InputError(
                name,
                "a spec file has an image size and classes of its own; "
                "expected neither --image-size nor --classes beside it",
            )
        return _read(Path(name)), None
    found = variant(name)
    size = 224 if image_size is None else parse_image_size(image_size)
    return found.spec(image_size=size, classes=1000 if classes is None else classes), found


def parse_image_size(text: str, option: str = "--image-size") -> ImageSize:
    """Pixels of a square's side, or ``HxW``; ``option`` is whose value it is.

    Raises:
        InputError: if it is neither.

    Example:
        >>> parse_image_size("224"), parse_image_size("224x320")
        (224, (224, 320))
    """
    match = re.fullmatch(r"([0-9]+)(?:x([0-9]+))?", text)
    if match is None:
        raise InputError(option, f"must be pixels; expected 224 or 224x320, got {text!r}")
    height, width = match.groups()
    return int(height) if width is None else (int(height), int(width))


def _read(path: Path) -> ModelSpec:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise FileError(str(path), f"cannot be read; got: {error.strerror}") from None
    return ModelSpec.from_json(text, where=str(path))
