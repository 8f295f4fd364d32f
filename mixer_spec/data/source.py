"""What every set of labelled images is: examples by number, the classes' names, a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mixer_spec.errors import FileError

_SAMPLES = 64  # examples whose pixels enter a fingerprint


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled image.

    Args:
        image: ``[height, width, rgb]``.
        label: the number of its class.
        name: for messages: a file, or a number in an array.
    """

    image: NDArray[np.uint8]
    label: int
    name: str


class Source(Protocol):
    """Labelled images by number, in an order that never changes.

    It can be sent to other processes, and read from several threads at a time.
    """

    @property
    def classes(self) -> Sequence[str]:
        """The name of each class, in the order of the labels."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the examples do; a run that goes on with other data can tell by it."""
        ...

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, number: int, /) -> Example:
        """One example.

        Raises:
            FileError, InputError: if its image cannot be read, or is none.
        """
        ...

    def label(self, number: int) -> int:
        """The number of one example's class, without its image.

        Raises:
            InputError: if it cannot be read, or is no class.
        """
        ...


def check_only_split(split: str, where: str) -> None:
    """Refuse another split than ``train`` of a place that holds one set of examples.

    Whoever asks for the test split must not be given the training examples.

    Raises:
        FileError: naming the split.
    """
    if split != "train":
        raise FileError(
            where,
            f"holds one set of examples, which is the split 'train'; got {split!r}; put each split "
            "into a folder or a file of its name, side by side",
        )


def fingerprint(classes: Sequence[str], names: Sequence[str], pixels: Sequence[bytes]) -> str:
    """64 hexadecimal digits over the parts of a data set that stand for its content.

    Args:
        classes: their names.
        names: one for each example, or for each file that holds examples.
        pixels: bytes of images; see :func:`sampled`.
    """
    total = hashlib.sha256()
    for part in (classes, names):
        total.update(f"{len(part)}\0".encode())
        total.update("".join(f"{text}\0" for text in part).encode())
    for each in pixels:
        total.update(hashlib.sha256(each).digest())
    return total.hexdigest()


def sampled(count: int) -> list[int]:
    """At most 64 numbers of examples, evenly spread, the first and the last among them.

    Example:
        >>> sampled(3), len(sampled(1000)), sampled(1000)[-1]
        ([0, 1, 2], 64, 999)
    """
    return sorted({round(number) for number in np.linspace(0, count - 1, min(count, _SAMPLES))})
