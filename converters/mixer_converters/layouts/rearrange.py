"""Rearrangements of axes as one line of words, each its own inverse read backwards.

``"row column rgb channel -> channel rgb row column"`` turns a Flax patch kernel into PyTorch's.
A group in brackets is one axis, its first word the slowest; ``1`` is an axis of length one; ``=``
leaves everything as it is. No value changes, so every bit survives, NaN payloads included.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Side = tuple[tuple[str, ...], ...]
"""The axes of one side, each as the words that it is made of; an axis of length one has none."""

SAME = "="


@dataclass(frozen=True, slots=True)
class Rearrangement:
    """A bijection between the elements of two arrays, from the axes ``before`` to ``after``.

    Args:
        before: the axes that enter.
        after: the axes that leave, made of the same words.

    Example:
        >>> torch_from_flax = rearrangement("row column rgb channel -> channel rgb row column")
        >>> torch_from_flax.shape((16, 16, 3, 768))
        (768, 3, 16, 16)
        >>> torch_from_flax.inverse.shape((768, 3, 16, 16))
        (16, 16, 3, 768)
    """

    before: Side
    after: Side

    @property
    def inverse(self) -> Rearrangement:
        """The way back."""
        return Rearrangement(self.after, self.before)

    def shape(
        self, shape: tuple[int, ...], known: Mapping[str, int] | None = None
    ) -> tuple[int, ...]:
        """The shape that leaves when ``shape`` enters.

        Args:
            shape: of the entering array.
            known: sizes of words inside a group, where ``shape`` leaves them open.

        Raises:
            ValueError: if no array of that shape has these axes.
        """
        sizes = self._sizes(shape, known or {})
        return tuple(math.prod(sizes[word] for word in axis) for axis in self.after)

    def __call__(self, array: NDArray[Any], known: Mapping[str, int] | None = None) -> NDArray[Any]:
        """The array with its axes rearranged; a view wherever strides can say it.

        Raises:
            ValueError: as :meth:`shape`.
        """
        sizes = self._sizes(array.shape, known or {})
        words = [word for axis in self.before for word in axis]
        split = array.reshape([sizes[word] for word in words])
        order = [words.index(word) for axis in self.after for word in axis]
        leaving = [math.prod(sizes[word] for word in axis) for axis in self.after]
        return np.transpose(split, order).reshape(leaving)

    def _sizes(self, shape: tuple[int, ...], known: Mapping[str, int]) -> dict[str, int]:
        """The size of every word."""
        sizes: dict[str, int] = {}
        if len(shape) != len(self.before):
            raise ValueError(f"expected {len(self.before)} axes, got {list(shape)}")
        for axis, size in zip(self.before, shape, strict=True):
            found = {word: known[word] for word in axis if word in known and len(axis) > 1}
            open_ = [word for word in axis if word not in found]
            rest, remainder = divmod(size, math.prod(found.values()) or 1)
            if len(open_) == 1:
                found[open_[0]] = rest
            elif remainder or rest != 1 or open_:
                raise ValueError(f"cannot split {size} into {' x '.join(axis) or 1}")
            if remainder:
                raise ValueError(f"cannot split {size} into {' x '.join(axis)} with {found}")
            sizes |= found
        return sizes


@functools.cache
def rearrangement(text: str) -> Rearrangement | None:
    """The rearrangement that ``text`` says; ``None`` for the identity, ``=``.

    Raises:
        ValueError: if the two sides do not have the same words, each once.
    """
    if text == SAME:
        return None
    before, after = (_side(part) for part in text.split("->"))
    words = [sorted(word for axis in side for word in axis) for side in (before, after)]
    if words[0] != words[1] or len(set(words[0])) != len(words[0]):
        raise ValueError(f"{text!r}: both sides need the same words, each once")
    return Rearrangement(before, after)


def _side(text: str) -> Side:
    axes = re.findall(r"\(([a-z_ ]+)\)|([a-z_]+|1)", text)
    return tuple(
        tuple(group.split()) if group else () if one == "1" else (one,) for group, one in axes
    )
