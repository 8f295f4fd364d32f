"""A folder of images, in which each class has a folder of its own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixer_spec.errors import FileError
from mixer_spec.preprocess.decode import decode

from .class_names import FILE, read_class_names
from .source import Example, check_only_split, fingerprint

ENDINGS = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp", ".jp2", ".avif"}
)
"""What an image's name ends in, in small letters; other files are no examples."""

_SPLITS = ("train", "test", "val", "valid", "validation")  # what nobody calls a class


@dataclass(frozen=True, eq=False)
class FolderSource:
    """A :class:`Source` of image files, read when they are asked for.

    Args:
        root: the folder of the classes' folders.
        classes: their names, which are the folders'.
        files: paths below ``root``, sorted.
        labels: the class of each file.
    """

    root: Path
    classes: Sequence[str]
    files: Sequence[str]
    labels: Sequence[int]

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.files)

    def __getitem__(self, number: int, /) -> Example:
        """One example, its rows as they lie in the file.

        Raises:
            FileError, InputError: if the file is no image, or is truncated.
        """
        image = np.asarray(decode(self.root / self.files[number], "stored"))
        return Example(image, self.labels[number], self.files[number])

    def label(self, number: int) -> int:
        """The number of one example's class."""
        return self.labels[number]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Over the name and the size of every file."""
        sizes = [f"{name}\0{(self.root / name).stat().st_size}" for name in self.files]
        return fingerprint(self.classes, sizes, [])


def read_folder(path: Path, split: str) -> FolderSource:
    """The images of ``path / split / class`` or, where there are no splits, of ``path / class``.

    The classes are the folders in the order of their names; ``classes.txt`` in ``path`` gives
    another order, or more classes than have images here.

    Raises:
        FileError: if there are no images, no such split, or folders that ``classes.txt`` does not
            name.
    """
    root = path / split
    if not root.is_dir():
        beside = [name for name in _SPLITS if (path / name).is_dir()]
        if beside:
            raise FileError(
                str(path), f"has no such split; expected one of {beside}, got {split!r}"
            )
        check_only_split(split, str(path))
        root = path
    try:
        folders = sorted(each.name for each in root.iterdir() if each.is_dir())
    except OSError as error:
        raise FileError(str(path), f"cannot be read; got {error.strerror}") from None
    listed = path / FILE
    classes = read_class_names(listed) if listed.is_file() else tuple(folders)
    strangers = sorted({*folders} - {*classes})
    if strangers:
        raise FileError(str(listed), f"does not name the folders {strangers}; add them")
    found = [
        (file.relative_to(root).as_posix(), label)
        for label, name in enumerate(classes)
        for file in sorted((root / name).rglob("*"))
        if file.suffix.lower() in ENDINGS
    ]
    if not found:
        raise FileError(
            str(root), "holds no images; expected a folder for each class, with images in it"
        )
    files, labels = zip(*found, strict=True)
    return FolderSource(root, classes, files, labels)
