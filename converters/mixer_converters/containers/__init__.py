"""The kinds of file that weights come in, told apart by their first bytes, not by their names.

A container knows how named tensors lie in a file, and nothing of what the names mean. Reading
executes nothing, reads a tensor when it is asked for, and refuses what declares absurd sizes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from mixer_spec.errors import FileError

from . import h5, huggingface, msgpack, npz, onnx, orbax, pth, safetensors, zipped
from .contents import Contents, Stored

__all__ = ["ENDINGS", "READERS", "Contents", "Stored", "kind_of", "read"]

READERS: Mapping[str, Callable[[Path], Contents]] = {
    "safetensors": safetensors.read,
    "npz": npz.read,
    "pth": pth.read,
    "msgpack": msgpack.read,
    "h5": h5.read,
    "onnx": onnx.read,
    "orbax": orbax.read,
    "huggingface": huggingface.read,
}
"""The reader of each kind of file."""

ENDINGS: Mapping[str, str] = {
    ".safetensors": "safetensors",
    ".npz": "npz",
    ".pth": "pth",
    ".pt": "pth",
    ".bin": "pth",
    ".msgpack": "msgpack",
    ".h5": "h5",
    ".hdf5": "h5",
    ".onnx": "onnx",
}
"""The kind of file that a name to write to asks for."""


def read(path: str | os.PathLike[str]) -> Contents:
    """Open a file or folder of weights.

    Raises:
        FileError: if it is of no known kind, damaged, or would have to execute something.
        MissingExtraError: if the package that reads it is not installed.
    """
    path = Path(path)
    return READERS[kind_of(path)](path)


def kind_of(path: Path) -> str:
    """What kind of file ``path`` is, by its content.

    Raises:
        FileError: if it cannot be read, or is of no known kind.
    """
    if path.is_dir():
        if orbax.is_checkpoint(path):
            return "orbax"
        if huggingface.is_folder(path):
            return "huggingface"
        raise FileError(
            str(path), "is a folder of no known kind; expected an Orbax checkpoint or a config.json"
        )
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise FileError(str(path), "there is no such file; expected a file of weights") from None
    except OSError as error:
        raise FileError(str(path), f"could not be read; got: {error}") from error
    if head.startswith(b"PK"):
        found, _ = zipped.members(path)
        return "pth" if any(name.rpartition("/")[2] == "data.pkl" for name in found) else "npz"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "h5"
    if len(head) > 8 and head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise FileError(
            str(path),
            "is a bare pickle, which only executing it could read; if it is a file of PyTorch "
            "before 1.6, load it there with weights_only=True and save it again",
        )
    if head[:1] == b"\x08":
        return "onnx"
    if head[:1] and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        return "msgpack"
    raise FileError(
        str(path),
        f"is of no known kind; expected one of {', '.join(READERS)}, got bytes {head[:8]!r}",
    )
