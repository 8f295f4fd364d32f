"""Flax's msgpack: nested maps whose arrays are extensions of (shape, dtype, bytes).

The format is small enough to be read in place and written array by array, without the msgpack
package and without Flax.
"""

from __future__ import annotations

import functools
import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mixer_spec.errors import FileError

from .contents import BFLOAT16, Contents, Stored, raw, values_of
from .mapped import map_file, view

_DEEPEST = 32
_NDARRAY = 1  # Flax's numbers for its extensions
_SCALAR = 3

_DTYPES = {
    name: np.dtype(name)
    for name in (
        *("float64", "float32", "float16", "int64", "int32", "int16", "int8"),
        *("uint64", "uint32", "uint16", "uint8", "bool"),
    )
} | {"bfloat16": BFLOAT16}

# What the first byte says: how many bytes of length follow, for each group of types.
_BINARY = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENSION = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXTENSION = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_ARRAY = {0xDC: 2, 0xDD: 4}
_MAP = {0xDE: 2, 0xDF: 4}
_NUMBER = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_CONSTANT = {0xC0: None, 0xC2: False, 0xC3: True}


class _Malformed(ValueError):
    """What is no msgpack of Flax."""


class _Extension:
    """An extension's number and its bytes' place."""

    __slots__ = ("begin", "code", "end")

    def __init__(self, code: int, begin: int, end: int) -> None:
        self.code, self.begin, self.end = code, begin, end


