"""Large arrays in memory: is there room, values in a row, the next one made while the last is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container: bytes, or "max"
_TILE = 64  # values of a side: a tile's lines of both arrays stay in the cache

_K = TypeVar("_K")
_V = TypeVar("_V")


def memory_of_machine() -> int:
    """Bytes that this process may have: all of the machine's, or what a container is given."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return whole
    return min(whole, int(limit)) if limit.isdigit() else whole


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """The array with its values in a row; itself if it has them so.

    A transposed matrix is copied in tiles, two to three times as fast as ``np.ascontiguousarray``,
    which walks through all of memory once for each row. Every bit stays.

    Example:
        >>> contiguous(np.arange(6).reshape(2, 3).T).flags.c_contiguous
        True
    """
    if array.ndim != 2 or array.flags.c_contiguous or min(array.shape) < _TILE:
        return np.ascontiguousarray(array)
    copy = np.empty(array.shape, array.dtype)
    for row in range(0, array.shape[0], _TILE):
        rows = slice(row, row + _TILE)
        for column in range(0, array.shape[1], _TILE):
            columns = slice(column, column + _TILE)
            copy[rows, columns] = array[rows, columns]
    return copy


def little_endian(array: NDArray[Any]) -> NDArray[Any]:
    """The array as files hold it: its values in a row, each with its lowest byte first.

    Example:
        >>> little_endian(np.array([1], ">u2")).tobytes()
        b'\\x01\\x00'
    """
    return contiguous(array.astype(array.dtype.newbyteorder("<"), copy=False))


def ahead(make: Callable[[_K], _V], keys: Iterable[_K]) -> Iterator[_V]:
    """What ``make`` gives for each key, in order; a thread makes the next while the last is used.

    No more than one is made ahead, so that large arrays do not pile up.

    Example:
        >>> list(ahead(len, ["a", "bb", "ccc"]))
        [1, 2, 3]
    """
    from concurrent.futures import Future, ThreadPoolExecutor  # which `import mixer_spec` spares

    coming: Future[_V] | None = None
    with ThreadPoolExecutor(1) as thread:
        for key in keys:
            last, coming = coming, thread.submit(make, key)
            if last is not None:
                yield last.result()
                del last
        if coming is not None:
            yield coming.result()
