"""Pictures of weights: the hidden units of token-mixing layers over the image, and the stem's filters.

The paper sorts units "by frequency" and shows opposite ones in pairs, without saying how. Here the
frequency of a unit is the mean of the spatial frequencies in it, weighted by their power; from the
lowest up, every unit is followed by the one that is nearest to its negative.

Source:
    arXiv:2105.01601v4, figures 4 to 6; the definitions are mixer_spec's own.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .layers import PatchEmbed, TokenDense, UntiedTokenDense
from .model import ModelSpec
from .shapes import Table
from .weights import Weights, validate

_GAP, _BETWEEN = 1, 215.0  # pixels between units, and their grey
_TITLE = 16  # pixels of a title's line in an SVG


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Units:
    """The units of one layer, in the order that they are shown in.

    Args:
        name: canonical, of the kernel.
        images: ``[unit, row, column]``, or ``[unit, row, column, rgb]`` for the stem.
        order: ``[unit]``, the number of each unit in the kernel.
        frequencies: ``[unit]``, in cycles over the whole image.
    """

    name: str
    images: NDArray[np.float64]
    order: NDArray[np.intp]
    frequencies: NDArray[np.float64]


def units(spec: ModelSpec, weights: Weights) -> Iterator[Units]:
    """The stem's filters, then the units of every layer that takes in the tokens of the grid.

    Raises:
        InputError: if the model has neither.
        WeightsError: if the weights do not fit the spec.
    """
    validate(spec, weights)
    found = 0
    for node in spec.nodes():
        layer, table = node.layer, node.incoming
        kernel = weights.get(f"{node.path}.kernel")
        if isinstance(layer, PatchEmbed) and kernel is not None:
            images = np.moveaxis(kernel.astype(np.float64), -1, 0)
        elif isinstance(layer, TokenDense | UntiedTokenDense) and isinstance(table, Table):
            if table.grid is None or table.prefix or kernel is None:
                continue
            images = kernel.astype(np.float64).reshape(-1, *table.grid)
        else:
            continue
        found += 1
        yield _sorted(f"{node.path}.kernel", images)
    if not found:
        raise InputError(
            "pictures", "nothing to see; expected patches of an image or token mixing over a grid"
        )


def _sorted(name: str, images: NDArray[np.float64]) -> Units:
    flat = images if images.ndim == 3 else images.mean(axis=3)
    found = frequencies(flat)
    order = in_pairs(flat, found)
    return Units(name=name, images=images[order], order=order, frequencies=found[order])


def frequencies(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """The power-weighted mean length of the wave vector of each image, without its mean.

    Args:
        images: ``[unit, row, column]``.

    Returns:
        ``[unit]``, in cycles over the image; 0 for a uniform one.

    Example:
        >>> wave = np.cos(2 * np.pi * np.arange(8) / 8 * 3)
        >>> frequencies(np.broadcast_to(wave, (1, 8, 8))).round(9).tolist()  # 3 cycles across
        [3.0]
    """
    _, rows, columns = images.shape
    power = np.abs(np.fft.fft2(_normal(images))) ** 2
    down, across = np.fft.fftfreq(rows, 1 / rows), np.fft.fftfreq(columns, 1 / columns)
    lengths = np.hypot(down[:, None], across)
    total = power.sum((1, 2))
    mean = (power * lengths).sum((1, 2)) / np.where(total > 0, total, 1)
    return np.asarray(mean, np.float64)


def _normal(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each image without its mean, of length 1; zeros for a uniform one."""
    centred = images - images.mean((1, 2), keepdims=True)
    length = np.sqrt((centred**2).sum((1, 2), keepdims=True))
    size = np.abs(images).max((1, 2), keepdims=True)
    # What is left of a uniform image is rounding.
    uniform = length <= 1e-12 * size
    return np.where(uniform, 0.0, centred / np.where(uniform, 1.0, length))


