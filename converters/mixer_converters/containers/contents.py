"""What a container holds: named tensors that are read when they are asked for, and strings."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mixer_spec.memory import little_endian

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file: its shape and dtype now, its values when they are asked for.

    Args:
        shape: the length of each axis.
        dtype: of the values.
        read: gives the array; a view of the file where the file holds it as it is.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """Everything in a container.

    Args:
        container: the kind of file, as in ``npz``.
        tensors: by the names in the file, nested ones joined by slashes.
        metadata: the file's strings by key.
        config: a ``config.json`` that lies beside the tensors.
        offsets: of the first byte of each tensor from the beginning of the file, where that is said.
    """

    container: str
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    offsets: Mapping[str, int] = field(default_factory=dict)


def in_memory(array: NDArray[Any]) -> Stored:
    """A tensor that is no longer, or not yet, in a file."""
    return Stored(array.shape, array.dtype, functools.partial(np.asarray, array))


def values_of(tensor: Stored) -> NDArray[Any]:
    """A tensor's values, contiguous and little-endian as files hold them."""
    return little_endian(tensor.read())


def raw(array: NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data
