"""Keras's HDF5 files, through h5py; links, outside data and absurd sizes are refused first."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_spec.errors import FileError
from mixer_spec.extras import load_or_name_extra

from .contents import BFLOAT16, Contents, Stored, values_of

_MOST = 1_000_000  # datasets
_DEEPEST = 32
_RATIO = 64  # of what a file may inflate to
_ALLOWANCE = 1 << 28
_METADATA = "mixer_spec"


def read(path: Path) -> Contents:
    """The datasets of an HDF5 file by their paths.

    Raises:
        FileError: if it is damaged, or holds links or anything but numbers.
        MissingExtraError: if h5py is not installed.
    """
    h5py = load_or_name_extra(str(path), _h5py)
    tensors: dict[str, Stored] = {}
    try:
        with h5py.File(path, "r") as file:
            _walk(h5py, file, "", path, tensors)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            str(path), f"is not a whole HDF5 file, got: {error}; get the file again"
        ) from None
    declared = sum(tensor.nbytes for tensor in tensors.values())
    allowed = _ALLOWANCE + _RATIO * path.stat().st_size
    if declared > allowed:
        raise FileError(
            str(path), f"declares absurd sizes; expected at most {allowed} bytes, got {declared}"
        )
    told = tensors.pop(_METADATA, None)
    metadata = {} if told is None else _strings(told.read().tobytes())
    return Contents(container="h5", tensors=tensors, metadata=metadata)


def write(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
    """Write what Keras's ``save_weights`` does: a group for each layer, which lists its weights.

    Raises:
        MissingExtraError: if h5py is not installed.
    """
    import json

    h5py = load_or_name_extra(str(path), _h5py)
    layers: dict[str, list[str]] = {}
    for name in tensors:
        layers.setdefault(_layer(name), []).append(name)
    # Made in memory: where a disk is full, HDF5 fails once more for everything that it has open.
    with h5py.File(path, "w", driver="core", backing_store=False) as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        file.attrs["backend"] = b"tensorflow"
        if metadata:  # as numbers: HDF5 2.0 searches a damaged heap of strings without an end
            file[_METADATA] = np.frombuffer(json.dumps(dict(metadata)).encode(), np.uint8)
        for layer, names in layers.items():
            group = file.require_group(layer)
            own = [name.removeprefix(f"{layer}/") for name in names]
            group.attrs["weight_names"] = [name.encode() for name in own]
            for name in names:
                array = values_of(tensors[name])
                file.create_dataset(
                    name, data=array.view("V2") if array.dtype == BFLOAT16 else array
                )
        file.flush()
        path.write_bytes(file.id.get_file_image())


def _layer(name: str) -> str:
    """The layer in front of a weight's name, which repeats it: ``a/b/a/b/kernel:0`` is of a/b."""
    parts = name.split("/")
    return "/".join(parts[: max(1, (len(parts) - 1) // 2)])


def _h5py() -> Any:
    import h5py

    return h5py


def _strings(text: bytes) -> dict[str, str]:
    import json

    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if type(found) is dict else {}


def _walk(h5py: Any, group: Any, prefix: str, path: Path, tensors: dict[str, Stored]) -> None:
    """Collect the datasets below ``group``; only hard links, so that no other file is opened."""
    if prefix.count("/") > _DEEPEST or len(tensors) > _MOST:
        raise FileError(str(path), "is nested deeper, or has more parts, than any model")
    for key in group:
        name = f"{prefix}/{key}" if prefix else key
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise FileError(str(path), f"{name} is a link; expected the weights themselves")
        item = group[key]
        if isinstance(item, h5py.Group):
            _walk(h5py, item, name, path, tensors)
        elif isinstance(item, h5py.Dataset):
            problem = _broken_rule(item)
            if problem:
                raise FileError(str(path), f"{name}: {problem}")
            dtype = BFLOAT16 if item.dtype.str == "|V2" else item.dtype
            tensors[name] = Stored(
                tuple(item.shape), dtype, functools.partial(_array, path, name, dtype)
            )


def _broken_rule(dataset: Any) -> str | None:
    if dataset.external or dataset.is_virtual:
        return "its values lie in another file; expected them here"
    if dataset.shape is None or (dataset.dtype.kind not in "fiub" and dataset.dtype.str != "|V2"):
        return f"expected numbers, got {dataset.dtype}"
    return None


def _array(path: Path, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            array: NDArray[Any] = file[name][()]
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise FileError(str(path), f"{name} could not be read, got: {error}") from None
    array = array.view(BFLOAT16) if dtype == BFLOAT16 else array
    return array.astype(array.dtype.newbyteorder("="), copy=False)
