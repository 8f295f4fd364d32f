"""The oracle: every layer in plain NumPy, in float64, with every tap."""

from .arithmetic import Arithmetic, Shuffled
from .backend import ReferenceBackend
from .forward import FLOAT64, forward, run_step

__all__ = ["FLOAT64", "Arithmetic", "ReferenceBackend", "Shuffled", "forward", "run_step"]
