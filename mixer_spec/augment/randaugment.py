"""RandAugment: some of sixteen operations, one after another, all at one magnitude.

The flavours are literal tables. ``google`` is what the published models were trained with, faults
included. ``fixed`` differs in three rows, so that each operation does what its name says, and more
of it at a higher magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from . import colour, geometry
from .colour import Pixels

Flavour = Literal["google", "fixed"]
Arguments = Callable[[float, Pixels, np.random.Generator], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Args:
        run: from the image ``[height, width, rgb]`` and its arguments to the image.
        arguments: of a magnitude and the image; what is random in them comes from the generator.
    """

    run: Callable[..., Pixels]
    arguments: Arguments


def _nothing(magnitude: float, image: Pixels, generator: np.random.Generator) -> tuple[()]:
    return ()


def _enhancement(magnitude: float, image: Pixels, generator: np.random.Generator) -> tuple[float]:
    return (magnitude / 10 * 1.8 + 0.1,)


def _either_way(strength: float) -> Arguments:
    """``strength`` at magnitude 10, in proportion at others, negative half of the time."""
    return lambda magnitude, image, generator: (
        magnitude / 10 * strength * (1 - 2 * int(generator.integers(2))),
    )


def _whole(amount: Callable[[float], int]) -> Arguments:
    return lambda magnitude, image, generator: (amount(magnitude),)


def _radius_and_place(
    magnitude: float, image: Pixels, generator: np.random.Generator
) -> tuple[int, int, int]:
    height, width = image.shape[:2]
    return int(magnitude / 10 * 40), int(generator.integers(height)), int(generator.integers(width))


_GOOGLE = {
    "autocontrast": Operation(colour.autocontrast, _nothing),
    "equalize": Operation(colour.equalize, _nothing),
    "invert": Operation(colour.invert, _nothing),
    "rotate": Operation(geometry.rotate, _either_way(30.0)),
    # TensorFlow shifts by 7 bits at most; and no value has more than 8.
    "posterize": Operation(colour.posterize, _whole(lambda m: min(max(int(m / 10 * 4), 1), 8))),
    # The threshold is put into eight bits: 256 becomes 0, which inverts the whole image.
    "solarize": Operation(colour.solarize, _whole(lambda m: int(m / 10 * 256) % 256)),
    "colour": Operation(colour.colour, _enhancement),
    "contrast": Operation(colour.contrast_from_area, _enhancement),
    "brightness": Operation(colour.brightness, _enhancement),
    "sharpness": Operation(colour.sharpness, _enhancement),
    "shear_x": Operation(geometry.shear_x, _either_way(0.3)),
    "shear_y": Operation(geometry.shear_y, _either_way(0.3)),
    "translate_x": Operation(geometry.translate_x, _either_way(100.0)),
    "translate_y": Operation(geometry.translate_y, _either_way(100.0)),
    "cutout": Operation(geometry.cutout, _radius_and_place),
    "solarize_add": Operation(colour.solarize_add, _whole(lambda m: int(m / 10 * 110))),
}

_FIXED = _GOOGLE | {
    "posterize": Operation(colour.posterize, _whole(lambda m: max(8 - int(m / 10 * 4), 1))),
    "solarize": Operation(colour.solarize, _whole(lambda m: max(256 - int(m / 10 * 256), 0))),
    "contrast": Operation(colour.contrast, _enhancement),
}

OPERATIONS: Mapping[Flavour, Mapping[str, Operation]] = MappingProxyType(
    {"google": MappingProxyType(_GOOGLE), "fixed": MappingProxyType(_FIXED)}
)
"""The operations of each flavour by name, in the order that they are drawn from."""


def randaugment(
    image: Pixels,
    generator: np.random.Generator,
    *,
    layers: int,
    magnitude: float,
    flavour: Flavour,
) -> Pixels:
    """The image after ``layers`` operations, each drawn from all sixteen.

    Args:
        image: ``[height, width, rgb]``.
        generator: what everything random is drawn from.
        layers: how many operations.
        magnitude: strengths are in proportion; what they are at 10 stands in the table, and
            higher ones go beyond: 45 degrees at 15. Pixels are counted as they are, so that a
            translation by 100 of them empties a small image.
        flavour: which table.

    Source:
        arXiv:1909.13719; google-research/big_vision, pp/archive/autoaugment.py. Faults:
        google-research/big_vision#109 (contrast), #110 (solarize), tensorflow/tpu#614 (posterize).

    Example:
        >>> image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
        >>> same = [randaugment(image, np.random.default_rng(0), layers=2, magnitude=15,
        ...                     flavour="google") for _ in range(2)]
        >>> np.array_equal(*same)
        True
    """
    operations = list(OPERATIONS[flavour].values())
    for _ in range(layers):
        operation = operations[generator.integers(len(operations))]
        image = operation.run(image, *operation.arguments(magnitude, image, generator))
    return image
