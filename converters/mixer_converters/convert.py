"""From any layout to any other: the same bits under other names, and what that means for the model."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixer_spec.atomic import check_folder, is_there, replacing, replacing_folder
from mixer_spec.blocks import GeluForm
from mixer_spec.errors import FileError, InputError, SpecError
from mixer_spec.extras import load_or_name_extra
from mixer_spec.memory import contiguous
from mixer_spec.model import ModelSpec
from mixer_spec.shapes import ImageSize
from mixer_spec.weights import Weights, digest

from . import containers
from .checkpoint import Checkpoint, load
from .containers import ENDINGS, Stored, h5, huggingface, msgpack, npz, orbax, pth, safetensors
from .containers.contents import BFLOAT16, raw, values_of
from .containers.mapped import release
from .layouts import LAYOUTS, Entry, Layout
from .layouts.infer import family_of
from .layouts.layout import known_sizes
from .lazy import Each
from .match import CANONICAL, find_layout, holds
from .metadata import Metadata
from .semantics import effect_on_logits, semantics_of

Dtype = Literal["float64", "float32", "float16", "bfloat16"]

_DEFAULTS = {"npz": "google", "h5": "kecam", "safetensors": CANONICAL, "onnx": CANONICAL}
"""The layout that a file of this kind is in, unless another is asked for."""

_FOLDERS = ("huggingface", "orbax")
_HUGGINGFACE_FILES = (huggingface.CONFIG, huggingface.WEIGHTS, "pytorch_model.bin", "README.md")


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """What :func:`convert` did.

    Args:
        source: what was read.
        path: what was written.
        container: the kind of file written.
        layout: its naming.
        entries: which tensor of it holds which canonical weights.
        notes: what somebody who uses the file has to know.
    """

    source: Checkpoint
    path: Path
    container: str
    layout: str
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]


def convert(
    source: str | os.PathLike[str] | Checkpoint,
    target: str | os.PathLike[str],
    *,
    to: str | None = None,
    dtype: Dtype | None = None,
    gelu: GeluForm | None = None,
    epsilon: float | None = None,
    image_size: ImageSize | None = None,
    heads: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Conversion:
    """Write a checkpoint in another layout, bit for bit; ``target`` appears as a whole or not at all.

    Args:
        source: a file or folder of any layout, or what :func:`mixer_converters.load` made of it.
        target: where; its ending says the kind of file, a name without ending is a folder.
        to: the layout; by default the one that the ending stands for, where that is only one.
        dtype: rounds the weights to it; by default they keep theirs.
        gelu, epsilon, image_size, heads: as for :func:`mixer_converters.load`.
        overwrite: replace a file that is there.
        progress: called with the number of bytes after each tensor that was written.

    Raises:
        FileError: if a file is not as it should be, or the layout cannot hold this architecture.
        InputError: if a graph should be rounded, which is for ``mixer-spec export``.
        SpecError: if something has to be said about the source.
    """
    target = Path(target)
    checkpoint = (
        source
        if isinstance(source, Checkpoint)
        else load(source, gelu=gelu, epsilon=epsilon, image_size=image_size, heads=heads)
    )
    layout, container = _destination(checkpoint.spec, target, to)
    if target.exists() and not overwrite:
        raise is_there(target)
    if target.is_dir():
        _check_replaceable(target, container)
    if container == "onnx" and dtype is not None:
        raise InputError(
            "dtype",
            f"a graph computes in what its weights are in; expected none, got {dtype!r}; "
            f"do `mixer-spec export --dtype {dtype}` on a canonical file",
        )
    notes = list(_semantic_notes(checkpoint, layout, container))
    if dtype is not None:
        notes.append(f"weights rounded to {dtype}")
    if container == "onnx":
        entries = _write_onnx(checkpoint, target, overwrite)
    else:
        entries = _write(
            checkpoint, target, layout, container, dtype, overwrite, progress or (lambda _: None)
        )
    return Conversion(
        source=checkpoint,
        path=target,
        container=container,
        layout=CANONICAL if layout is None else layout.name,
        entries=entries,
        notes=tuple(notes),
    )


def _destination(spec: ModelSpec, target: Path, to: str | None) -> tuple[Layout | None, str]:
    """The layout to write, ``None`` for canonical names, and the kind of file."""
    container = ENDINGS.get(target.suffix.lower())
    if to is None:
        to = _DEFAULTS.get(container or "")
        if to is None:
            able = [CANONICAL, *dict.fromkeys(x.name for x in LAYOUTS if holds(x, spec))]
            raise FileError(
                str(target),
                "its name does not say which layout it should have; expected one of "
                f"{', '.join(able)}; say it with --to",
            )
    if to == "onnx":
        to, container = CANONICAL, container or "onnx"
    layout = None if to == CANONICAL else find_layout(to, spec)
    allowed: tuple[str, ...] = ("safetensors", "onnx", "msgpack", "orbax", "npz", "pth")
    allowed = layout.containers if layout else allowed
    if container is None and not target.suffix:
        container = next((kind for kind in allowed if kind in _FOLDERS), None)
    if container not in allowed:
        raise FileError(
            str(target),
            f"{to} is not kept in such a file; expected one of {', '.join(allowed)}, "
            f"got the ending {target.suffix!r}",
        )
    return layout, container


def _check_replaceable(folder: Path, container: str) -> None:
    """Refuse to replace a folder by anything, unless it is such a checkpoint and nothing else."""
    if container == "huggingface":
        check_folder(folder, _HUGGINGFACE_FILES, overwrite=True)
    elif container not in _FOLDERS or containers.kind_of(folder) != container:
        raise FileError(
            str(folder),
            f"is a folder, but no checkpoint of this kind; expected {container}; "
            "choose another name",
        )


def _semantic_notes(checkpoint: Checkpoint, layout: Layout | None, container: str) -> Iterator[str]:
    """What the layout's own framework will compute, if it is not what the weights are for."""
    if layout is None:
        return
    trained, spec = semantics_of(checkpoint.spec), checkpoint.spec
    runs = layout.runs.within(spec)
    if container == "huggingface" and family_of(spec) == "vit":
        runs = trained.within(runs)  # config.json names the GELU for timm's constructor
    if runs != spec:
        effect = effect_on_logits(spec, runs, checkpoint.weights)
        size = "" if effect is None else f", which moves the logits by {effect:.1e} relative"
        yield (
            f"{layout.origin} runs {semantics_of(runs)}; these weights are for {trained}{size}. "
            f"To make it agree: {layout.arguments(trained)}"
        )
    if container == "msgpack":
        yield "msgpack has no place for GELU, epsilon, preprocessing and labels: they stay behind"


