"""The optional packages: which extra brings which, and the error that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

from .errors import MissingExtraError

Loaded = TypeVar("Loaded")

EXTRAS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "h5": ("h5py",),
        "jax": ("jax", "flax", "orbax", "tensorstore"),
        "torch": ("torch",),
        "onnx": ("onnx", "onnx_ir", "onnxruntime"),
        "hub": ("huggingface_hub",),
        "report": ("jinja2", "jsonschema"),
        "train": ("optax", "sklearn", "matplotlib", "grain", "array_record", "tensorboardX"),
        "hf": ("datasets",),
    }
)
"""Import names of the packages that each extra brings."""


def load_or_name_extra(where: str, load: Callable[[], Loaded]) -> Loaded:
    """Call ``load``; a missing package becomes an error that names its extra.

    Raises:
        MissingExtraError: if a package of :data:`EXTRAS` is not installed.
    """
    try:
        return load()
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        extra = next((extra for extra, brings in EXTRAS.items() if package in brings), None)
        if extra is None:
            raise
        raise MissingExtraError(
            where,
            f"needs the package {package}, which is not installed; "
            f'do `pip install "mixer-spec[{extra}]"`',
        ) from error
