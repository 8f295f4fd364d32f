"""What a layout is: one table of names and axes, read in both directions."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_converters.semantics import Semantics
from mixer_spec.layers import Attention
from mixer_spec.model import ModelSpec

from .rearrange import Rearrangement, rearrangement

Row = tuple[str | tuple[str, ...], str, str]
"""Canonical name (or names, stacked along a first axis), foreign name, and how the axes move.

``{i}`` stands for the number of a block, ``{i+2}`` for two more, ``{depth}`` for the number of
blocks.
"""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One row for one block: a foreign tensor and the canonical ones that it holds.

    Args:
        canonical: the canonical names; more than one are stacked along a first axis.
        foreign: the foreign name.
        how: the text of the rearrangement, from canonical to foreign.
    """

    canonical: tuple[str, ...]
    foreign: str
    how: str

    def foreign_shape(self, shape: Shape, known: Mapping[str, int]) -> Shape:
        """The shape of the foreign tensor whose canonical ones have ``shape``."""
        moved = rearrangement(self.how)
        if moved is None:
            return shape
        return moved.shape(self._stacked(shape), known)

    def canonical_shape(self, shape: Shape, known: Mapping[str, int]) -> Shape:
        """The shape of each canonical tensor that a foreign one of ``shape`` holds.

        Raises:
            ValueError: if there is none.
        """
        moved = rearrangement(self.how)
        if moved is None:
            return shape
        found = moved.inverse.shape(shape, self._known(known, moved, shape))
        return found[1:] if len(self.canonical) > 1 else found

    def to_foreign(self, arrays: Sequence[NDArray[Any]], known: Mapping[str, int]) -> NDArray[Any]:
        """The foreign tensor; a view where there is one canonical tensor."""
        moved = rearrangement(self.how)
        array = np.stack(arrays) if len(self.canonical) > 1 else arrays[0]
        return array if moved is None else moved(array, known)

    def to_canonical(self, array: NDArray[Any], shape: Shape, which: int) -> NDArray[Any]:
        """The canonical tensor number ``which`` of ``shape``, as a view where strides allow it."""
        moved = rearrangement(self.how)
        if moved is None:
            return array
        stacked = moved.inverse(array, _word_sizes(moved, self._stacked(shape)))
        return stacked[which] if len(self.canonical) > 1 else stacked

    def _stacked(self, shape: Shape) -> Shape:
        return (len(self.canonical), *shape) if len(self.canonical) > 1 else shape

    def _known(
        self, known: Mapping[str, int], moved: Rearrangement, shape: Shape
    ) -> Mapping[str, int]:
        """Sizes that the foreign shape leaves open: how many are stacked, the sides of a patch."""
        found = {**known, "stacked": len(self.canonical)}
        for axis, size in zip(moved.after, shape, strict=False):
            if {"row", "column"} < set(axis):
                # A square patch, in colour or grey: 3 p^2 is never a square too.
                rgb = 3 if math.isqrt(size // 3) ** 2 * 3 == size else 1
                side = math.isqrt(size // rgb)
                found |= {"row": side, "column": side, "rgb": rgb}
        return found


def _word_sizes(moved: Rearrangement, before: Shape) -> dict[str, int]:
    """The size of every word that is an axis of its own among ``before``."""
    pairs = zip(moved.before, before, strict=True)
    return {axis[0]: size for axis, size in pairs if len(axis) == 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A foreign naming of weights.

    Args:
        name: what people type after ``--to``; layouts of one framework share it.
        families: the architectures that it holds.
        origin: whose names these are.
        source: where the names were read.
        table: the rows; the only place where names and axes stand.
        containers: the kinds of file it comes in, the first by default.
        runs: the function that the layout's own framework runs.
        trained: the functions that weights of these names were trained with; of several, somebody
            has to say which, because weights of several origins go by the same names.
        because: how that is known, or why it is not.
        arguments: what makes the framework run another function than its own, in words or code.
        squeezed: arrays may carry axes of length one anywhere, which are dropped.
    """

    name: str
    families: tuple[str, ...]
    origin: str
    source: str
    table: tuple[Row, ...]
    containers: tuple[str, ...]
    runs: Semantics
    trained: tuple[Semantics, ...]
    because: str
    arguments: Callable[[Semantics], str]
    squeezed: bool = False

    def entries(self, depth: int) -> Iterator[Entry]:
        """Every row for every block of a model of ``depth`` blocks."""
        for names, foreign, how in self.table:
            canonical = (names,) if isinstance(names, str) else names
            for i in range(depth if "{i" in canonical[0] else 1):
                yield Entry(
                    tuple(_fill(name, i, depth) for name in canonical),
                    _fill(foreign, i, depth),
                    how,
                )

    def depth(self, names: Sequence[str]) -> int:
        """How many blocks a file of these :func:`plain` names has, by the highest number in them."""
        text, numbers = "\n".join(names), [-1]
        for _, foreign, _ in self.table:
            if "{i" in foreign:
                pattern, offset = _block_pattern(plain(foreign))
                numbers += [int(found["i"]) - offset for found in pattern.finditer(text)]
        return min(max(numbers) + 1, len(names))

    def shapes(self, spec: ModelSpec) -> dict[str, Shape] | None:
        """The shape of every foreign tensor of ``spec``; ``None`` if a weight fits no row."""
        parameters = spec.parameters()
        entries = list(self.entries(spec.depth))
        if sorted(n for e in entries for n in e.canonical) != sorted(parameters):
            return None
        known = known_sizes(spec)
        try:
            return {
                entry.foreign: entry.foreign_shape(parameters[entry.canonical[0]].shape, known)
                for entry in entries
            }
        except ValueError:
            return None  # a weight of that name with other axes, as an ablation's


def known_sizes(spec: ModelSpec) -> dict[str, int]:
    """Sizes of words that no canonical shape tells: the heads of an attention."""
    heads = [n.layer.heads for n in spec.nodes() if isinstance(n.layer, Attention)]
    return {"heads": heads[0]} if heads else {}


def _fill(pattern: str, i: int, depth: int) -> str:
    def number(match: re.Match[str]) -> str:
        base = i if match["word"] == "i" else depth
        return str(base + int(match["plus"] or 0))

    return re.sub(r"\{(?P<word>i|depth)(?:\+(?P<plus>[0-9]+))?\}", number, pattern)


@functools.cache
def _block_pattern(foreign: str) -> tuple[re.Pattern[str], int]:
    """What finds the number of a block in a name on a line, and how much too high it is."""
    first, *others = re.finditer(r"\{i(?:\+([0-9]+))?\}", foreign)
    pieces = re.split(r"\{i(?:\+[0-9]+)?\}", foreign)
    text = re.escape(pieces[0]) + r"(?P<i>[0-9]{1,5})" + re.escape(pieces[1])
    for piece in pieces[2 : 2 + len(others)]:
        text += "(?P=i)" + re.escape(piece)
    return re.compile(f"^{text}$", re.MULTILINE), int(first[1] or 0)


def plain(name: str) -> str:
    """A foreign name with one separator: containers nest with ``/`` or ``.`` as they please."""
    return name.replace("/", ".")


def block_number(pattern: str, name: str) -> int | None:
    """The number of the block in ``name`` if it has this :func:`plain` pattern, 0 if it has none.

    ``None`` if it has another pattern.
    """
    if "{i" not in pattern:
        return 0 if name == pattern else None
    expression, offset = _block_pattern(pattern)
    found = expression.fullmatch(name)
    number = int(found["i"]) - offset if found else -1
    return number if number >= 0 else None