# --- writing --------------------------------------------------------------------------------


def _write(
    checkpoint: Checkpoint,
    target: Path,
    layout: Layout | None,
    container: str,
    dtype: Dtype | None,
    overwrite: bool,
    progress: Callable[[int], object],
) -> tuple[Entry, ...]:
    """Write, read back and compare, then put it in its place."""
    spec, weights = checkpoint.spec, checkpoint.weights
    stated = checkpoint.weights_digest  # which checks that the source is whole
    dtypes = {name: checkpoint.dtype(name) for name in weights}
    if dtype is not None:
        rounded = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
        weights = Each(weights, lambda array: array.astype(rounded, copy=False))
        dtypes = dict.fromkeys(weights, rounded)
        stated = digest(weights)
    entries = tuple(
        layout.entries(spec.depth) if layout else (Entry((n,), n, "=") for n in spec.parameters())
    )
    metadata = Metadata(
        spec=spec,
        weights_digest=stated,
        variant=checkpoint.variant,
        preprocessing=checkpoint.preprocessing,
        labels=checkpoint.labels,
        provenance=checkpoint.provenance,
    ).to_strings()
    sums: dict[str, int] = {}
    known, parameters = known_sizes(spec), spec.parameters()
    tensors = {
        entry.foreign: Stored(
            entry.foreign_shape(parameters[entry.canonical[0]].shape, known),
            dtypes[entry.canonical[0]],
            functools.partial(_foreign, weights, entry, known, sums, progress),
        )
        for entry in entries
    }
    place = replacing_folder if container in _FOLDERS else replacing
    with place(target, overwrite=overwrite) as temporary:
        if container == "huggingface":
            huggingface.write(temporary, tensors, metadata, _config(checkpoint))
        else:
            _WRITERS[container](temporary, tensors, metadata)
        _compare(temporary, container, sums, {} if container == "msgpack" else metadata, target)
    return entries


def _foreign(
    weights: Weights,
    entry: Entry,
    known: Mapping[str, int],
    sums: dict[str, int],
    progress: Callable[[int], object],
) -> NDArray[Any]:
    """A tensor as it is written; its checksum is kept for the comparison."""
    array = contiguous(entry.to_foreign([weights[name] for name in entry.canonical], known))
    sums[entry.foreign] = zlib.crc32(raw(array)) if array.size else 0
    progress(array.nbytes)
    return array


def _compare(
    written: Path,
    container: str,
    sums: Mapping[str, int],
    metadata: Mapping[str, str],
    target: Path,
) -> None:
    """Refuse a file that does not read back as it was written."""
    contents = containers.READERS[container](written)
    found, told = contents.tensors, contents.metadata
    other = [name for name in {**found, **sums} if _sum(found.get(name)) != sums.get(name)]
    other += [key for key, value in metadata.items() if told.get(key) != value]
    if other:
        raise FileError(
            str(target),
            f"did not read back as it was written; expected the same bytes, got others in "
            f"{other[:5]}; the old file is untouched: check the disk",
        )


def _sum(tensor: Stored | None) -> int | None:
    if tensor is None:
        return None
    array = values_of(tensor)
    found = zlib.crc32(raw(array)) if array.size else 0
    release(array)
    return found


_WRITERS: Mapping[str, Callable[[Path, Mapping[str, Stored], Mapping[str, str]], None]] = {
    "safetensors": safetensors.write,
    "npz": npz.write,
    "pth": pth.write,
    "msgpack": msgpack.write,
    "h5": h5.write,
    "orbax": orbax.write,
}


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    """timm's configuration; timm's ViT takes the name of a GELU, its Mixers do not."""
    spec, variant = checkpoint.spec, checkpoint.variant
    if variant is None:
        raise SpecError(
            "config.json",
            "timm builds a model from the name of a variant; expected a published one, got sizes "
            "of its own; write the .safetensors and make the model in Python",
        )
    tanh = family_of(spec) == "vit" and semantics_of(spec).gelu == "tanh"
    return huggingface.timm_config(
        variant, spec, checkpoint.preprocessing, "gelu_tanh" if tanh else None
    )


def _write_onnx(checkpoint: Checkpoint, target: Path, overwrite: bool) -> tuple[Entry, ...]:
    """Export a graph with all that is known of the weights."""

    def write() -> None:
        from .onnx_export import export_onnx

        export_onnx(
            checkpoint.spec,
            dict(checkpoint.weights),
            target,
            variant=checkpoint.variant,
            preprocessing=checkpoint.preprocessing,
            labels=checkpoint.labels,
            provenance=checkpoint.provenance,
            overwrite=overwrite,
        )

    load_or_name_extra("ONNX", write)
    return tuple(Entry((name,), name, "=") for name in checkpoint.weights)
