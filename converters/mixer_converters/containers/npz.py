"""NumPy's npz: a zip of npy files; uncompressed ones are mapped, and nothing is ever unpickled."""

from __future__ import annotations

import functools
import io
import math
import tokenize
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixer_spec.errors import FileError
from mixer_spec.memory import ahead

from .contents import BFLOAT16, Contents, Stored, raw, values_of
from .mapped import view
from .zipped import Member, add_strings, members

_LONGEST_HEADER = 10_000
Order = Literal["C", "F"]

# NumPy reads the header as a Python literal, which can fail in all the ways that parsing can.
_LITERAL_ERRORS = (
    *(ValueError, SyntaxError, TypeError, LookupError, ArithmeticError),
    *(RecursionError, MemoryError, tokenize.TokenError),
)


def read(path: Path) -> Contents:
    """The arrays of an npz file, mapped where they are not compressed.

    Raises:
        FileError: if it is damaged, holds objects, or declares other sizes than it has.
    """
    found, metadata = members(path)
    tensors = {}
    for name, member in found.items():
        if not name.endswith(".npy"):
            raise FileError(str(path), f"holds {name!r}; expected nothing but .npy files")
        tensors[name.removesuffix(".npy")] = _stored(member)
    return Contents(container="npz", tensors=tensors, metadata=metadata)


def write(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
    """Write an npz file array by array, uncompressed as Google's are; bfloat16 as void16."""
    with zipfile.ZipFile(path, "w") as archive:
        arrays = ahead(values_of, tensors.values())
        for name, array in zip(tensors, arrays, strict=True):
            if array.dtype == BFLOAT16:
                array = array.view("V2")
            header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
            # A fixed date, so that equal weights make equal files.
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            with archive.open(info, "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, header)
                file.write(raw(array) if array.size else b"")
        add_strings(archive, metadata)


def _stored(member: Member) -> Stored:
    head = io.BytesIO(member.head(_LONGEST_HEADER))
    try:
        version = np.lib.format.read_magic(head)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"npy version {version}")
        parse = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = parse[version[0]](head, max_header_size=_LONGEST_HEADER)
    except _LITERAL_ERRORS as error:
        raise FileError(
            str(member.path), f"{member.name} is not a whole npy file, got: {error}"
        ) from None
    begin = head.tell()
    problem = _broken_rule(shape, dtype, member.size - begin)
    if problem:
        raise FileError(str(member.path), f"{member.name}: {problem}")
    order: Order = "F" if fortran else "C"
    make = functools.partial(_array, member, begin, dtype, shape, order)
    return Stored(shape, BFLOAT16 if dtype.str == "|V2" else dtype, make)


def _broken_rule(shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> str | None:
    if dtype.hasobject:
        return "holds Python objects, which only executing them could read; expected numbers"
    if dtype.fields or (dtype.kind not in "fiub" and dtype.str != "|V2"):
        return f"expected numbers, got {dtype}"
    if any(axis < 0 for axis in shape) or math.prod(shape) * dtype.itemsize != size:
        return f"expected {size} bytes of values, got {list(shape)} in {dtype}"
    return None


def _array(
    member: Member, begin: int, dtype: np.dtype[Any], shape: tuple[int, ...], order: Order
) -> NDArray[Any]:
    if member.compressed:
        flat = np.frombuffer(bytearray(member.whole()), dtype, offset=begin)
        array = flat.reshape(shape, order=order)
    else:
        member.check()
        array = view(member.memory, member.offset + begin, dtype, shape, order)
    native: NDArray[Any] = array.view(BFLOAT16) if dtype.str == "|V2" else array
    return native.astype(native.dtype.newbyteorder("="), copy=False)
