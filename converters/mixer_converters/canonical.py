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


@dataclass(frozen=True, slots=True)
class Span:
    """Where a tensor lies in a safetensors file.

    Args:
        dtype: of its values, little-endian.
        shape: the length of each axis.
        offset: of its first byte, from the beginning of the file.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CanonicalFile(Metadata):
    """What :func:`load` found: weights, and the metadata beside them.

    Args:
        path: of the file.
        weights: canonical name to array, mapped from the file: nothing is read before it is used,
            and what is written to an array stays in this process.
    """

    path: Path
    weights: Weights

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
    metadata = Metadata.from_strings(read_metadata(path), str(path))
    spans = tensor_spans(path)
    with path.open("rb") as file:
        # A private map: arrays are writeable, as torch wants them, and the file never changes.
        # The arrays keep the map alive; the map needs no open file.
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    weights = {name: _view(memory, span) for name, span in spans.items()}
    validate(metadata.spec, weights, where=str(path))
    return CanonicalFile(**metadata.fields(), path=path, weights=weights)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, after its header was found to fit its size.

    Raises:
        FileError: if it is no safetensors file or is cut off.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except FileNotFoundError:
        raise FileError(str(path), "there is no such file; expected a safetensors file") from None
    except OSError as error:
        raise FileError(str(path), f"could not be read; got: {error}") from error
    except safetensors.SafetensorError as error:
        raise FileError(
            str(path),
            f"is not a whole safetensors file; expected header and tensors to fit its "
            f"{path.stat().st_size} bytes, got: {error}; get the file again",
        ) from None


def tensor_spans(path: Path) -> dict[str, Span]:
    """Where each tensor lies in a safetensors file that :func:`read_metadata` accepted.

    Raises:
        WeightsError: if a tensor has a dtype that weights cannot have.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    odd = {name: entry["dtype"] for name, entry in header.items() if entry["dtype"] not in _DTYPES}
    if odd:
        expected = ", ".join(_DTYPES)
        raise WeightsError(
            str(path),
            [f"+ {name} {dtype} (expected one of {expected})" for name, dtype in odd.items()],
        )
    return {
        name: Span(
            _DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
        )
        for name, entry in header.items()
    }


def _view(memory: mmap.mmap, span: Span) -> NDArray[Any]:
    """The tensor in place; a copy only where a foreign writer left it unaligned."""
    array: NDArray[Any] = np.ndarray(span.shape, span.dtype, memory, span.offset)
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
