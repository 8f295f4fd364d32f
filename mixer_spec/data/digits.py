"""scikit-learn's handwritten digits: 1797 grey images of 8 x 8, in every installation."""

from __future__ import annotations

import numpy as np

from mixer_spec.errors import FileError
from mixer_spec.extras import load_or_name_extra

from .arrays import ArraySource

_SEED, _HELD_OUT = 0, 360


def read_digits(split: str) -> ArraySource:
    """1437 digits to train with, or the 360 that are held out, in the classes' proportions.

    Raises:
        FileError: if the split is neither ``train`` nor ``test``.
        MissingExtraError: if scikit-learn is not installed.

    Source:
        The test part of the UCI data set "Optical Recognition of Handwritten Digits".
    """
    if split not in ("train", "test"):
        raise FileError("digits", f"has no such split; expected train or test, got {split!r}")
    return load_or_name_extra("digits", lambda: _read(split))


def _read(split: str) -> ArraySource:
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    data = datasets.load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)
    parts = train_test_split(
        np.arange(len(images)), test_size=_HELD_OUT, stratify=data.target, random_state=_SEED
    )
    part = parts[0] if split == "train" else parts[1]
    names = tuple(str(digit) for digit in range(10))
    return ArraySource(images[part], data.target[part], names, f"digits/{split}")
