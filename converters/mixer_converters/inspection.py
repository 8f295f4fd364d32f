"""Looking at files of weights, and at two of them: tensors, statistics, differences."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_spec.errors import FileError, MixerSpecError, SpecError

from . import containers
from .checkpoint import Checkpoint, load, load_weights
from .containers import Stored
from .layouts import LAYOUTS
from .layouts.layout import Layout, block_number, plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """One tensor of a file, in numbers.

    Args:
        name: in the file.
        canonical: the weights that it holds.
        shape: the length of each axis.
        dtype: of the values.
        minimum, maximum, mean, deviation: of the finite values; ``None`` if there are none.
        odd: how many values are not finite.
    """

    name: str
    canonical: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    minimum: float | None
    maximum: float | None
    mean: float | None
    deviation: float | None
    odd: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What :func:`inspect` saw.

    Args:
        path: of the file.
        container: the kind of file.
        tensors: in the order of the file.
        checkpoint: the model, if the layout is known.
        problem: why it is not, or what has to be said before the model can be used.
    """

    path: Path
    container: str
    tensors: tuple[Tensor, ...]
    checkpoint: Checkpoint | None
    problem: str | None


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Look into a file of weights; tensors of no known layout are shown too.

    Raises:
        FileError: if the file is damaged or of no known kind.
    """
    path = Path(path)
    contents = containers.read(path)
    checkpoint, problem = None, None
    try:
        checkpoint = load(path)
    except SpecError as error:
        problem = str(error)
        try:
            found = load(path, gelu="none")
            # The first note would be that somebody said so, and nobody did.
            checkpoint = dataclasses.replace(found, notes=found.notes[1:])
        except MixerSpecError:
            checkpoint = None
    except FileError as error:
        problem = str(error)
    held = (
        {}
        if checkpoint is None
        else {
            checkpoint.match.keys[plain(entry.foreign)]: entry.canonical
            for entry in checkpoint.match.entries
        }
    )
    tensors = tuple(_measured(n, t, held.get(n, ())) for n, t in contents.tensors.items())
    return Inspection(
        path=path,
        container=contents.container,
        tensors=tensors,
        checkpoint=checkpoint,
        problem=problem,
    )


def _measured(name: str, tensor: Stored, canonical: tuple[str, ...]) -> Tensor:
    array = tensor.read()
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        values = array.astype(np.float64).reshape(-1)
    finite = values[np.isfinite(values)]
    numbers = (
        (finite.min(), finite.max(), finite.mean(), finite.std()) if finite.size else (None,) * 4
    )
    minimum, maximum, mean, deviation = (None if n is None else float(n) for n in numbers)
    return Tensor(
        name=name,
        canonical=canonical,
        shape=tensor.shape,
        dtype=tensor.dtype.name,
        minimum=minimum,
        maximum=maximum,
        mean=mean,
        deviation=deviation,
        odd=int(values.size - finite.size),
    )


# --- two files ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One weight that two files do not share bit for bit.

    Args:
        name: the canonical name.
        what: in words.
        largest: the largest absolute difference, if they can be subtracted.
        relative: the L2 norm of the difference over that of the first.
    """

    name: str
    what: str
    largest: float | None = None
    relative: float | None = None


def diff(
    one: str | os.PathLike[str] | Checkpoint, other: str | os.PathLike[str] | Checkpoint
) -> tuple[int, tuple[Difference, ...]]:
    """Compare the weights of two files of any layouts.

    Args:
        one: a file or folder, or what :func:`mixer_converters.load` made of it.
        other: likewise.

    Returns:
        How many weights there are, and those that differ.

    Raises:
        FileError: if a file is damaged or of no known layout.
    """
    first, second = (
        given.weights if isinstance(given, Checkpoint) else load_weights(given).weights
        for given in (one, other)
    )
    names = list(dict.fromkeys([*first, *second]))
    found = (_difference(name, first, second) for name in names)
    return len(names), tuple(difference for difference in found if difference is not None)


def _difference(
    name: str, first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]
) -> Difference | None:
    if name not in first or name not in second:
        return Difference(name=name, what=f"only in the {'second' if name in second else 'first'}")
    a, b = first[name], second[name]
    if a.shape != b.shape:
        return Difference(name=name, what=f"shapes {list(a.shape)} and {list(b.shape)}")
    if a.dtype == b.dtype and a.tobytes() == b.tobytes():
        return None
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    gap, length = x[finite] - y[finite], np.linalg.norm(x[finite])
    what = "values" if a.dtype == b.dtype else f"dtypes {a.dtype.name} and {b.dtype.name}"
    return Difference(
        name=name,
        what=what,
        largest=float(np.abs(gap).max(initial=0.0)),
        relative=float(np.linalg.norm(gap) / length) if length else None,
    )


# --- one name in every layout ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Name:
    """What a tensor is called in a layout.

    Args:
        layout: the layout's name.
        families: the architectures that the layout holds.
        canonical: the canonical names.
        foreign: its name there.
        how: the rearrangement of its axes, from canonical to foreign.
    """

    layout: str
    families: tuple[str, ...]
    canonical: tuple[str, ...]
    foreign: str
    how: str


def map_name(name: str) -> tuple[Name, ...]:
    """A tensor's name in every layout, from its name in any of them.

    Raises:
        FileError: if no layout has such a name.

    Example:
        >>> [n.foreign for n in map_name("blocks.3.mlp_tokens.fc1.weight") if n.layout == "google"]
        ['MixerBlock_3/token_mixing/Dense_0/kernel']
    """
    meant = {(pattern, i) for layout in LAYOUTS for pattern, i in _meanings(name, layout)}
    found = tuple(
        Name(
            layout=layout.name,
            families=layout.families,
            canonical=tuple(_number(n, i) for n in names),
            foreign=_number(foreign, i),
            how=how,
        )
        for layout in LAYOUTS
        for canonical, foreign, how in layout.table
        for names in [(canonical,) if isinstance(canonical, str) else canonical]
        for i in sorted({i for pattern, i in meant if pattern in names})
    )
    if not found:
        raise FileError(
            f"name {name!r}",
            "no layout has a tensor of that name; expected one like "
            "'blocks.0.token_mixing.dense_0.kernel' or 'MixerBlock_0/LayerNorm_0/scale'",
        )
    return found


def _meanings(name: str, layout: Layout) -> Iterator[tuple[str, int]]:
    """The canonical patterns that ``name`` may stand for, with the number of the block."""
    for canonical, foreign, _ in layout.table:
        names = (canonical,) if isinstance(canonical, str) else canonical
        for pattern in (*names, foreign):
            i = block_number(plain(pattern), plain(name))
            if i is not None:
                yield from ((n, i) for n in (names if pattern == foreign else (pattern,)))


def _number(pattern: str, i: int) -> str:
    """``pattern`` with the number of a block; what depends on the depth stays as it is."""
    return pattern.replace("{i}", str(i)).replace("{i+2}", str(i + 2))
