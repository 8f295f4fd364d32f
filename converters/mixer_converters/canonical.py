"""The canonical file: one safetensors file that is enough to rebuild a model anywhere.

Its metadata carries the spec, preprocessing, labels and provenance; its tensors have the canonical
names. Reading maps the file into memory, so that loading costs nothing until a weight is used.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from mixer_spec.errors import FileError, WeightsError
from mixer_spec.model import ModelSpec
from mixer_spec.preprocess import Preprocessing
from mixer_spec.weights import Weights, digest, validate

from .atomic import replacing
from .metadata import Metadata

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""What safetensors calls the dtypes that weights may have."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CanonicalFile(Metadata):
    """What :func:`load` found: weights, and the metadata beside them.

    Args:
        path: of the file.
        weights: canonical name to array, mapped from the file: nothing is read before it is used,
            and what is written to an array stays in this process.
        offsets: of the first byte of each weight from the beginning of the file.
    """

    path: Path
    weights: Weights
    offsets: Mapping[str, int]

    def check_digest(self) -> None:
        """Read every byte and compare with the digest that the weights were saved with.

        Raises:
            FileError: if any name, shape, dtype or byte is another.
        """
        found = digest(self.weights)
        if found != self.weights_digest:
            raise FileError(
                str(self.path),
                "its weights are not those it was written with; expected digest "
                f"{self.weights_digest}, got {found}; get the file again",
            )


def save(
    path: str | os.PathLike[str],
    spec: ModelSpec,
    weights: Weights,
    *,
    variant: str | None = None,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] | None = None,
    provenance: Mapping[str, str] | None = None,
) -> str:
    """Write a canonical file and read back what was written; ``path`` is replaced as a whole.

    Args:
        path: where, by custom with the ending ``.safetensors``.
        spec: the architecture.
        weights: canonical name to array, in float64, float32, float16 or bfloat16.
        variant: the published name of the architecture.
        preprocessing: how a photo becomes the pixels that the weights expect.
        labels: the name of each class, in the order of the logits.
        provenance: where the weights come from, in free words by free keys.

    Returns:
        The digest of the weights.

    Raises:
        SpecError: if the metadata breaks a rule, as a wrong number of labels.
        WeightsError: if the weights do not fit the spec.
        FileError: if the file cannot be written, or does not read back as it was given.

    Example:
        >>> import tempfile
        >>> from mixer_spec import families, weights
        >>> spec = families.mixer(image_size=8, patch=4, channels=6, depth=1, token_hidden=5,
        ...                       channel_hidden=7, classes=2)
        >>> path = Path(tempfile.mkdtemp(), "tiny.safetensors")
        >>> _ = save(path, spec, weights.initial(spec), labels=["cat", "dog"])
        >>> load(path).labels
        ('cat', 'dog')
    """
    validate(spec, weights)
    stored = {name: _as_stored(name, array) for name, array in weights.items()}
    metadata = Metadata(
        spec=spec,
        weights_digest=digest(stored),
        variant=variant,
        preprocessing=preprocessing,
        labels=labels,
        provenance=provenance or {},
    )
    with replacing(path) as temporary:
        try:
            safetensors.numpy.save_file(stored, temporary, metadata.to_strings())
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error
        _compare(load(temporary).weights, stored, str(path))
    return metadata.weights_digest


def load(path: str | os.PathLike[str]) -> CanonicalFile:
    """Open a canonical file; the weights are mapped, not read.

    Raises:
        FileError: if it is no safetensors file, is cut off, has no metadata of mixer_spec, or is
            of a newer format.
        SpecError: if its spec or metadata break a rule.
        WeightsError: if its tensors do not fit its spec.
    """
    path = Path(path)
    memory, begin = _map(path)
    header = json.loads(memory[8:begin])
    metadata = Metadata.from_strings(header.pop("__metadata__", {}), str(path))
    odd = {name: entry["dtype"] for name, entry in header.items() if entry["dtype"] not in _DTYPES}
    if odd:
        expected = ", ".join(_DTYPES)
        raise WeightsError(
            str(path),
            [f"+ {name} {dtype} (expected one of {expected})" for name, dtype in odd.items()],
        )
    offsets = {name: begin + entry["data_offsets"][0] for name, entry in header.items()}
    weights = {
        name: _view(memory, offsets[name], _DTYPES[entry["dtype"]], tuple(entry["shape"]))
        for name, entry in header.items()
    }
    validate(metadata.spec, weights, where=str(path))
    return CanonicalFile(**metadata.fields(), path=path, weights=weights, offsets=offsets)


def _map(path: Path) -> tuple[mmap.mmap, int]:
    """The file in memory, and where its header ends, once safetensors found header and size sound.

    The map is private: arrays on it are writeable, as torch wants them, and the file never
    changes. Arrays keep the map alive; the map needs no open file, and no name.
    """
    where = str(path)
    try:
        with safetensors.safe_open(path, framework="numpy"), path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except FileNotFoundError:
        raise FileError(where, "there is no such file; expected a safetensors file") from None
    except OSError as error:
        raise FileError(where, f"could not be read; got: {error}") from error
    except safetensors.SafetensorError as error:
        raise FileError(
            where,
            "is not a whole safetensors file; expected header and tensors to fit its "
            f"{path.stat().st_size} bytes, got: {error}; get the file again, or make one of a file "
            "of another layout with `mixer-spec convert`",
        ) from None
    return memory, 8 + int.from_bytes(memory[:8], "little")


def _view(
    memory: mmap.mmap, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """A tensor in place; a copy only where a foreign writer left it unaligned."""
    array: NDArray[Any] = np.ndarray(shape, dtype, memory, offset)
    return array if array.flags.aligned else array.copy()


def _as_stored(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """``array`` as safetensors needs it: little-endian, its values in a row.

    safetensors 0.8.0 writes other bytes for an array that is not C-contiguous, without an error.
    """
    stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    if stored.dtype not in _DTYPES.values():
        expected = "float64, float32, float16 or bfloat16"
        raise WeightsError(
            "weights", f"{name} cannot be stored; expected {expected}, got {array.dtype}"
        )
    return stored


def _compare(written: Weights, given: Weights, where: str) -> None:
    """Refuse a file whose bytes are not those that were given."""
    other = [
        name
        for name, array in given.items()
        if not np.array_equal(_bytes(written[name]), _bytes(array))
    ]
    if other:
        raise FileError(
            where,
            f"did not read back as it was written; expected the same bytes, got others in {other}; "
            "the old file is untouched: check the disk and the version of safetensors",
        )


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)
