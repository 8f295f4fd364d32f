"""Training images: random crops, flips and RandAugment, on NumPy and Pillow alone.

Every function is pure: what is random comes from the generator that it is given.
"""

from .apply import augment
from .crop import inception_crop
from .randaugment import OPERATIONS, Operation, randaugment

__all__ = ["OPERATIONS", "Operation", "augment", "inception_crop", "randaugment"]
