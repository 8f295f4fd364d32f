"""ONNX Runtime as a backend: runs the graphs that mixer_converters builds, and exported files."""

from .backend import OnnxRuntimeBackend, OnnxRuntimeModel
from .file import OnnxFileModel, load_onnx

__all__ = ["OnnxFileModel", "OnnxRuntimeBackend", "OnnxRuntimeModel", "load_onnx"]
