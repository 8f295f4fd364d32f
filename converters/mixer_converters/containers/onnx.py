"""Our own ONNX files: the weights back out of an exported graph, in their canonical axes."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from mixer_spec.errors import FileError, MixerSpecError
from mixer_spec.extras import load_or_name_extra

from .contents import Contents, in_memory


def read(path: Path) -> Contents:
    """The weights of an ONNX file that mixer_spec wrote, checked against its digest.

    Raises:
        FileError: if it is no such file, its weights are not those it was written with, or they
            are in eight bits.
        MissingExtraError: if onnx is not installed.
    """
    try:
        return load_or_name_extra(str(path), functools.partial(_read, path))
    except (TypeError, ValueError, KeyError) as error:
        if isinstance(error, MixerSpecError):
            raise
        # protobuf lets bytes that are no text through, and onnx falls over them.
        raise FileError(
            str(path), f"is not a whole ONNX file, got: {error!r}; get the file again"
        ) from None


def _read(path: Path) -> Contents:
    import onnx
    import onnx.numpy_helper

    from mixer_converters import canonical
    from mixer_converters.onnx_file import read_onnx

    file = read_onnx(path)
    if file.numbers.startswith("int8"):
        raise FileError(
            str(path),
            "holds eight bits of each kernel, which do not give the weights back; expected a graph "
            f"in floating point, got {file.numbers}; take the file that it was exported from",
        )
    shapes = {name: parameter.shape for name, parameter in file.spec.parameters().items()}
    if file.data_path is not None:
        arrays = dict(canonical.load(file.data_path).weights)
    else:
        proto = onnx.load(path, load_external_data=False)
        arrays = {
            tensor.name: np.asarray(onnx.numpy_helper.to_array(tensor)).reshape(shapes[tensor.name])
            for tensor in proto.graph.initializer
            if tensor.name in shapes
        }
    tensors = {name: in_memory(array) for name, array in arrays.items()}
    return Contents(container="onnx", tensors=tensors, metadata=file.to_strings())
