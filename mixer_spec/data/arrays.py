"""Images that lie in memory as one array: npz files, and what other small sets are made into."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_spec.errors import FileError, InputError

from .class_names import label_problems
from .source import Example, fingerprint


@dataclass(frozen=True, eq=False)
class ArraySource:
    """A :class:`Source` of images of one size.

    Args:
        images: ``[example, height, width]`` (grey) or ``[example, height, width, rgb]``, uint8.
        labels: ``[example]``, whole numbers.
        classes: the name of each class.
        where: the file or argument they came from.

    Raises:
        InputError: with everything that is wrong with the arrays.

    Example:
        >>> source = ArraySource(np.zeros((2, 4, 4), np.uint8), np.array([1, 0]), ("a", "b"), "mine")
        >>> len(source), source[0].image.shape, source[0].name
        (2, (4, 4, 3), 'mine[0]')
    """

    images: NDArray[np.uint8]
    labels: NDArray[Any]
    classes: Sequence[str]
    where: str

    def __post_init__(self) -> None:
        problems = []
        shape = self.images.shape
        if self.images.dtype != np.uint8:
            problems.append(
                f"images have the wrong dtype; expected uint8 from 0 to 255, got {self.images.dtype}"
            )
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3) or 0 in shape:
            problems.append(
                "images have the wrong shape; expected [example, height, width] or "
                f"[example, height, width, 3], none of them 0, got {list(shape)}"
            )
        if self.labels.shape != shape[:1]:
            problems.append(
                f"labels have the wrong shape; expected {list(shape[:1])}, one for each image, "
                f"got {list(self.labels.shape)}"
            )
        problems += label_problems(self.labels, self.classes)
        if problems:
            raise InputError(self.where, problems)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.images)

    def __getitem__(self, number: int, /) -> Example:
        """One example; grey is repeated."""
        image = self.images[number]
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        return Example(image, self.label(number), f"{self.where}[{number}]")

    def label(self, number: int) -> int:
        """The number of one example's class."""
        return int(self.labels[number])

    @functools.cached_property
    def fingerprint(self) -> str:
        """Over every pixel and label."""
        return fingerprint(
            self.classes,
            [f"{list(self.images.shape)}"],
            [np.ascontiguousarray(self.images).tobytes(), self.labels.astype("<i8").tobytes()],
        )


def read_npz(path: Path) -> ArraySource:
    """The arrays ``images`` and ``labels`` of an .npz file, and ``classes`` if it names them.

    Raises:
        FileError: if the file cannot be read, holds Python objects, or lacks an array.
        InputError: if the arrays are not labelled images.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = sorted({"images", "labels"} - {*arrays})
            if missing:
                raise FileError(
                    str(path), f"lacks {missing}; expected images and labels, got {sorted(arrays)}"
                )
            images, labels = arrays["images"], arrays["labels"]
            named = arrays["classes"].tolist() if "classes" in arrays else None
    except FileError:
        raise
    except (OSError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise FileError(
            str(path), f"is not an .npz file of plain arrays; got {type(error).__name__}: {error}"
        ) from None
    if named is None:
        whole = np.issubdtype(labels.dtype, np.integer) and labels.size
        named = [str(number) for number in range(int(labels.max()) + 1 if whole else 1)]
    return ArraySource(images, labels, tuple(map(str, named)), str(path))
