"""Weights between formats: the canonical safetensors file, and ONNX export.

``save`` and ``load`` write and read canonical files. ``mixer_converters.onnx_export`` needs the
extra ``onnx`` and is imported on its own.
"""

from .canonical import CanonicalFile, load, save

__all__ = ["CanonicalFile", "load", "save"]
