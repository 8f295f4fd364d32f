"""The idx files of MNIST and Fashion-MNIST, gzipped or not."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_spec.errors import FileError

from .arrays import ArraySource
from .class_names import FILE, read_class_names

_PREFIXES = {"train": "train", "test": "t10k"}
_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_UINT8 = 8  # the only type of value that these files have


def read_fashion_mnist(path: Path, split: str) -> ArraySource:
    """The 28 x 28 grey images of one split, in the folder ``path``.

    Debian's package dataset-fashion-mnist has them. The classes are Fashion-MNIST's, unless the
    folder has a ``classes.txt``; so MNIST's own files can be read too.

    Args:
        path: the folder.
        split: ``train`` (60,000) or ``test`` (10,000).

    Raises:
        FileError: if a file is missing, or is not what its header says.

    Source:
        arXiv:1708.07747; the format: LeCun, Cortes and Burges, the MNIST database.
    """
    if split not in _PREFIXES:
        raise FileError(str(path), f"has no such split; expected train or test, got {split!r}")
    images, labels = (
        read_idx(_find(path, f"{_PREFIXES[split]}-{kind}-ubyte"))
        for kind in ("images-idx3", "labels-idx1")
    )
    listed = path / FILE
    classes = read_class_names(listed) if listed.is_file() else _FASHION
    return ArraySource(images, labels, classes, f"{path}/{split}")


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileError(str(folder), f"has no file {name} or {name}.gz; expected all four of MNIST")


def read_idx(path: Path) -> NDArray[Any]:
    """The array of one idx file: uint8, of as many axes as its header says.

    Raises:
        FileError: if it cannot be read, or is longer or shorter than its header says.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(str(path), f"cannot be read; is it whole? got {error}") from None
    if len(data) < 4 or data[:3] != bytes((0, 0, _UINT8)):
        raise FileError(
            str(path), f"is not an idx file of bytes; expected 0, 0, 8 in front, got {data[:4]!r}"
        )
    axes = data[3]
    shape = np.frombuffer(data[4 : 4 + 4 * axes].ljust(4 * axes, b"\0"), ">u4").tolist()
    expected = 4 + 4 * axes + math.prod(shape)
    if len(data) != expected:
        raise FileError(
            str(path),
            f"has the wrong length; expected {expected} bytes for {shape}, got {len(data)}",
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
