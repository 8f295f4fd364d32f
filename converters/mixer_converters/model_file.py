"""One model file of any layout, opened for a command that runs it; see ``mixer_spec.model_files``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from .canonical import CanonicalFile
from .checkpoint import Checkpoint, load
from .pretrained import from_pretrained, is_pretrained

Opened = CanonicalFile | Checkpoint
"""Spec, weights, preprocessing, labels and provenance."""


def read_model_file(path: Path) -> Opened:
    """Open a folder of :func:`save_pretrained`, or a file or folder of any other layout.

    The weights of other layouts are all read here, once: whoever runs a model asks for them often.

    Raises:
        FileError: if it is of no known layout, or damaged: a file that states the digest of its
            weights is held against it.
        SpecError: if what it says breaks a rule, or it does not say which function it is.
        MissingExtraError: if the package that reads it is not installed.
    """
    found: Opened
    if is_pretrained(path):
        found = from_pretrained(path)
    else:
        checkpoint = load(path)
        found = dataclasses.replace(checkpoint, weights=dict(checkpoint.weights))
    found.check_digest()
    return found
