"""safetensors: a JSON header, then the tensors one behind the other; both ways without a copy.

The header is read here, not by the library, so that every rule that it may break has its message,
and written here, so that a tensor is in memory only while it is written.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixer_spec.errors import FileError
from mixer_spec.memory import ahead

from .contents import BFLOAT16, Contents, Stored, raw, values_of
from .mapped import map_file, view

DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""What safetensors calls the dtypes that NumPy and ml_dtypes have."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # as in the format's own library


def read(path: Path) -> Contents:
    """The tensors of a safetensors file, mapped.

    Raises:
        FileError: with every rule of the format that it breaks.
    """
    memory = map_file(path)
    begin = 8 + int.from_bytes(memory[:8], "little")
    if len(memory) < 8 or begin > min(len(memory), _LONGEST_HEADER):
        raise FileError(
            str(path),
            f"is not a whole safetensors file; expected a header within its {len(memory)} bytes, "
            f"got one of {begin - 8}; get the file again, or make one of a file of another layout "
            "with `mixer-spec convert`",
        )
    header = _parse(memory[8:begin], path)
    metadata = header.pop("__metadata__", {})
    problems = list(_broken_rules(header, metadata, len(memory) - begin))
    if problems:
        raise FileError(str(path), problems[:20])
    offsets = {name: begin + entry["data_offsets"][0] for name, entry in header.items()}
    tensors = {}
    for name, entry in header.items():
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        make = functools.partial(view, memory, offsets[name], dtype, shape)
        tensors[name] = Stored(shape, dtype, make)
    return Contents(container="safetensors", tensors=tensors, metadata=metadata, offsets=offsets)


def write(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file tensor by tensor, in the order that its own library has.

    The widest stand first, so that all are aligned; those of a width by name, so that the same
    tensors are the same bytes, in whatever order they are given.

    Raises:
        FileError: if a dtype has no place in the format.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        dtype = _NAMES.get(tensor.dtype.newbyteorder("<"))
        if dtype is None:
            raise FileError(str(path), f"{name}: safetensors has no dtype {tensor.dtype}")
        offsets = [end, end + tensor.nbytes]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        end += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in ahead(lambda name: values_of(tensors[name]), order):
            file.write(raw(array))


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    try:
        header = json.loads(text, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise FileError(
            str(path), f"its header must be JSON, got: {error}; get the file again"
        ) from None
    if not isinstance(header, dict):
        raise FileError(str(path), f"its header must be a JSON object, got {type(header).__name__}")
    return header


def _broken_rules(header: dict[str, Any], metadata: Any, size: int) -> list[str]:
    """Every rule that the entries break, themselves and together."""
    problems = []
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        problems.append("__metadata__ must be an object of strings")
    places = []
    for name, entry in header.items():
        problem = _broken_entry(entry)
        if problem:
            problems.append(f"{name}: {problem}")
        else:
            places.append((*entry["data_offsets"], name))
    if problems:
        return problems
    reached = 0
    for begin, end, name in sorted(places):
        if begin != reached:
            problems.append(
                f"{name}: tensors must lie one behind the other; expected offset {reached}, "
                f"got {begin}"
            )
        reached = max(reached, end)
    if reached != size:
        problems.append(
            f"is not a whole safetensors file; expected {reached} bytes of tensors, got {size}; "
            "get the file again"
        )
    return problems


def _broken_entry(entry: Any) -> str | None:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return f"expected dtype, shape and data_offsets, got {str(entry)[:80]}"
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        return f"unknown dtype; expected one of {list(DTYPES)}, got {str(entry['dtype'])[:40]!r}"
    if not _all_sizes(shape) or len(shape) > 32:
        return f"shape must be a list of sizes, got {str(shape)[:80]}"
    if not _all_sizes(offsets) or len(offsets) != 2:
        return f"data_offsets must be two places, got {str(offsets)[:80]}"
    expected = math.prod(shape) * DTYPES[entry["dtype"]].itemsize
    if offsets[1] - offsets[0] != expected:
        return f"expected {expected} bytes for {shape}, got {offsets[1] - offsets[0]}"
    return None


def _all_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**62 for v in values)
