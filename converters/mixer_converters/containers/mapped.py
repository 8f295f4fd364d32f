"""A file in memory: a private map that arrays keep alive."""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixer_spec.errors import FileError


def map_file(path: Path) -> mmap.mmap:
    """The file's bytes, read when they are used; what is written to them stays in this process.

    Raises:
        FileError: if the file cannot be read or is empty.
    """
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except FileNotFoundError:
        raise FileError(str(path), "there is no such file; expected a file of weights") from None
    except ValueError:
        raise FileError(str(path), "is empty; expected a file of weights") from None
    except OSError as error:
        raise FileError(str(path), f"could not be read; got: {error}") from error


def view(
    memory: mmap.mmap,
    offset: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    order: Literal["C", "F"] = "C",
) -> NDArray[Any]:
    """A tensor in place; a copy only where its writer left it unaligned."""
    if not math.prod(shape):
        return np.empty(shape, dtype)
    array: NDArray[Any] = np.ndarray(shape, dtype, memory, offset, order=order)
    return array if array.flags.aligned else array.copy(order="K")


def release(array: NDArray[Any]) -> None:
    """Give back the memory of the file that ``array`` is a :func:`view` of, if it is one.

    Values are read from the file when they are used again; what was written to them is lost.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # which Windows lacks
        base.madvise(mmap.MADV_DONTNEED)
