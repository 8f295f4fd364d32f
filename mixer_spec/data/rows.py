"""Rows of libraries that read by number: Hugging Face datasets and TensorFlow Datasets."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mixer_spec.errors import FileError, InputError, MissingExtraError
from mixer_spec.extras import load_or_name_extra
from mixer_spec.preprocess.decode import decode

from .class_names import checked_label
from .source import Example, check_only_split, fingerprint, sampled

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
        label_column: that of the class's number.
        classes: the name of each class.
        where: the data set's name, for messages.
        labels: the same rows without images, if the library can leave them out.
    """

    rows: Rows
    image: str
    label_column: str
    classes: Sequence[str]
    where: str
    labels: Rows | None = None

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.rows)

    def __getitem__(self, number: int, /) -> Example:
        """One example.

        Raises:
            InputError: if its image cannot be read, or its label is no class.
        """
        name = f"{self.where}[{number}]"
        with self._naming(name):
            row: Mapping[str, Any] = self.rows[number]
            image, label = row[self.image], int(row[self.label_column])
            if isinstance(image, np.ndarray) and image.shape[2:] in ((), (1,)):
                image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
            pixels = np.asarray(decode(image, "stored"))
        return Example(pixels, checked_label(label, self.classes, name), name)

    def label(self, number: int) -> int:
        """The number of one example's class; a library that can leaves the image alone.

        Raises:
            InputError: if it cannot be read, or is no class.
        """
        name = f"{self.where}[{number}]"
        with self._naming(name):
            label = int((self.labels or self.rows)[number][self.label_column])
        return checked_label(label, self.classes, name)

    @contextlib.contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Whatever the library raises about a row is about this row."""
        try:
            yield
        except Exception as error:
            raise InputError(
                name, f"cannot be read; got {type(error).__name__}: {error}"
            ) from error

    @functools.cached_property
    def fingerprint(self) -> str:
        """Over the number of rows, and over the label and the pixels of 64 of them."""
        names, pixels = [str(len(self))], []
        for number in sampled(len(self)):
            try:
                example = self[number]
            except InputError:
                names.append(f"{number} cannot be read")
            else:
                names.append(f"{number} {example.label} {list(example.image.shape)}")
                pixels.append(np.ascontiguousarray(example.image).tobytes())
        return fingerprint(self.classes, names, pixels)


def read_hugging_face(name: str, split: str) -> RowSource:
    """A Hugging Face data set: a folder that ``save_to_disk`` wrote, or a name on the hub.

    Args:
        name: the folder or the name.
        split: the split's name.

    Raises:
        FileError: if it is one set, and another split than ``train`` is asked for.
        InputError: if there is no such data set or split, or it has no image and label column.
        MissingExtraError: if the package ``datasets`` is not installed.
    """
    datasets: Any = load_or_name_extra(f"hf:{name}", lambda: importlib.import_module("datasets"))
    where = f"hf:{name}"
    try:
        if Path(name).is_dir():
            found = datasets.load_from_disk(name)
            if isinstance(found, datasets.DatasetDict):
                rows = found[split]
            else:
                check_only_split(split, where)
                rows = found
        else:
            rows = datasets.load_dataset(name, split=split)
    except FileError:
        raise
    except Exception as error:
        raise InputError(
            where, f"cannot be opened for {split!r}; got {type(error).__name__}: {error}"
        ) from error
    features = rows.features
    label = _column(features, _LABELS, where)
    names = getattr(features[label], "names", None)
    image, labels = _column(features, _IMAGES, where), rows.select_columns([label])
    return RowSource(rows, image, label, _names(names, where), where, labels)


def read_tfds(name: str, split: str) -> RowSource:
    """A data set of TensorFlow Datasets that was prepared in the random-access format.

    Args:
        name: as ``tfds.data_source`` takes it.
        split: the split's name.

    Raises:
        InputError: if there is no such data set or split, or it has no image and label.
        MissingExtraError: if the package ``tensorflow-datasets`` is not installed; no extra brings
            it, since it is large, and whoever prepared the data has it.
    """
    where = f"tfds:{name}"
    try:
        tfds = importlib.import_module("tensorflow_datasets")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            where,
            f"needs {error.name}, which is not installed; do `pip install tensorflow-datasets`",
        ) from error
    try:
        rows = tfds.data_source(name, split=split)
    except Exception as error:
        raise InputError(
            where, f"cannot be opened for {split!r}; got {type(error).__name__}: {error}"
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
