"""Weights between formats: canonical safetensors, every foreign layout, and ONNX.

``load`` opens a file of any layout, ``convert`` turns it into any other, ``save`` writes canonical
files; ``inspect``, ``diff`` and ``map_name`` look at them. ``save_pretrained`` and
``from_pretrained`` are for folders in the manner of Hugging Face. ``mixer_converters.onnx_export``
needs the extra ``onnx`` and is imported on its own.
"""

from .canonical import CanonicalFile, save
from .checkpoint import Checkpoint, load
from .convert import Conversion, convert
from .inspection import diff, inspect, map_name
from .pretrained import from_pretrained, save_pretrained

__all__ = [
    "CanonicalFile",
    "Checkpoint",
    "Conversion",
    "convert",
    "diff",
    "from_pretrained",
    "inspect",
    "load",
    "map_name",
    "save",
    "save_pretrained",
]
