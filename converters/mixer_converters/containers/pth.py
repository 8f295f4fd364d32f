"""PyTorch's zip files (``torch.save`` since 1.6): read in place without torch, and written so."""

from __future__ import annotations

import functools
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_spec.errors import FileError
from mixer_spec.memory import ahead

from . import torch_pickle
from .contents import Contents, Stored, raw, values_of
from .mapped import view
from .torch_pickle import TensorView
from .zipped import Member, add_strings, members

_ALIGNMENT = 64  # of the storages, so that torch can map them
_LONGEST_PICKLE = 1 << 26
_LONGEST_NAME = 500
_MOST_PARTS = 500_000  # of nested dicts; where dicts share parts, they double with each level
_STORAGES = {dtype: name for name, dtype in torch_pickle.STORAGES.items()}


def read(path: Path) -> Contents:
    """The tensors of a PyTorch file, mapped; the names in nested dicts joined by slashes.

    Raises:
        FileError: if it is damaged, or its pickle does anything but make dicts of tensors.
    """
    found, metadata = members(path)
    pickles = [name for name in found if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1 or found[pickles[0]].size > _LONGEST_PICKLE:
        raise FileError(str(path), "is no file of torch.save: it needs one data.pkl of its size")
    folder = pickles[0].removesuffix("data.pkl")
    order = found.get(f"{folder}byteorder")
    if order is not None and order.whole() != b"little":
        raise FileError(str(path), "was written on a big-endian machine; save it on another")
    begin = f"{folder}data/"
    storages = {n.removeprefix(begin): m for n, m in found.items() if n.startswith(begin)}
    sizes = {key: member.size for key, member in storages.items()}
    tensors: dict[str, Stored] = {}
    try:
        for name, tensor in _named(torch_pickle.load(found[pickles[0]].whole(), sizes)):
            if name in tensors:
                raise ValueError(f"two tensors called {name!r}")
            make = functools.partial(_array, storages[tensor.storage.key], tensor)
            tensors[name] = Stored(tensor.shape, tensor.storage.dtype, make)
    except ValueError as error:
        raise FileError(
            str(path),
            f"does not only hold tensors; expected nested dicts of them, got {error}; "
            "save model.state_dict() and nothing else",
        ) from None
    return Contents(container="pth", tensors=tensors, metadata=metadata)


def _named(tree: Any) -> Iterator[tuple[str, TensorView]]:
    """The tensors in nested dicts, with their names.

    Raises:
        ValueError: if dicts that hold one another make too many of them, or names too long.
    """
    seen, waiting = 0, [("", tree)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, TensorView):
            yield name, value
        elif isinstance(value, dict):
            seen += 1 + len(value)
            if seen > _MOST_PARTS or len(name) > _LONGEST_NAME:
                raise ValueError("dicts in dicts without an end")
            begin = f"{name}/" if name else ""
            waiting += [
                (f"{begin}{str(key)[:_LONGEST_NAME]}", value[key]) for key in reversed(value)
            ]


def _array(member: Member, tensor: TensorView) -> NDArray[Any]:
    dtype = tensor.storage.dtype
    if member.compressed:
        flat = np.frombuffer(bytearray(member.whole()), dtype)
    else:
        member.check()
        flat = view(member.memory, member.offset, dtype, (tensor.storage.size,))
    if 0 in tensor.shape:
        return np.empty(tensor.shape, dtype)
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)


# --- writing --------------------------------------------------------------------------------


def write(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
    """Write an ordered dict of tensors, as ``torch.save(model.state_dict(), path)`` does."""
    with zipfile.ZipFile(path, "w") as archive:
        _add(archive, "data.pkl", _pickle(tensors))
        _add(archive, "byteorder", b"little")
        for number, array in enumerate(ahead(values_of, tensors.values())):
            _add(archive, f"data/{number}", raw(array) if array.size else b"")
        _add(archive, "version", b"3\n")
        add_strings(archive, metadata)


def _add(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    assert archive.fp is not None
    info = zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0))
    # PyTorch's own padding: an extra field "FB" that pushes the bytes onto a multiple of 64. The
    # other extra field is zipfile's for large members.
    large = len(data) > zipfile.ZIP64_LIMIT
    header = archive.fp.tell() + 30 + len(info.filename) + 4 + (20 if large else 0)
    padding = -header % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    with archive.open(info, "w", force_zip64=large) as file:
        file.write(data)


def _pickle(tensors: Mapping[str, Stored]) -> bytes:
    """The program that makes the dict, in pickle's protocol 2."""
    parts = [b"\x80\x02ccollections\nOrderedDict\n)R("]
    for number, (name, tensor) in enumerate(tensors.items()):
        dtype = tensor.dtype.newbyteorder("<")
        shape, step = tensor.shape, 1
        strides: list[int] = []
        for size in reversed(shape):
            strides.insert(0, step)
            step *= size
        storage = (
            b"(" + _text("storage") + b"c" + _STORAGES[dtype].replace(".", "\n").encode() + b"\n"
        )
        storage += _text(str(number)) + _text("cpu") + _number(step) + b"tQ"
        parts.append(
            _text(name)
            + b"ctorch._utils\n_rebuild_tensor_v2\n("
            + storage
            + _number(0)
            + _tuple(shape)
            + _tuple(strides)
            + b"\x89ccollections\nOrderedDict\n)RtR"
        )
    return b"".join([*parts, b"u."])


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _number(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(encoded)]) + encoded


def _tuple(values: Any) -> bytes:
    return b"(" + b"".join(_number(value) for value in values) + b"t"
