"""A checkpoint of any layout: weights under their canonical names, and the function they are of."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_spec.blocks import GeluForm
from mixer_spec.errors import FileError, SpecError
from mixer_spec.model import ModelSpec
from mixer_spec.preprocess import Preprocessing
from mixer_spec.shapes import ImageSize
from mixer_spec.surgery import interpolate_resolution, raise_resolution
from mixer_spec.weights import Weights, digest

from . import containers
from .containers import Contents
from .containers.contents import in_memory
from .containers.huggingface import preprocessing_of
from .layouts.infer import infer_spec, variant_of
from .lazy import Each
from .match import Match, MatchedWeights, canonical_shapes, find_match
from .metadata import PREFIX, Metadata
from .provenance import find_published
from .semantics import NEUTRAL
from .trained_as import refuse_others, trained_semantics

_NO_PREPROCESSING = "preprocessing unknown: the layout does not say it; --preprocessing does"
_RAISED = "resolution raised by the paper's block-diagonal form, exact on every sub-image"
_INTERPOLATED = "resolution interpolated, which is approximate; fine-tune before use"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """What :func:`load` found in a file of any layout.

    Args:
        path: of the file or folder.
        container: the kind of file, as in ``npz``.
        layout: the naming, as in ``google``.
        spec: the architecture, with the GELU and the epsilon that the weights are for.
        weights: canonical name to array, each read when it is asked for.
        variant: the published name of the architecture.
        preprocessing: how a photo becomes the pixels that the weights expect, if that is known.
        labels: the name of each class, if the file says so.
        provenance: where the weights come from, in free words by free keys.
        notes: what was taken for granted, each with its reason.
        match: which tensor of the file is which weight.
        tensors: of the file, by its own names.
        stated_digest: what the file says that the digest of its weights is.
    """

    path: Path
    container: str
    layout: str
    spec: ModelSpec
    weights: Weights
    variant: str | None
    preprocessing: Preprocessing | None
    labels: Sequence[str] | None
    provenance: Mapping[str, str]
    notes: tuple[str, ...]
    match: Match
    tensors: Mapping[str, containers.Stored]
    stated_digest: str | None = None

    def dtype(self, name: str) -> np.dtype[Any]:
        """The dtype of a weight, without reading it."""
        return self.tensors[self.match.key(name)].dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, without reading them."""
        return sum(self.tensors[key].nbytes for key in self.match.keys.values())

    def watched(self, progress: Callable[[int], object]) -> Checkpoint:
        """The same; ``progress`` is told the bytes of each weight that is asked for."""

        def tell(array: NDArray[Any]) -> NDArray[Any]:
            progress(array.nbytes)
            return array

        return dataclasses.replace(self, weights=Each(self.weights, tell))

    @property
    def weights_digest(self) -> str:
        """The digest of the weights, which no layout enters; reads every byte.

        Raises:
            FileError: if the file says that it is another.
        """
        return self._stated(digest(self.weights))

    def check_digest(self) -> None:
        """Read every byte, and compare with what the file says that the digest of its weights is.

        Raises:
            FileError: if it is another.
        """
        if self.stated_digest is not None:
            self._stated(digest(self.weights))

    def _stated(self, found: str) -> str:
        """``found``, if the file says so or nothing."""
        if self.stated_digest not in (None, found):
            raise FileError(
                str(self.path),
                "its weights are not those it was written with; expected digest "
                f"{self.stated_digest}, got {found}; get the file again",
            )
        return found


