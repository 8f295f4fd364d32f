"""Another resolution for a model that was trained at one, on canonical weights.

``raise_resolution`` is the paper's block-diagonal form for whole factors, exact on every
sub-image. ``interpolate_resolution`` takes any size and is approximate.
"""

from .approximate import interpolate_resolution
from .exact import raise_resolution, sub_image_tokens

__all__ = ["interpolate_resolution", "raise_resolution", "sub_image_tokens"]
