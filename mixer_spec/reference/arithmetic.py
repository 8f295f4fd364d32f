"""How the reference adds up: float64 for the oracle, float32 in shuffled orders for the yardstick."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Arithmetic:
    """A dtype and the operations whose order of summation is free.

    Args:
        dtype: float64 for the oracle, float32 for the yardstick.

    Example:
        >>> Arithmetic(np.float32).mean(np.ones((2, 3), np.float32), axis=-1)
        array([[1.],
               [1.]], dtype=float32)
    """

    def __init__(self, dtype: type[np.floating[Any]] = np.float64) -> None:
        self.dtype = dtype

    def cast(self, array: Array) -> Array:
        """``array`` in this arithmetic's dtype, without a copy where it already is.

        Whole numbers stay what they are: the ids of words.
        """
        return array if np.issubdtype(array.dtype, np.integer) else np.asarray(array, self.dtype)

    def matmul(self, left: Array, right: Array) -> Array:
        """The matrix product over the last axis of ``left`` and the last but one of ``right``."""
        if right.ndim == 2 and left.ndim > 2:  # one large product rather than one per image
            rows = left.reshape(-1, left.shape[-1]) @ right
            return rows.reshape(*left.shape[:-1], right.shape[-1])
        product: Array = np.matmul(left, right)
        return product

    def mean(self, array: Array, axis: int) -> Array:
        """The mean over ``axis``, which stays with length 1."""
        mean: Array = array.mean(axis=axis, keepdims=True, dtype=self.dtype)
        return mean

    def einsum(self, subscripts: str, *factors: Array) -> Array:
        """The sum of products that ``subscripts`` says, as ``numpy.einsum`` does."""
        found: Array = np.einsum(subscripts, *factors, optimize=True)
        return found


class Shuffled(Arithmetic):
    """The same function with every sum taken in an order drawn from ``seed``.

    In exact arithmetic nothing changes; in float32 the difference from the oracle is a sample of
    the rounding noise that any correct float32 implementation may show.

    Args:
        seed: of the orders.
        dtype: float32, unless something else is to be measured.
    """

    def __init__(self, seed: int, dtype: type[np.floating[Any]] = np.float32) -> None:
        super().__init__(dtype)
        self._generator = np.random.Generator(np.random.Philox(key=seed))

    def matmul(self, left: Array, right: Array) -> Array:
        order = self._generator.permutation(left.shape[-1])
        return super().matmul(left[..., order], right[..., order, :])

    def mean(self, array: Array, axis: int) -> Array:
        order = self._generator.permutation(array.shape[axis])
        return super().mean(np.take(array, order, axis=axis), axis)

    def einsum(self, subscripts: str, *factors: Array) -> Array:
        incoming, _, outgoing = subscripts.partition("->")
        axes = incoming.split(",")
        lengths = {
            axis: length
            for names, factor in zip(axes, factors, strict=True)
            for axis, length in zip(names, factor.shape, strict=True)
        }
        orders = {
            axis: self._generator.permutation(length) if axis not in outgoing else slice(None)
            for axis, length in lengths.items()
        }
        shuffled = []
        for names, factor in zip(axes, factors, strict=True):
            for position, axis in enumerate(names):
                factor = factor[(slice(None),) * position + (orders[axis],)]
            shuffled.append(factor)
        return super().einsum(subscripts, *shuffled)
