"""The paper's change of resolution: block-diagonal token mixing, exact on every sub-image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mixer_spec.errors import InputError, SpecError
from mixer_spec.layers import (
    Attention,
    ClassToken,
    PositionEmbedding,
    TakeToken,
    TokenDense,
    TokenNorm,
    UntiedTokenDense,
)
from mixer_spec.memory import memory_of_machine
from mixer_spec.model import ModelSpec
from mixer_spec.shapes import Image, ImageSize, Table
from mixer_spec.weights import Weights, validate

from .walk import Array, rebuild, resized_image


def raise_resolution(
    spec: ModelSpec, weights: Weights, *, image_size: ImageSize, where: str = "image_size"
) -> tuple[ModelSpec, dict[str, Array]]:
    """The model for images K times as large, which treats each of their sub-images as before.

    The new image is cut into sub-images of the old size. Token mixing gets a block for each and
    zeros between them, so that before any training

    - the tokens of a sub-image, before the pool, are those of the old model;
    - the pooled features and the logits are the means over the sub-images;
    - the logits of an image that repeats a smaller one are those of the smaller one.

    Where the paper takes the tokens of a sub-image to stand together, here they stand row by row
    through the whole image, and the kernels' rows and columns with them. Hidden units stand one
    sub-image behind the other; where a gate halves them, within each half.

    A :class:`~mixer_spec.layers.DepthwiseConv` keeps its weights. It sees across the borders of
    the sub-images, so that the statements above hold for tokens whose windows do not.

    Args:
        spec: the architecture.
        weights: canonical name to array.
        image_size: pixels of a side, or ``(height, width)``: whole multiples of the old ones.
        where: what asked for the new size, for the message.

    Returns:
        The spec at the new resolution and its weights, each in the dtype that it had. Weights
        that do not depend on the resolution are passed on as they are, not copied.

    Raises:
        SpecError: if a factor is not a whole number, or a layer has no exact form.
        WeightsError: if the weights do not fit the spec.
        InputError: if the new weights do not fit into the machine's memory.

    Source:
        arXiv:2105.01601v4, appendix C, on fine-tuning at a higher image resolution.

    Example:
        >>> from mixer_spec import families
        >>> from mixer_spec.weights import initial
        >>> small = families.mixer(image_size=8, patch=4, channels=6, depth=1, token_hidden=5,
        ...                        channel_hidden=7, classes=2)
        >>> large, weights = raise_resolution(small, initial(small), image_size=16)
        >>> weights["blocks.0.token_mixing.dense_0.kernel"].shape  # was (5, 4)
        (20, 16)
    """
    image, _ = resized_image(spec, image_size, where)
    validate(spec, weights)
    assert isinstance(spec.input, Image)
    factors = _factors(spec.input, image, where)
    if factors == (1, 1):
        return spec, dict(weights)
    problems = _inexact(spec)
    if problems:
        raise SpecError(where, problems)
    copies = factors[0] * factors[1]
    needed, memory = enlarged_bytes(spec, weights, copies), memory_of_machine()
    if needed > memory:
        raise InputError(
            where,
            f"the weights for {image.height} x {image.width} pixels do not fit into the memory; "
            f"expected at most {memory / 1e9:.1f} GB, got {needed / 1e9:.1f} GB; "
            "choose a lower resolution",
        )

    def of_image(old: Table) -> Copies:
        assert old.grid is not None
        return Copies(sub_image_tokens(old.grid, factors))

    def free(tokens: int) -> Copies:
        return Copies(np.arange(copies * tokens).reshape(copies, tokens))

    return rebuild(spec, weights, image, of_image, free)


def sub_image_tokens(grid: tuple[int, int], factors: tuple[int, int]) -> NDArray[np.intp]:
    """Where the tokens of each sub-image stand in the whole image, row by row.

    Args:
        grid: rows and columns of patches in a sub-image.
        factors: rows and columns of sub-images.

    Returns:
        ``[sub-image, token]``, both row by row.

    Example:
        >>> sub_image_tokens((1, 2), (2, 2)).tolist()  # four tokens a row
        [[0, 1], [2, 3], [4, 5], [6, 7]]
        >>> sub_image_tokens((2, 2), (1, 2)).tolist()
        [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    (rows, columns), (down, across) = grid, factors
    places = np.arange(rows * columns * down * across).reshape(down, rows, across, columns)
    return places.transpose(0, 2, 1, 3).reshape(down * across, rows * columns)


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """A token axis of which every sub-image has a copy.

    Args:
        places: ``[sub-image, token]``, where each token of each copy stands on the new axis.
    """

    places: NDArray[np.intp]

    @property
    def tokens(self) -> int:
        """How many tokens it has afterwards."""
        return self.places.size

    def stacked(self, count: int) -> Self:
        """``count`` such axes, one behind the other, as one axis."""
        parts = [self.places + number * self.tokens for number in range(count)]
        return type(self)(np.concatenate(parts, axis=1))

    def part(self, count: int) -> Self | None:
        """The axis that this one stacks ``count`` of; ``None`` if it does not."""
        tokens, rest = divmod(self.places.shape[1], count)
        first = type(self)(self.places[:, :tokens])
        return first if not rest and self.same(first.stacked(count)) else None

    def same(self, other: Self) -> bool:
        """Whether the tokens of both can be added, one to one."""
        return np.array_equal(self.places, other.places)

    def kernel(self, kernel: Array, entering: Self) -> Array:
        """A block for each copy, and zeros from one copy to another."""
        made = np.zeros((*kernel.shape[:-2], self.tokens, entering.tokens), kernel.dtype)
        for rows, columns in zip(self.places, entering.places, strict=True):
            made[..., rows[:, None], columns] = kernel
        return made

    def spread(self, values: Array) -> Array:
        """The same values for each copy."""
        made = np.empty((*values.shape[:-1], self.tokens), values.dtype)
        made[..., self.places] = values[..., None, :]
        return made

    def positions(self, embedding: Array) -> Array:
        """The same vectors for each copy."""
        made = np.empty((self.tokens, embedding.shape[1]), embedding.dtype)
        made[self.places] = embedding
        return made


def enlarged_bytes(spec: ModelSpec, weights: Weights, copies: int) -> int:
    """Bytes of all weights once there are so many sub-images; nothing is computed.

    A kernel from tokens to tokens grows with the square of ``copies``, what lies along the tokens
    with ``copies``; the rest stays.
    """
    total = 0
    for node in spec.nodes():
        for name in node.own_parameters:
            match node.layer:
                case TokenDense() | UntiedTokenDense():
                    token_axes = 2 if name == "kernel" else 1
                case TokenNorm() | PositionEmbedding():
                    token_axes = 1
                case _:
                    token_axes = 0
            total += weights[f"{node.path}.{name}"].nbytes * copies**token_axes
    return total


def _factors(old: Image, new: Image, where: str) -> tuple[int, int]:
    problems = []
    for axis in ("height", "width"):
        before, after = getattr(old, axis), getattr(new, axis)
        if after % before:
            what = "shrinks" if after < before else "is no whole multiple of the old"
            problems.append(
                f"the new {axis} {what}; expected a multiple of {before}, got {after}; "
                "interpolate_resolution (`convert --interpolate`) takes any size, and is approximate"
            )
    if problems:
        raise SpecError(where, problems)
    return new.height // old.height, new.width // old.width


_INEXACT = {
    Attention: "lets every token hear the whole image, not its sub-image",
    ClassToken: "makes one token for the whole image, which belongs to no sub-image",
    TakeToken: "takes one token, which belongs to one sub-image",
    TokenNorm: "takes mean and variance over the whole image, not over each sub-image",
}


def _inexact(spec: ModelSpec) -> list[str]:
    """Why the spec has no exact form, once for each kind of layer."""
    found = {type(node.layer): node for node in reversed([*spec.nodes()])}
    return [
        f"{found[kind].path}: a {kind.kind} {reason}, so that no weights make the new model exact; "
        "do interpolate_resolution (`convert --interpolate`), which is approximate"
        for kind, reason in _INEXACT.items()
        if kind in found
    ]
