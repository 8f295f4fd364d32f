"""Mixers in JAX: pure functions on nested parameters, a Flax face, and the backend."""

from .backend import JaxBackend
from .forward import apply, apply_with_taps
from .module import SpecModule
from .params import from_canonical, init, stack, to_canonical, unstack

__all__ = [
    "JaxBackend",
    "SpecModule",
    "apply",
    "apply_with_taps",
    "from_canonical",
    "init",
    "stack",
    "to_canonical",
    "unstack",
]
