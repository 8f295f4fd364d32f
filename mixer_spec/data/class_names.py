"""The names of classes: a text file with one in each line, and the labels that must fit them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_spec.errors import FileError, InputError

FILE = "classes.txt"
"""Beside the examples: one name in each line, in the order of the labels."""


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names in ``path``.

    Raises:
        FileError: if the file cannot be read, is empty, or names a class twice.
    """
    try:
        names = tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(str(path), f"cannot be read; got {error}") from None
    problems = [] if names else ["names no class; expected one in each line, got none"]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        problems.append(f"names a class twice; expected each once, got {twice}")
    if problems:
        raise FileError(str(path), problems)
    return names


def label_problems(labels: NDArray[Any], classes: Sequence[str]) -> Iterator[str]:
    """What is wrong with labels ``[example]`` that should be numbers of ``classes``."""
    if not np.issubdtype(labels.dtype, np.integer):
        yield f"labels have the wrong dtype; expected whole numbers, got {labels.dtype}"
    elif labels.size and not 0 <= labels.min() <= labels.max() < len(classes):
        yield (
            f"labels are outside of the classes; expected 0 to {len(classes) - 1}, "
            f"got {labels.min()} to {labels.max()}"
        )


def checked_label(label: int, classes: Sequence[str], where: str) -> int:
    """``label``, which is the number of one of ``classes``.

    Raises:
        InputError: if it is not.
    """
    if not 0 <= label < len(classes):
        raise InputError(
            where, f"its label is no class; expected 0 to {len(classes) - 1}, got {label}"
        )
    return label
