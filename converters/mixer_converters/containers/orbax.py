"""Orbax checkpoint folders: read through TensorStore, without JAX; written by Orbax itself."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_spec.errors import FileError
from mixer_spec.extras import load_or_name_extra

from .contents import Contents, Stored, values_of

_TREE = "_METADATA"
_STRINGS = "mixer_spec.json"
_LARGEST_TREE = 1 << 26
_ALLOWANCE, _RATIO = 1 << 28, 64  # of what the folder may inflate to
_KINDS = "fiub"
_PATIENCE = 1.0  # seconds; they take milliseconds, but an idle pool of theirs stays


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is what Orbax's StandardCheckpointer writes."""
    return (path / _TREE).is_file()


def read(path: Path) -> Contents:
    """The arrays of an Orbax checkpoint, their keys joined by slashes.

    Raises:
        FileError: if a part is missing or damaged.
        MissingExtraError: if tensorstore, which comes with Flax, is not installed.
    """
    tensorstore = load_or_name_extra(str(path), _tensorstore)
    tree = _read_json(path / _TREE)
    entries = tree.get("tree_metadata")
    if not isinstance(entries, dict):
        raise FileError(str(path), f"{_TREE} has no tree_metadata; get the folder again")
    tensors: dict[str, Stored] = {}
    for entry in entries.values():
        keys = _keys(entry, path)
        if keys is None:
            continue
        name = "/".join(keys)
        store = _open(tensorstore, path, keys, tree)
        dtype = np.dtype(store.dtype.numpy_dtype)
        if dtype.kind not in _KINDS and dtype.name != "bfloat16":
            raise FileError(str(path), f"{name}: expected numbers, got {dtype}")
        if name in tensors:
            raise FileError(str(path), f"two arrays are called {name!r}")
        tensors[name] = Stored(
            tuple(store.shape), dtype, functools.partial(_array, store, path, name)
        )
    stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    declared = sum(tensor.nbytes for tensor in tensors.values())
    if declared > _ALLOWANCE + _RATIO * stored:
        raise FileError(
            str(path),
            f"declares absurd sizes; expected at most {_ALLOWANCE + _RATIO * stored} bytes, "
            f"got {declared}",
        )
    strings = _read_json(path / _STRINGS) if (path / _STRINGS).is_file() else {}
    metadata = {k: v for k, v in strings.items() if isinstance(v, str)}
    return Contents(container="orbax", tensors=tensors, metadata=metadata)


def write(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
    """Write a checkpoint into the folder ``path`` with Orbax's StandardCheckpointer.

    Raises:
        MissingExtraError: if orbax, which comes with Flax, is not installed.
        OSError: if the system refuses the writing.
    """
    orbax = load_or_name_extra(str(path), _orbax)
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *folders, leaf = name.split("/")
        level = tree
        for folder in folders:
            level = level.setdefault(folder, {})
        level[leaf] = values_of(tensor)
    made = path.absolute() / "checkpoint"  # inside, since Orbax leaves its failures beside it
    running = threading.enumerate()
    try:
        with orbax.StandardCheckpointer() as checkpointer:
            checkpointer.save(made, tree)
    except (OSError, ValueError) as error:  # TensorStore tells of a full disk by the latter
        _wait_for_all_but(running)
        raise OSError(str(error)) from error
    for part in made.iterdir():
        part.rename(path / part.name)
    made.rmdir()
    if metadata:
        (path / _STRINGS).write_text(json.dumps(dict(metadata)), encoding="utf-8")


def _wait_for_all_but(running: Sequence[threading.Thread]) -> None:
    """Let Orbax's other threads end, which write on after one of them has failed."""
    last = time.monotonic() + _PATIENCE
    while set(threading.enumerate()) - set(running) and time.monotonic() < last:
        time.sleep(0.01)


def _tensorstore() -> Any:
    import tensorstore

    return tensorstore


def _orbax() -> Any:
    import orbax.checkpoint

    return orbax.checkpoint


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_TREE:
            raise ValueError("it is larger than any tree of weights")
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(str(path), f"must be JSON; got: {error}; get the folder again") from None
    if not isinstance(found, dict):
        raise FileError(str(path), f"must be a JSON object, got {type(found).__name__}")
    return found


def _keys(entry: Any, path: Path) -> tuple[str, ...] | None:
    """The keys that lead to an array; ``None`` for a leaf that is empty."""
    try:
        keys = tuple(str(part["key"]) for part in entry["key_metadata"])
        kind = entry["value_metadata"]["value_type"]
    except (KeyError, TypeError) as error:
        raise FileError(str(path), f"{_TREE} has an odd entry, got {error!r}") from None
    if not keys or any(part in ("", ".", "..") or "/" in part for part in keys):
        raise FileError(str(path), f"{_TREE} has odd keys, got {keys!r}")
    return None if kind in ("None", "Dict", "List") else keys


def _open(tensorstore: Any, path: Path, keys: tuple[str, ...], tree: dict[str, Any]) -> Any:
    base = f"file://{path.resolve()}/"
    name = ".".join(keys)
    kvstore: Any = f"{base}{name}/"
    if tree.get("use_ocdbt", True):
        kvstore = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    driver = "zarr3" if tree.get("use_zarr3") else "zarr"
    try:
        return tensorstore.open({"driver": driver, "kvstore": kvstore}, open=True).result()
    except ValueError as error:
        raise FileError(
            str(path), f"{name} could not be opened, got: {str(error)[:200]}; get the folder again"
        ) from None


def _array(store: Any, path: Path, name: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = store.read().result()
    except ValueError as error:
        raise FileError(
            str(path), f"{name} could not be read, got: {str(error)[:200]}; get the folder again"
        ) from None
    return array
