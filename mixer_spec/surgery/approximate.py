"""A change to any resolution by linear interpolation: approximate, unlike the paper's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from mixer_spec.errors import SpecError
from mixer_spec.layers import ClassToken, TakeToken
from mixer_spec.model import ModelSpec
from mixer_spec.shapes import Image, ImageSize, Table
from mixer_spec.weights import Weights, validate

from .walk import Array, rebuild, resized_image


def interpolate_resolution(
    spec: ModelSpec, weights: Weights, *, image_size: ImageSize, where: str = "image_size"
) -> tuple[ModelSpec, dict[str, Array]]:
    """The model for images of any size, by interpolation over the patch grid; approximate.

    Nothing about the new model's logits is exact; fine-tune it. What is done:

    - Position embeddings are zoomed linearly, corners onto corners, as ViT's own code does; class
      tokens keep theirs.
    - Token mixing works as if the new table were resized to the old grid, mixed, and resized back:
      a kernel W becomes ``W D`` where the patches enter and ``U W`` where they leave, a bias b
      becomes ``U b``. D and U resize linearly with half-pixel centres, antialiased when they
      shrink, and each of their rows adds up to 1. Hidden widths stay, and so do class tokens.
    - Scales and biases along the tokens become ``U s``.
    - Attention, convolutions and everything along the channels keep their weights.

    Args:
        spec: the architecture.
        weights: canonical name to array.
        image_size: pixels of a side, or ``(height, width)``; the patch must divide them.
        where: what asked for the new size, for the message.

    Returns:
        The spec at the new resolution and its weights, computed in float64 and rounded to the
        dtype that each had. Weights that do not depend on the resolution are passed on as they
        are, not copied.

    Raises:
        SpecError: if the patch does not divide the new image, or the pool takes a patch's token.
        WeightsError: if the weights do not fit the spec.

    Source:
        Positions: ``interpolate_posembed`` in vit_jax/checkpoint.py. No paper has such a form for
        token mixing; this one is mixer_spec's own.

    Example:
        >>> from mixer_spec import families
        >>> from mixer_spec.weights import initial
        >>> small = families.vit(image_size=8, patch=4, channels=6, depth=1, heads=2,
        ...                      channel_hidden=7, classes=2)
        >>> large, weights = interpolate_resolution(small, initial(small), image_size=12)
        >>> weights["stem.position.embedding"].shape  # was (5, 6)
        (10, 6)
    """
    image, patches = resized_image(spec, image_size, where)
    validate(spec, weights)
    assert isinstance(spec.input, Image)
    prefix = _prefix(spec)
    if isinstance(spec.pool, TakeToken) and spec.pool.index >= prefix:
        raise SpecError(
            where,
            f"the pool takes the token of one patch, which has another place in the new image; "
            f"expected a class token, an index below {prefix}, got {spec.pool.index}",
        )

    if image == spec.input:
        return spec, dict(weights)

    def of_image(old: Table) -> Resampled:
        assert old.grid is not None
        assert patches.grid is not None
        change = GridChange(
            up=_in_front(old.prefix, _over_grid(linear, old.grid, patches.grid)),
            down=_in_front(old.prefix, _over_grid(linear, patches.grid, old.grid)),
            zoom=_in_front(old.prefix, _over_grid(zoom, old.grid, patches.grid)),
        )
        return Resampled(old.prefix + patches.tokens, change)

    return rebuild(spec, weights, image, of_image, Resampled)


def _prefix(spec: ModelSpec) -> int:
    """How many class tokens stand in front of the patches."""
    return sum(isinstance(layer, ClassToken) for layer in spec.embeddings)


# --- matrices [new, old] whose rows add up to 1 ----------------------------------------------


def linear(old: int, new: int) -> Array:
    """Linear resizing with half-pixel centres, antialiased when it shrinks.

    Example:
        >>> linear(2, 4)
        array([[1.  , 0.  ],
               [0.75, 0.25],
               [0.25, 0.75],
               [0.  , 1.  ]])
        >>> linear(4, 1) * 24
        array([[5., 7., 7., 5.]])
    """
    step = old / new
    places = (np.arange(new)[:, None] + 0.5) * step - 0.5
    hats: Array = np.maximum(0.0, 1.0 - np.abs(places - np.arange(old)) / max(1.0, step))
    hats /= hats.sum(axis=1, keepdims=True)
    return hats


def zoom(old: int, new: int) -> Array:
    """Linear resizing with corners on corners, as ``scipy.ndimage.zoom`` with ``order=1``.

    Example:
        >>> zoom(2, 3)
        array([[1. , 0. ],
               [0.5, 0.5],
               [0. , 1. ]])
    """
    places = np.linspace(0.0, old - 1.0, new)[:, None]
    hats: Array = np.maximum(0.0, 1.0 - np.abs(places - np.arange(old)))
    return hats


def _over_grid(
    resize: Callable[[int, int], Array], old: tuple[int, int], new: tuple[int, int]
) -> Array:
    """Both axes of a grid that is stored row by row."""
    return np.kron(resize(old[0], new[0]), resize(old[1], new[1]))


def _in_front(prefix: int, matrix: Array) -> Array:
    """``prefix`` tokens that stay as they are, in front of those that ``matrix`` changes."""
    rows, columns = matrix.shape
    made = np.zeros((prefix + rows, prefix + columns))
    made[:prefix, :prefix] = np.eye(prefix)
    made[prefix:, prefix:] = matrix
    return made


# --- a token axis ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GridChange:
    """From the tokens of one grid to those of another.

    Args:
        up: ``[new, old]``, for what leaves a layer.
        down: ``[old, new]``, for what enters one.
        zoom: ``[new, old]``, for position embeddings.
    """

    up: Array
    down: Array
    zoom: Array


@dataclass(frozen=True, slots=True)
class Resampled:
    """A token axis: grids that are resampled, one behind the other, or hidden tokens that stay.

    Args:
        length: new tokens of one grid, or the number of hidden tokens.
        change: of each grid; ``None`` for hidden tokens.
        grids: how many.
    """

    length: int
    change: GridChange | None = None
    grids: int = 1

    @property
    def tokens(self) -> int:
        """How many tokens it has afterwards."""
        return self.length * self.grids

    def stacked(self, count: int) -> Self:
        """``count`` such axes, one behind the other, as one axis."""
        if self.change is None:
            return type(self)(self.length * count)
        return type(self)(self.length, self.change, self.grids * count)

    def part(self, count: int) -> Self | None:
        """The axis that this one stacks ``count`` of; ``None`` if it does not."""
        if self.change is None:
            return None if self.length % count else type(self)(self.length // count)
        if self.grids % count:
            return None
        return type(self)(self.length, self.change, self.grids // count)

    def same(self, other: Self) -> bool:
        """Whether the tokens of both can be added, one to one."""
        return self == other

    def kernel(self, kernel: Array, entering: Self) -> Array:
        """``U W D``, each where its axis is of grids."""
        made = kernel.astype(np.float64)
        if entering.change is not None:
            made = _resized(made, entering.change.down.T, entering.grids)
        if self.change is not None:
            made = _resized(made.swapaxes(-1, -2), self.change.up, self.grids).swapaxes(-1, -2)
        return np.ascontiguousarray(made, kernel.dtype)

    def spread(self, values: Array) -> Array:
        """``U b``."""
        if self.change is None:
            return values
        made = _resized(values.astype(np.float64), self.change.up, self.grids)
        return made.astype(values.dtype)

    def positions(self, embedding: Array) -> Array:
        """The embedding zoomed."""
        assert self.change is not None  # positions stand in the stem, on the patches
        return (self.change.zoom @ embedding.astype(np.float64)).astype(embedding.dtype)


def _resized(values: Array, matrix: Array, grids: int) -> Array:
    """``matrix`` applied to each of the grids along the last axis."""
    new, old = matrix.shape
    split = values.reshape(*values.shape[:-1], grids, old)
    return (split @ matrix.T).reshape(*values.shape[:-1], grids * new)
