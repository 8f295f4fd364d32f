"""A spec and its weights as an ONNX file that says what it computes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from mixer_spec.model import ModelSpec
from mixer_spec.preprocess import Preprocessing
from mixer_spec.weights import Weights, digest

from . import canonical
from .atomic import replacing
from .metadata import Metadata
from .onnx_build import build_onnx, initializers, point_outside
from .onnx_file import INPUT_LAYOUT, OnnxFile, read_onnx, written_data_path
from .onnx_input import InputLayout, default_layout

__all__ = ["build_onnx", "export_onnx"]

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
) -> OnnxFile:
    """Write an ONNX model whose metadata says what it computes; ``path`` is replaced as a whole.

    Weights of more than 1.5 GB go into a canonical file beside the graph. Its name is made of
    its content, so that a graph never points to other weights than its own, at whatever moment a
    crash comes.

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

    Returns:
        What was written, read back and checked.

    Raises:
        SpecError: if the metadata breaks a rule, as a wrong number of labels.
        WeightsError: if the weights do not fit the spec.
        InputError: if there is no such tap or layout, or a sequence is given one.
        FileError: if the file cannot be written, or does not read back as it was given.
    """
    path = Path(path).resolve()
    model = build_onnx(spec, weights, taps=taps, input_layout=input_layout)
    narrow = {
        name: array.reshape(weights[name].shape)
        for name, array in initializers(model, weights).items()
    }
    metadata = Metadata(
        spec=spec,
        weights_digest=digest(narrow),
        variant=variant,
        preprocessing=preprocessing,
        labels=labels,
        provenance=provenance or {},
    )
    model.metadata_props.update(metadata.to_strings())
    layout = input_layout or default_layout(spec.input)
    if layout is not None:
        model.metadata_props[INPUT_LAYOUT] = layout
    outside = None
    if sum(array.nbytes for array in narrow.values()) > _INLINE_BYTES:
        outside = _outside_path(metadata, path)
    previous = written_data_path(path)
    try:
        if outside is not None:
            _move_outside(model, metadata, narrow, outside)
        with replacing(path) as temporary:
            temporary.write_bytes(ir.to_proto(model).SerializeToString())
            written = read_onnx(temporary)
    finally:
        # The graph that is there now keeps its weights; those of the other one go.
        kept = written_data_path(path)
        for file in (previous, outside):
            if file is not None and file != kept:
                file.unlink(missing_ok=True)
    return dataclasses.replace(written, path=path)


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
