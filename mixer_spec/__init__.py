"""One architecture spec for the MLP-Mixer family that drives JAX, PyTorch and ONNX Runtime.

Example:
    >>> import mixer_spec
    >>> spec = mixer_spec.variant("mixer_b16").spec()
    >>> spec.taps[:3]
    ('stem', 'blocks.0.token_mixing', 'blocks.0.channel_mixing')
"""

from .backend import Backend, BackendInfo, Model, backend_names, load_backend
from .errors import (
    FileError,
    InputError,
    MissingExtraError,
    MixerSpecError,
    SpecError,
    UnknownNameError,
    WeightsError,
)
from .model import ModelSpec, Stage
from .variants import VARIANTS, Variant, variant

__version__ = "0.1.0"

__all__ = [
    "VARIANTS",
    "Backend",
    "BackendInfo",
    "FileError",
    "InputError",
    "MissingExtraError",
    "MixerSpecError",
    "Model",
    "ModelSpec",
    "SpecError",
    "Stage",
    "UnknownNameError",
    "Variant",
    "WeightsError",
    "backend_names",
    "load_backend",
    "variant",
]
