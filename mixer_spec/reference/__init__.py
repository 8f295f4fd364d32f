"""The oracle: every layer in plain NumPy, in float64, forwards with every tap, backwards, and trained."""

from .arithmetic import Arithmetic, Shuffled
from .backend import ReferenceBackend
from .backward import backward, backward_step, gradient_sizes
from .forward import FLOAT64, forward, run_node, run_step
from .optimisers import update
from .training import cross_entropy, train_step

__all__ = [
    "FLOAT64",
    "Arithmetic",
    "ReferenceBackend",
    "Shuffled",
    "backward",
    "backward_step",
    "cross_entropy",
    "forward",
    "gradient_sizes",
    "run_node",
    "run_step",
    "train_step",
    "update",
]
