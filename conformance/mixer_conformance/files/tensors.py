"""Arrays in safetensors files: written whole, and read back only if the file is sound."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from mixer_conformance.measure import Array
from mixer_spec.errors import FileError

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
}
"""What safetensors calls the dtypes of weights, inputs and answers."""


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write ``tensors`` in C order.

    Raises:
        OSError: if the operating system refuses it.
    """
    # safetensors writes the wrong bytes of an array that is not contiguous, without an error.
    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    path.write_bytes(safetensors.numpy.save(whole))


def read_tensors(path: Path, where: str) -> tuple[dict[str, Array], dict[str, str]]:
    """The tensors of a file, and its metadata.

    Args:
        path: of the file.
        where: its name for the message.

    Raises:
        FileError: if it cannot be read, is cut off, or has a dtype that no answer may have.
    """
    try:
        data = path.read_bytes()
        found = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise FileError(where, f"could not be read; got: {error.strerror}") from error
    except safetensors.SafetensorError as error:
        raise FileError(
            where,
            f"is not a whole safetensors file; expected header and tensors to fit its {len(data)} "
            f"bytes, got: {error}; do run the program again",
        ) from None
    problems = [
        f"{name}: unknown dtype; expected one of {list(_DTYPES)}, got {entry['dtype']}"
        for name, entry in found
        if entry["dtype"] not in _DTYPES
    ]
    if problems:
        raise FileError(where, problems)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors = {
        name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in found
    }
    return tensors, header.get("__metadata__", {})
