"""Rows of libraries that read by number: Hugging Face datasets and TensorFlow Datasets."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mixer_spec.errors import InputError
from mixer_spec.extras import load_or_name_extra
from mixer_spec.preprocess.decode import decode

from .source import Example, fingerprint, sampled

_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "fine_label")


class Rows(Protocol):
    """Random access to rows, each a mapping of columns: what both libraries give."""

    def __len__(self) -> int:
        """The number of rows."""
        ...

    def __getitem__(self, number: int, /) -> Any:
        """One row: column to value."""
        ...


@dataclass(frozen=True, eq=False)
class RowSource:
    """A :class:`Source` of rows that hold an image and a label.

    Args:
        rows: by number.
        image: the column of the image: a Pillow image, a uint8 array, or a path.
        label: the column of the class's number.
        classes: the name of each class.
        where: the data set's name, for messages.
    """

    rows: Rows
    image: str
    label: str
    classes: Sequence[str]
    where: str

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.rows)

    def __getitem__(self, number: int, /) -> Example:
        """One example.

        Raises:
            FileError, InputError: if its image cannot be read, or its label is no class.
        """
        name = f"{self.where}[{number}]"
        try:
            row: Mapping[str, Any] = self.rows[number]
            image = row[self.image]
            if isinstance(image, np.ndarray) and image.shape[2:] in ((), (1,)):
                image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
            pixels = np.asarray(decode(image, "stored"))
            label = int(row[self.label])
        except Exception as error:  # whatever the library raises about a row is about this row
            raise InputError(name, f"cannot be read; {type(error).__name__}: {error}") from error
        if not 0 <= label < len(self.classes):
            raise InputError(
                name, f"its label is no class; expected 0 to {len(self.classes) - 1}, got {label}"
            )
        return Example(pixels, label, name)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Over the number of rows, and over the label and the pixels of 64 of them."""
        names, pixels = [self.where, str(len(self))], []
        for number in sampled(len(self)):
            try:
                example = self[number]
            except InputError as error:
                names.append(str(error))
            else:
                names.append(f"{number}\\0{example.label}\\0{list(example.image.shape)}")
                pixels.append(np.ascontiguousarray(example.image).tobytes())
        return fingerprint(self.classes, names, pixels)


def read_hugging_face(name: str, split: str) -> RowSource:
    """A Hugging Face data set: a folder that ``save_to_disk`` wrote, or a name on the hub.

    Args:
        name: the folder or the name; ``name/configuration`` is not split, use a folder for it.
        split: the split's name.

    Raises:
        InputError: if there is no such data set or split, or it has no image and label column.
        MissingExtraError: if the package ``datasets`` is not installed.
    """
    datasets: Any = load_or_name_extra(f"hf:{name}", lambda: __import__("datasets"))
    where = f"hf:{name}"
    try:
        if Path(name).is_dir():
            found = datasets.load_from_disk(name)
            rows = found[split] if isinstance(found, datasets.DatasetDict) else found
        else:
            rows = datasets.load_dataset(name, split=split)
    except Exception as error:
        raise InputError(
            where, f"cannot be opened for {split!r}; {type(error).__name__}: {error}"
        ) from error
    features = rows.features
    label = _column(features, _LABELS, where)
    names = getattr(features[label], "names", None)
    return RowSource(rows, _column(features, _IMAGES, where), label, _names(names, where), where)


def read_tfds(name: str, split: str) -> RowSource:
    """A data set of TensorFlow Datasets that was prepared in the random-access format.

    Args:
        name: as ``tfds.data_source`` takes it.
        split: the split's name.

    Raises:
        InputError: if there is no such data set or split, or it has no image and label.
        MissingExtraError: if the package ``tensorflow-datasets`` is not installed.
    """
    tfds: Any = load_or_name_extra(f"tfds:{name}", lambda: __import__("tensorflow_datasets"))
    where = f"tfds:{name}"
    try:
        rows = tfds.data_source(name, split=split)
    except Exception as error:
        raise InputError(
            where, f"cannot be opened for {split!r}; {type(error).__name__}: {error}"
        ) from error
    features = rows.dataset_info.features
    label = _column(features, _LABELS, where)
    names = getattr(features[label], "names", None)
    return RowSource(rows, _column(features, _IMAGES, where), label, _names(names, where), where)


def _column(columns: Mapping[str, Any], known: Sequence[str], where: str) -> str:
    found = [name for name in known if name in columns]
    if not found:
        raise InputError(
            where,
            f"has no column like {known[0]!r}; expected one of {list(known)}, "
            f"got {sorted(columns)}",
        )
    return found[0]


def _names(names: Sequence[str] | None, where: str) -> tuple[str, ...]:
    if not names:
        raise InputError(where, "does not name its classes; expected a label of named classes")
    return tuple(names)