def load(
    path: str | os.PathLike[str],
    *,
    gelu: GeluForm | None = None,
    epsilon: float | None = None,
    image_size: ImageSize | None = None,
    heads: int | None = None,
) -> Checkpoint:
    """Open a file of weights of any layout; the layout and the architecture are detected.

    What the file does not say is known of its writer, or has to be said; ``notes`` has it all.

    Args:
        path: a file, or a folder of Orbax or Hugging Face.
        gelu: the form that the weights were trained with.
        epsilon: of every LayerNorm that they were trained with.
        image_size: pixels of a side or ``(height, width)``, where the tokens make no square.
        heads: of a ViT that is no published one.

    Raises:
        FileError: if it is damaged, of no known layout, or would have to execute something.
        SpecError: if its shapes make no model, or something has to be said.
        InputError: if something else is said than the file itself says.
        MissingExtraError: if the package that reads it is not installed.
    """
    path = Path(path)
    contents = containers.read(path)
    where = str(path)
    if f"{PREFIX}format_version" in contents.metadata:
        found = _with_metadata(path, contents, Metadata.from_strings(contents.metadata, where))
        refuse_others(found.spec, gelu, epsilon, image_size, heads, where)
        return found
    match = find_match(contents.tensors, None, where)
    shapes = canonical_shapes(match, contents.tensors, where)
    spec = infer_spec(shapes, NEUTRAL, where=where, image_size=image_size, heads=heads)
    published = find_published(path, contents.config)
    if published is not None and (variant_of(spec), spec.classes) != (
        published.variant,
        published.classes,
    ):
        published = None  # a name that somebody gave to other weights
    semantics, notes = trained_semantics(
        spec, match.layout, published, contents, gelu, epsilon, where
    )
    if match.prefix:
        notes.append(f"taken off the names: {match.prefix}")
    if match.ignored:
        notes.append(f"{len(match.ignored)} other tensors passed over, as {match.ignored[0]!r}")
    if image_size is None:
        notes.append(f"a square image of {spec.input.shape[0]} pixels, as its tokens make a square")
    preprocessing = published.preprocessing if published else preprocessing_of(contents.config)
    if preprocessing is None:
        notes.append(_NO_PREPROCESSING)
    return Checkpoint(
        path=path,
        container=contents.container,
        layout=match.name,
        spec=semantics.within(spec),
        weights=MatchedWeights(match, contents.tensors, shapes),
        variant=variant_of(spec),
        preprocessing=preprocessing,
        labels=None,
        provenance=published.to_strings() if published else {},
        notes=tuple(notes),
        match=match,
        tensors=contents.tensors,
    )


def load_weights(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a file for its weights alone: its GELU may stay unknown, and the spec then has any.

    Raises:
        FileError: if it is damaged, of no known layout, or would have to execute something.
        SpecError: if its shapes make no model.
        MissingExtraError: if the package that reads it is not installed.
    """
    try:
        return load(path)
    except SpecError:
        return load(path, gelu="none")


def described(
    checkpoint: Checkpoint,
    *,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] | None = None,
) -> Checkpoint:
    """The same with what somebody knows of it and its file does not say, or says otherwise.

    Args:
        checkpoint: the model.
        preprocessing: how a photo becomes the pixels that the weights expect.
        labels: the name of each class, in the order of the logits.
    """
    notes = [note for note in checkpoint.notes if not (preprocessing and note == _NO_PREPROCESSING)]
    return dataclasses.replace(
        checkpoint,
        preprocessing=preprocessing or checkpoint.preprocessing,
        labels=labels or checkpoint.labels,
        notes=tuple(notes),
    )


def at_resolution(
    checkpoint: Checkpoint,
    image_size: ImageSize,
    *,
    interpolate: bool = False,
    where: str = "image_size",
) -> Checkpoint:
    """The model for images of another size; see ``mixer_spec.surgery``.

    Args:
        checkpoint: the model.
        image_size: pixels of a side, or ``(height, width)``.
        interpolate: to any size, approximately; else to whole multiples, exactly.
        where: what asked for the new size, for the message.

    Raises:
        SpecError: if the factors are not whole, or a layer cannot be raised; or, to interpolate,
            if the patch does not divide the image.
    """
    change = interpolate_resolution if interpolate else raise_resolution
    spec, weights = change(
        checkpoint.spec, dict(checkpoint.weights), image_size=image_size, where=where
    )
    tensors = {name: in_memory(array) for name, array in weights.items()}
    return dataclasses.replace(
        checkpoint,
        spec=spec,
        variant=variant_of(spec),  # a Mixer's token mixing is wider than its variant's now
        weights=weights,
        tensors=tensors,
        match=find_match(tensors, spec, str(checkpoint.path)),
        stated_digest=None,
        notes=(*checkpoint.notes, _INTERPOLATED if interpolate else _RAISED),
    )


def _with_metadata(path: Path, contents: Contents, metadata: Metadata) -> Checkpoint:
    """A file that mixer_spec wrote: nothing has to be inferred, but everything has to fit."""
    spec = metadata.spec
    match = find_match(contents.tensors, spec, str(path))
    shapes = canonical_shapes(match, contents.tensors, str(path))
    expected = {name: parameter.shape for name, parameter in spec.parameters().items()}
    wrong = [name for name in {**expected, **shapes} if expected.get(name) != shapes.get(name)]
    if wrong:
        raise FileError(
            str(path),
            [
                f"{name} does not fit the file's own spec; expected {expected.get(name)}, "
                f"got {shapes.get(name)}"
                for name in wrong[:10]
            ],
        )
    return Checkpoint(
        path=path,
        container=contents.container,
        layout=match.name,
        spec=spec,
        weights=MatchedWeights(match, contents.tensors, shapes),
        variant=metadata.variant,
        preprocessing=metadata.preprocessing,
        labels=metadata.labels,
        provenance=metadata.provenance,
        notes=("everything as the file's own metadata says",),
        match=match,
        stated_digest=metadata.weights_digest,
        tensors=contents.tensors,
    )
