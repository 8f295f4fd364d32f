"""Weights that are made when they are asked for, so that a model need never be in memory whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from mixer_spec.weights import Weights


class Each(Mapping[str, NDArray[Any]]):
    """Weights, each passed through a function when it is asked for.

    Args:
        weights: canonical name to array.
        change: gives the array in its place.
    """

    def __init__(self, weights: Weights, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self._weights, self._change = weights, change

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._change(self._weights[name])

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
