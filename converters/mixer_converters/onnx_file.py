"""ONNX files that mixer_spec wrote: reading them back, with the weights checked against the digest.

ONNX Runtime computes garbage without an error when a model's weights are exchanged. Here they are
compared with the digest that the graph carries before anything runs.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import ml_dtypes
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from mixer_spec.errors import FileError
from mixer_spec.shapes import Image
from mixer_spec.weights import digest

from . import canonical
from .metadata import PREFIX, Metadata
from .onnx_input import InputLayout

INPUT_LAYOUT = f"{PREFIX}input_layout"
"""The key of the images' axes in the model's metadata; a sequence has no such entry."""

NUMBERS = f"{PREFIX}numbers"
"""The key of the number format: a precision, or ``int8-static`` or ``int8-dynamic``."""

STORED_DIGEST = f"{PREFIX}stored_digest"
"""The key of :func:`stored_digest`, in a file whose weights are whole numbers."""

CERTIFICATE = f"{PREFIX}certificate"
"""The key of the parity certificate, in JSON."""

_DTYPES: Mapping[int, np.dtype[Any]] = {
    onnx.TensorProto.FLOAT: np.dtype("<f4"),
    onnx.TensorProto.FLOAT16: np.dtype("<f2"),
    onnx.TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OnnxFile(Metadata):
    """An ONNX model of mixer_spec on the disk, and what it says about itself.

    Args:
        path: of the graph.
        data_path: of the canonical file beside it that holds the weights; ``None`` when the graph
            holds them.
        input_layout: the axes of ``pixel_values``; ``None`` for a sequence or photos.
        input: the name of what enters: ``pixel_values``, ``photos``, ``input_ids``, ...
        outputs: the names of the outputs: taps, ``logits``, answers.
        numbers: the number format: ``float32``, ``float16``, ``bfloat16``, ``int8-static``, ...
            For int8, ``weights_digest`` is of the weights in front of the rounding.
        opset: the version of the operators.
        certificate: what :func:`mixer_converters.onnx_certificate.certify` found, if it was run.
    """

    path: Path
    data_path: Path | None
    input_layout: InputLayout | None
    input: str
    outputs: tuple[str, ...]
    numbers: str
    opset: int
    certificate: Mapping[str, Any] | None


def read_onnx(path: str | os.PathLike[str]) -> OnnxFile:
    """What an ONNX file says about itself, after every byte of its weights was checked.

    Raises:
        FileError: if it is no ONNX file, was not written by mixer_spec, or by a newer one, or if
            its weights are not those that it was written with.
        SpecError: if its spec or metadata break a rule.
    """
    path = Path(path)
    proto = _parse(path)
    strings = {entry.key: entry.value for entry in proto.metadata_props}
    metadata = Metadata.from_strings(strings, str(path))
    entering = [value.name for value in proto.graph.input]
    if len(entering) != 1:
        raise FileError(str(path), f"expected one input, got {entering}; export it again")
    numbers = strings.get(NUMBERS, "float32")
    data_path = None
    if numbers.startswith("int8"):
        _check_stored(proto, strings, path)
    else:
        data_path = _check_weights(proto, metadata, path, numbers)
    return OnnxFile(
        **metadata.fields(),
        path=path,
        data_path=data_path,
        input_layout=None if entering == ["photos"] else _input_layout(strings, metadata, path),
        input=entering[0],
        outputs=tuple(value.name for value in proto.graph.output),
        numbers=numbers,
        opset=next(entry.version for entry in proto.opset_import if not entry.domain),
        certificate=_certificate(strings, path),
    )


def stored_digest(proto: onnx.ModelProto) -> str:
    """64 hexadecimal digits over every initializer: names, shapes, dtypes and bytes."""
    total = hashlib.sha256()
    for tensor in sorted(proto.graph.initializer, key=lambda tensor: tensor.name):
        axes = ",".join(map(str, tensor.dims))
        total.update(f"{tensor.name}\0{tensor.data_type}\0{axes}\0".encode())
        total.update(tensor.raw_data or b"\0".join(tensor.string_data))
    return total.hexdigest()


def _check_stored(proto: onnx.ModelProto, strings: Mapping[str, str], path: Path) -> None:
    """Compare the bytes of a file whose kernels are whole numbers."""
    found = stored_digest(proto)
    if found != strings.get(STORED_DIGEST):
        raise FileError(
            str(path),
            "its weights are not those it was written with; expected digest "
            f"{strings.get(STORED_DIGEST)}, got {found}; export it again",
        )


def _certificate(strings: Mapping[str, str], path: Path) -> Mapping[str, Any] | None:
    text = strings.get(CERTIFICATE)
    try:
        found = None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(str(path), f"its certificate must be JSON, got: {error}") from None
    if found is not None and not isinstance(found, dict):
        raise FileError(str(path), "its certificate must be a JSON object")
    return found


def _input_layout(strings: Mapping[str, str], metadata: Metadata, path: Path) -> InputLayout | None:
    if not isinstance(metadata.spec.input, Image):
        return None
    layout = strings.get(INPUT_LAYOUT)
    if layout not in get_args(InputLayout):
        raise FileError(
            str(path),
            f"metadata '{INPUT_LAYOUT}' must be one of {list(get_args(InputLayout))}, "
            f"got {layout!r}",
        )
    return cast(InputLayout, layout)


def written_data_path(path: Path) -> Path | None:
    """The data file that an earlier export left beside ``path``, if it left one."""
    try:
        found = _data_path(_parse(path), path)
    except FileError:
        return None
    ours = rf"{re.escape(path.stem)}\.[0-9a-f]{{16}}\.safetensors"
    return found if found is not None and re.fullmatch(ours, found.name) else None


def _data_path(proto: onnx.ModelProto, path: Path) -> Path | None:
    """The file beside ``path`` that the graph's weights lie in, if they lie outside the graph."""
    locations = {
        entry.value
        for tensor in proto.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    if not locations:
        return None
    if len(locations) > 1 or any(Path(name).name != name for name in locations):
        raise FileError(
            str(path),
            f"its weights must lie in one file beside it, got {sorted(locations)[:3]}; "
            "export it again",
        )
    return path.with_name(locations.pop())


def _parse(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise FileError(str(path), "there is no such file; expected an ONNX model") from None
    except OSError as error:
        raise FileError(str(path), f"could not be read; got: {error}") from error
    except DecodeError as error:
        raise FileError(
            str(path), f"is not a whole ONNX file, got: {error}; get the file again"
        ) from None


def _check_weights(
    proto: onnx.ModelProto, metadata: Metadata, path: Path, numbers: str
) -> Path | None:
    """Compare names, places and bytes of the weights; where they lie, if outside the graph."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    parameters = metadata.spec.parameters()
    missing = [name for name in parameters if name not in tensors]
    if missing:
        raise FileError(
            str(path),
            f"{len(missing)} weights of its spec are missing, {missing[:3]} among them; "
            "if another tool rewrote the graph, export it again",
        )
    outside = _data_path(proto, path)
    if outside is None:
        moved = []
        found = digest(
            {
                name: _inline(tensors[name], parameters[name].shape, path, numbers)
                for name in parameters
            }
        )
    else:
        file = canonical.load(outside)
        file.check_digest()
        found = file.weights_digest
        moved = [n for n, offset in file.offsets.items() if _offset(tensors.get(n)) != offset]
    if found != metadata.weights_digest:
        raise FileError(
            str(outside or path),
            f"does not hold the weights that {path.name} was exported with; expected digest "
            f"{metadata.weights_digest}, got {found}; export it again",
        )
    if moved:
        raise FileError(
            str(path),
            f"its data file was written again since: {len(moved)} weights lie elsewhere, "
            f"{moved[:3]} among them; export it again",
        )
    return outside


def _inline(
    tensor: onnx.TensorProto, shape: tuple[int, ...], path: Path, numbers: str
) -> NDArray[Any]:
    """The weight in its canonical axes; the graph may hold the same bytes under others."""
    dtype = _DTYPES.get(tensor.data_type)
    raw, values = tensor.raw_data, math.prod(shape)
    # Norms are in float32 whatever the rest is in.
    known = dtype is not None and dtype.name in ("float32", numbers)
    if dtype is None or not known or len(raw) != dtype.itemsize * values:
        half = "" if numbers == "float32" else f" or {numbers.upper()}"
        raise FileError(
            str(path),
            f"{tensor.name} must be {list(shape)} in FLOAT{half} ({4 * values} bytes), "
            f"got {list(tensor.dims)} in {onnx.TensorProto.DataType.Name(tensor.data_type)} "
            f"({len(raw)} bytes); export it again",
        )
    return np.frombuffer(raw, dtype).reshape(shape)


def _offset(tensor: onnx.TensorProto | None) -> int | None:
    """Where the tensor lies in its data file."""
    entries = {} if tensor is None else {e.key: e.value for e in tensor.external_data}
    return int(entries["offset"]) if "offset" in entries else None
