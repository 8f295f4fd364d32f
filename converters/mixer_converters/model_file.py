"""One model file, read as ``mixer-spec verify`` asks for it: see ``mixer_spec.model_files``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mixer_spec.model import ModelSpec
from mixer_spec.weights import Weights

from . import containers
from .canonical import CanonicalFile, load
from .metadata import Metadata
from .pretrained import from_pretrained


@dataclass(frozen=True, slots=True)
class OnnxWeights:
    """The spec and the weights of an exported ONNX file."""

    spec: ModelSpec
    weights: Weights


def read_model_file(path: Path) -> CanonicalFile | OnnxWeights:
    """Open a canonical file, a folder of :func:`save_pretrained`, or an exported ONNX file.

    Raises:
        FileError: if it is none of these, or damaged.
        SpecError, WeightsError: if what it says breaks a rule.
        MissingExtraError: for an ONNX file without the extra ``onnx``.
    """
    if path.is_dir():
        return from_pretrained(path)
    if path.suffix == ".onnx":
        found = containers.onnx.read(path)
        metadata = Metadata.from_strings(found.metadata, str(path))
        weights = {name: tensor.read() for name, tensor in found.tensors.items()}
        return OnnxWeights(metadata.spec, weights)
    return load(path)