def in_pairs(images: NDArray[np.float64], frequencies: NDArray[np.float64]) -> NDArray[np.intp]:
    """Units by rising frequency, each followed by the closest to its negative that is left.

    Closest is the least distance between unit-length images; of equal ones the first.

    Args:
        images: ``[unit, row, column]``.
        frequencies: ``[unit]``.

    Example:
        >>> waves = np.array([[[1.0, -1.0]], [[3.0, 1.0]], [[-1.0, 1.1]]])
        >>> in_pairs(waves, np.array([0.0, 0.0, 0.0])).tolist()
        [0, 2, 1]
    """
    normal = _normal(images).reshape(len(images), -1)
    likeness = normal @ normal.T
    left, order = np.ones(len(images), bool), []
    for unit in np.argsort(frequencies, kind="stable"):
        if not left[unit]:
            continue
        left[unit] = False
        order.append(unit)
        if left.any():
            # |u + v|^2 = 2 + 2 u.v for images of length 1; rounded, so that ties are ties
            opposite = int(np.argmin(np.where(left, likeness[unit].round(9), np.inf)))
            left[opposite] = False
            order.append(opposite)
    return np.array(order, np.intp)


# --- drawing --------------------------------------------------------------------------------


def sheet(shown: Units, *, columns: int = 16, most: int | None = None) -> NDArray[np.uint8]:
    """All units side by side: ``[row, column, rgb]``, one pixel for each weight.

    Each unit is scaled by its own greatest weight. Zero is white; negative weights are blue and
    positive ones red. A filter of the stem is in its own colours, with grey for zero.

    Args:
        shown: the units.
        columns: how many stand in a row; even, so that pairs stay together.
        most: how many are shown; ``None`` is all.
    """
    images = shown.images[:most]
    greatest = np.abs(images).max(axis=tuple(range(1, images.ndim)), keepdims=True)
    scaled = images / np.where(greatest > 0, greatest, 1.0)
    coloured = 127.5 * (1 + scaled) if images.ndim == 4 else _blue_to_red(scaled)
    count, height, width, _ = coloured.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    made = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), _BETWEEN)
    for number, image in enumerate(coloured):
        row, column = divmod(number, columns)
        top, left = row * (height + _GAP), column * (width + _GAP)
        made[top : top + height, left : left + width] = image
    return np.rint(made).astype(np.uint8)


_ENDS = np.array([[33.0, 102.0, 172.0], [178.0, 24.0, 43.0]])  # ColorBrewer's RdBu


def _blue_to_red(scaled: NDArray[np.float64]) -> NDArray[np.float64]:
    """From -1 to 1 to colours ``[..., rgb]``."""
    ends = _ENDS[(scaled > 0).astype(int)]
    return np.asarray(255 + np.abs(scaled)[..., None] * (ends - 255))


def as_png(pixels: NDArray[np.uint8], scale: int) -> bytes:
    """A PNG of ``[row, column, rgb]``, each pixel ``scale`` wide and high."""
    from PIL import Image

    file = io.BytesIO()
    image = Image.fromarray(pixels)
    size = (scale * image.width, scale * image.height)
    image.resize(size, Image.Resampling.NEAREST).save(file, "png", optimize=True)
    return file.getvalue()


def as_svg(pixels: NDArray[np.uint8], scale: int, title: str) -> bytes:
    """An SVG with a title above ``[row, column, rgb]``; sharp at any size."""
    height, width = (scale * side for side in pixels.shape[:2])
    data = base64.b64encode(as_png(pixels, 1)).decode()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height + _TITLE}">\n'
        f'<text x="0" y="{_TITLE - 5}" font-family="sans-serif" font-size="11">{escape(title)}'
        "</text>\n"
        f'<image y="{_TITLE}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'style="image-rendering: pixelated" href="data:image/png;base64,{data}"/>\n</svg>\n'
    ).encode()
