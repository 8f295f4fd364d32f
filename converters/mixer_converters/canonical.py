"""The canonical file: one safetensors file that is enough to rebuild a model anywhere.

Its metadata carries the spec, preprocessing, labels and provenance; its tensors have the canonical
names. Reading maps the file into memory, so that loading costs nothing until a weight is used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_spec.atomic import replacing
from mixer_spec.errors import FileError, WeightsError
from mixer_spec.memory import little_endian
from mixer_spec.model import ModelSpec
from mixer_spec.preprocess import Preprocessing
from mixer_spec.weights import Weights, digest, validate

from .containers import safetensors
from .containers.contents import BFLOAT16, in_memory
from .metadata import Metadata

_DTYPES = frozenset(map(np.dtype, ("<f8", "<f4", "<f2", BFLOAT16)))
"""What weights may be stored in."""


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
    stored = {name: little_endian(array) for name, array in weights.items()}
    odd = {name: array.dtype for name, array in stored.items() if array.dtype not in _DTYPES}
    if odd:
        expected = "float64, float32, float16 or bfloat16"
        raise WeightsError(
            "weights",
            [f"{name} cannot be stored; expected {expected}, got {odd[name]}" for name in odd],
        )
    metadata = Metadata(
        spec=spec,
        weights_digest=digest(stored),
        variant=variant,
        preprocessing=preprocessing,
        labels=labels,
        provenance=provenance or {},
    )
    with replacing(path) as temporary:
        tensors = {name: in_memory(array) for name, array in stored.items()}
        safetensors.write(temporary, tensors, metadata.to_strings())
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
    contents = safetensors.read(path)
    metadata = Metadata.from_strings(contents.metadata, str(path))
    weights = {name: tensor.read() for name, tensor in contents.tensors.items()}
    validate(metadata.spec, weights, where=str(path))
    return CanonicalFile(**metadata.fields(), path=path, weights=weights, offsets=contents.offsets)


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
            "the old file is untouched: check the disk",
        )


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)
