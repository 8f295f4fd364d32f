"""A spec and its weights as an ONNX file that says what it computes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx_ir as ir

from mixer_spec.atomic import replacing
from mixer_spec.errors import InputError
from mixer_spec.model import ModelSpec
from mixer_spec.preprocess import Preprocessing
from mixer_spec.weights import Weights, digest

from . import canonical
from .canonical import CanonicalFile
from .metadata import Metadata
from .onnx_build import build_onnx, initializers, point_outside
from .onnx_file import (
    INPUT_LAYOUT,
    NUMBERS,
    STORED_DIGEST,
    OnnxFile,
    read_onnx,
    stored_digest,
    written_data_path,
)
from .onnx_form import FLOAT32, Form
from .onnx_input import InputLayout, default_layout

__all__ = ["build_onnx", "export_onnx"]

Placing = Literal["inline", "external", "shared"]
"""Where the weights of a graph lie."""

_INLINE_BYTES = 1_500_000_000  # protobuf ends at 2 GiB, and parsing holds the bytes twice


def export_onnx(
    spec: ModelSpec,
    weights: Weights,
    path: str | os.PathLike[str],
    *,
    taps: Sequence[str] = (),
    input_layout: InputLayout | None = None,
    variant: str | None = None,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] | None = None,
    provenance: Mapping[str, str] | None = None,
    form: Form = FLOAT32,
    placing: Placing | None = None,
    shared: CanonicalFile | None = None,
    overwrite: bool = True,
) -> OnnxFile:
    """Write an ONNX model whose metadata says what it computes; ``path`` is replaced as a whole.

    Weights lie inside the file (``inline``); in a canonical file of its own beside it
    (``external``), whose name is made of its content, so that a graph never points to other
    weights than its own, at whatever moment a crash comes; or in the canonical file that they came
    from (``shared``), which then serves PyTorch, JAX and ONNX Runtime at once. A graph and the
    file it points to travel together, and that file must never be written again: a runtime reads
    bytes at fixed places and computes garbage without an error when they moved. ``read_onnx``
    checks that they did not.

    Args:
        spec: the architecture.
        weights: canonical name to array; rounded to float32 where they are wider.
        path: where, by custom with the ending ``.onnx``.
        taps: names out of ``spec.taps`` that become outputs beside the logits.
        input_layout: the axes of ``pixel_values``, NCHW by default; a sequence has none.
        variant: the published name of the architecture.
        preprocessing: how a photo becomes the pixels that the weights expect.
        labels: the name of each class, in the order of the logits.
        provenance: where the weights come from, in free words by free keys.
        form: how the graph computes, and what it takes and gives.
        placing: of the weights; by default inline up to 1.5 GB, then external.
        shared: the open canonical file for ``placing="shared"``: float32, in the same folder.
        overwrite: whether a file that is there in the end, perhaps another writer's, is replaced.

    Returns:
        What was written, read back and checked.

    Raises:
        SpecError: if the metadata breaks a rule, as a wrong number of labels.
        WeightsError: if the weights do not fit the spec.
        InputError: if there is no such tap or layout, or a sequence is given one.
        FileError: if the file cannot be written, may not be replaced, or does not read back as it
            was given.
    """
    path = Path(path).resolve()
    _check_placing(form, placing, shared, path)
    model = build_onnx(
        spec,
        weights,
        taps=taps,
        input_layout=input_layout,
        form=form,
        preprocessing=preprocessing,
        labels=labels,
    )
    stored = initializers(model, weights)
    if form.int8:
        # The kernels are whole numbers here; the digest tells whose they are.
        narrow = {name: np.asarray(array, np.float32) for name, array in weights.items()}
    else:
        narrow = {name: array.reshape(weights[name].shape) for name, array in stored.items()}
    metadata = Metadata(
        spec=spec,
        weights_digest=digest(narrow),
        variant=variant,
        preprocessing=preprocessing,
        labels=labels,
        provenance=provenance or {},
    )
    model.metadata_props.update(metadata.to_strings())
    model.metadata_props[NUMBERS] = form.numbers
    layout = None if form.photos else input_layout or default_layout(spec.input)
    if layout is not None:
        model.metadata_props[INPUT_LAYOUT] = layout
    if form.int8:
        model.metadata_props[STORED_DIGEST] = stored_digest(ir.to_proto(model))
    if placing is None:
        large = sum(array.nbytes for array in stored.values()) > _INLINE_BYTES
        placing = "external" if large else "inline"
    outside = _outside_path(metadata, path) if placing == "external" else None
    if shared is not None:
        point_outside(model, shared.path.name, shared.offsets)
    previous = written_data_path(path)
    try:
        if outside is not None:
            _move_outside(model, metadata, narrow, outside)
        with replacing(path, overwrite=overwrite) as temporary:
            temporary.write_bytes(ir.to_proto(model).SerializeToString())
            written = read_onnx(temporary)
    finally:
        # The graph that is there now keeps its weights; those of the other one go.
        kept = written_data_path(path)
        for file in (previous, outside):
            if file is not None and file != kept:
                file.unlink(missing_ok=True)
    return dataclasses.replace(written, path=path)


def _check_placing(
    form: Form, placing: str | None, shared: CanonicalFile | None, path: Path
) -> None:
    problems = []
    if placing not in (*get_args(Placing), None):
        problems.append(f"expected one of {list(get_args(Placing))}, got {placing!r}")
    if form.int8 and placing not in ("inline", None):
        problems.append(
            f"int8 kernels are in no canonical file; expected 'inline', got {placing!r}"
        )
    if (placing == "shared") != (shared is not None):
        problems.append("'shared' needs the canonical file that is shared, and only 'shared'")
    elif shared is not None:
        if form.precision != "float32":
            problems.append(f"shared weights are float32 as they lie, got {form.precision}")
        wrong = [n for n, array in shared.weights.items() if array.dtype != np.float32]
        if wrong:
            problems.append(
                f"{shared.path} must hold float32, got {shared.weights[wrong[0]].dtype} in "
                f"{len(wrong)} weights; do `--weights external`"
            )
        if shared.path.resolve().parent != path.parent:
            problems.append(
                "a graph may only point to a file in its own folder; expected "
                f"{str(shared.path.resolve().parent)!r}, got {str(path.parent)!r}"
            )
    if problems:
        raise InputError("placing of the weights", problems)


def _outside_path(metadata: Metadata, path: Path) -> Path:
    """The canonical file beside ``path`` for a graph's weights, named by its content."""
    # Metadata moves the tensors' offsets, so it has a part in the name.
    content = json.dumps(metadata.to_strings(), sort_keys=True)
    mark = hashlib.sha256(content.encode()).hexdigest()[:16]
    return path.with_name(f"{path.stem}.{mark}.safetensors")


def _move_outside(model: ir.Model, metadata: Metadata, narrow: Weights, outside: Path) -> None:
    """Write the weights to ``outside`` and point the graph there."""
    own = metadata.fields() | {"weights": narrow}
    del own["weights_digest"]
    canonical.save(outside, **own)
    point_outside(model, outside.name, canonical.load(outside).offsets)