class _Reader:
    """A place in the file that moves forward."""

    def __init__(self, memory: mmap.mmap, at: int, end: int) -> None:
        self.memory, self.at, self.end = memory, at, end

    def take(self, length: int) -> int:
        """Move over ``length`` bytes; where they begin."""
        begin = self.at
        if length > self.end - begin:
            raise _Malformed(f"{length} bytes expected at {begin}, {self.end - begin} are left")
        self.at += length
        return begin

    def number(self, length: int) -> int:
        """A length or count of ``length`` bytes."""
        begin = self.take(length)
        return int.from_bytes(self.memory[begin : begin + length], "big")

    def value(self, depth: int = 0) -> Any:
        """The value here: a dict, list, string or bytes, number, constant or extension."""
        if depth > _DEEPEST:
            raise _Malformed(f"nested deeper than {_DEEPEST}")
        first = self.memory[self.take(1)]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 256
        if first < 0x90 or first in _MAP:
            return self._map(first & 0x0F if first < 0x90 else self.number(_MAP[first]), depth)
        if first < 0xA0 or first in _ARRAY:
            count = first & 0x0F if first < 0xA0 else self.number(_ARRAY[first])
            return [self.value(depth + 1) for _ in range(self._plausible(count))]
        if first < 0xC0 or first in _BINARY:
            length = first & 0x1F if first < 0xC0 else self.number(_BINARY[first])
            begin = self.take(length)
            return _Bytes(self.memory, begin, begin + length)
        if first in _EXTENSION or first in _FIXED_EXTENSION:
            fixed = _FIXED_EXTENSION.get(first)
            length = self.number(_EXTENSION[first]) if fixed is None else fixed
            code = self.memory[self.take(1)]
            begin = self.take(length)
            return _Extension(code, begin, begin + length)
        if first in _NUMBER:
            format_ = _NUMBER[first]
            begin = self.take(struct.calcsize(format_))
            return struct.unpack_from(format_, self.memory, begin)[0]
        if first in _CONSTANT:
            return _CONSTANT[first]
        raise _Malformed(f"no msgpack value begins with {first:#04x}, at {self.at - 1}")

    def _map(self, count: int, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(self._plausible(count)):
            key = self.value(_DEEPEST)  # a scalar: nothing nests in a key
            name = key.text() if isinstance(key, _Bytes) else str(key)
            if name in found:
                raise _Malformed(f"the key {name!r} stands twice")
            found[name] = self.value(depth + 1)
        return found

    def _plausible(self, count: int) -> int:
        """``count`` values, each of which needs a byte."""
        if count > self.end - self.at:
            raise _Malformed(f"{count} values declared, {self.end - self.at} bytes are left")
        return count


class _Bytes:
    """A string, or bytes, in place: Flax's old writers mixed the two up."""

    __slots__ = ("begin", "end", "memory")

    def __init__(self, memory: mmap.mmap, begin: int, end: int) -> None:
        self.memory, self.begin, self.end = memory, begin, end

    def text(self) -> str:
        """The characters; short, since keys and dtypes are."""
        if self.end - self.begin > 1000:
            raise _Malformed(f"a name of {self.end - self.begin} bytes")
        return self.memory[self.begin : self.end].decode()


def read(path: Path) -> Contents:
    """The arrays of a msgpack file that Flax wrote, mapped; their names joined by slashes.

    Raises:
        FileError: if it is no such file, or cut off.
    """
    memory = map_file(path)
    reader = _Reader(memory, 0, len(memory))
    try:
        tree = reader.value()
        if not isinstance(tree, dict):
            raise _Malformed(f"expected a map, got {type(tree).__name__}")
        if reader.at != len(memory):
            raise _Malformed(f"{len(memory) - reader.at} bytes behind the end")
        tensors: dict[str, Stored] = {}
        _flatten(tree, "", memory, tensors)
    except (ValueError, RecursionError) as error:
        raise FileError(
            str(path), f"is not a whole msgpack file of Flax, got: {error}; get the file again"
        ) from None
    return Contents(container="msgpack", tensors=tensors)


def _flatten(tree: Any, name: str, memory: mmap.mmap, tensors: dict[str, Stored]) -> None:
    if isinstance(tree, dict):
        if "__msgpack_chunked_array__" in tree:
            raise _Malformed(f"{name} is an array of more than 1 GiB in chunks, which no model has")
        for key, value in tree.items():
            _flatten(value, f"{name}/{key}" if name else key, memory, tensors)
    elif isinstance(tree, list):
        _flatten({str(i): value for i, value in enumerate(tree)}, name, memory, tensors)
    elif isinstance(tree, _Extension) and tree.code in (_NDARRAY, _SCALAR):
        if name in tensors:
            raise _Malformed(f"two arrays are called {name!r}")
        tensors[name] = _array(tree, name, memory)


def _array(found: _Extension, name: str, memory: mmap.mmap) -> Stored:
    parts = _Reader(memory, found.begin, found.end).value()
    match parts:
        case [list() as sizes, _Bytes() as kind, _Bytes() as values]:
            shape = tuple(size for size in sizes if type(size) is int and size >= 0)
            dtype = _DTYPES.get(kind.text())
            if dtype is not None and len(shape) == len(sizes) <= 32:
                expected = math.prod(shape) * dtype.itemsize
                if values.end - values.begin != expected:
                    raise _Malformed(f"{name}: {expected} bytes expected for {list(shape)}")
                return Stored(
                    shape, dtype, functools.partial(view, memory, values.begin, dtype, shape)
                )
    raise _Malformed(f"{name} is no array of numbers")


def write(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
    """Write nested maps as Flax's ``msgpack_serialize`` does; it has no place for ``metadata``."""
    del metadata
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *folders, leaf = name.split("/")
        level = tree
        for folder in folders:
            level = level.setdefault(folder, {})
        level[leaf] = tensor
    with path.open("wb") as file:
        _write(file, tree)


def _write(file: BinaryIO, value: Any) -> None:
    if isinstance(value, dict):
        file.write(b"\xdf" + len(value).to_bytes(4, "big"))
        for key, inner in value.items():
            file.write(_string(key))
            _write(file, inner)
        return
    array = values_of(value)
    name = "bfloat16" if array.dtype == BFLOAT16 else array.dtype.name
    head = b"\x93" + b"\xdd" + len(array.shape).to_bytes(4, "big")
    head += b"".join(b"\xce" + size.to_bytes(4, "big") for size in array.shape)
    head += _string(name) + b"\xc6" + array.nbytes.to_bytes(4, "big")
    file.write(b"\xc9" + (len(head) + array.nbytes).to_bytes(4, "big") + bytes([_NDARRAY]))
    file.write(head)
    file.write(raw(array) if array.size else b"")


def _string(text: str) -> bytes:
    encoded = text.encode()
    return b"\xdb" + len(encoded).to_bytes(4, "big") + encoded
