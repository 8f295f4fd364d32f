"""One model file, read as ``mixer-spec verify`` asks for it: see ``mixer_spec.model_files``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from .canonical import CanonicalFile
from .checkpoint import Checkpoint, load
from .pretrained import from_pretrained, is_pretrained


def read_model_file(path: Path) -> CanonicalFile | Checkpoint:
    """Open a folder of :func:`save_pretrained`, or a file or folder of any other layout.

    The weights of other layouts are all read here, once: whoever runs a model asks for them often.

    Raises:
        FileError: if it is of no known layout, or damaged.
        SpecError: if what it says breaks a rule, or it does not say which function it is.
        MissingExtraError: if the package that reads it is not installed.
    """
    if is_pretrained(path):
        return from_pretrained(path)
    checkpoint = load(path)
    return dataclasses.replace(checkpoint, weights=dict(checkpoint.weights))
