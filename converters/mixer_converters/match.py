"""Which layout the names and shapes of a file's tensors are in, and under which wrappers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from mixer_spec.errors import FileError, SpecError
from mixer_spec.model import ModelSpec
from mixer_spec.shapes import Image

from .containers import Stored
from .layouts import LAYOUTS, Entry, Layout
from .layouts.infer import family_of, infer_spec
from .layouts.layout import known_sizes, plain
from .semantics import same_but_for_semantics, semantics_of

CANONICAL = "canonical"
"""The layout whose names are the spec's own."""

WRAPPERS = (
    "params",  # Flax
    "opt.target",  # Google's checkpoints of Flax's first optimisers
    "target",
    "model",
    "state_dict",
    "module",  # torch.nn.DataParallel
)
"""What checkpoints put around the names of a model's weights, one inside the other."""

_LEAF = "value"  # Flax NNX may put each array into a variable of its own
_MOST_NAMES = 100_000


@dataclass(frozen=True, slots=True)
class Match:
    """How a file's tensors are the weights of a model.

    Args:
        layout: the layout, or ``None`` for canonical names.
        entries: which foreign tensor holds which canonical ones.
        keys: the tensors' names in the file, by their plain foreign names.
        prefix: the wrappers that were taken off.
        ignored: the file's other tensors.
    """

    layout: Layout | None
    entries: tuple[Entry, ...]
    keys: Mapping[str, str]
    prefix: str
    ignored: tuple[str, ...]

    def key(self, name: str) -> str:
        """The file's tensor that holds the canonical weight ``name``."""
        return next(
            self.keys[plain(entry.foreign)] for entry in self.entries if name in entry.canonical
        )

    @property
    def name(self) -> str:
        """What the layout is called."""
        return CANONICAL if self.layout is None else self.layout.name


def find_match(tensors: Mapping[str, Stored], spec: ModelSpec | None, where: str) -> Match:
    """The layout of a file's tensors.

    Args:
        tensors: by their names in the file.
        spec: the architecture, if the file says so; then canonical names may be any.
        where: the file, for messages.

    Raises:
        FileError: if no layout has exactly these names, or two ways of unwrapping do.
    """
    if len(tensors) > _MOST_NAMES:
        raise FileError(where, f"holds {len(tensors)} tensors; expected those of a model")
    found = [
        m for keys, prefix in _unwrapped(tensors) for m in _matches(keys, prefix, tensors, spec)
    ]
    if not found:
        raise FileError(where, _nearest(tensors))
    prefixes = {match.prefix for match in found}
    if len(prefixes) > 1:
        raise FileError(
            where,
            f"holds weights more than once, under {sorted(prefixes)}; expected one model; "
            "save the one that you mean",
        )
    return found[0]


def _unwrapped(tensors: Mapping[str, Stored]) -> Iterator[tuple[dict[str, str], str]]:
    """The names as they are, and with wrappers taken off, each with the wrappers."""
    waiting = [({plain(name): name for name in tensors}, "")]
    while waiting:
        keys, prefix = waiting.pop()
        yield keys, prefix
        if keys and all(name.endswith(f".{_LEAF}") for name in keys):
            keys = {name.removesuffix(f".{_LEAF}"): key for name, key in keys.items()}
            yield keys, prefix
        if prefix.count("/") < 3:
            for wrapper in WRAPPERS:
                inner = {
                    name.removeprefix(f"{wrapper}."): key
                    for name, key in keys.items()
                    if name.startswith(f"{wrapper}.")
                }
                if inner:
                    waiting.append((inner, f"{prefix}{wrapper.replace('.', '/')}/"))


def _matches(
    keys: dict[str, str], prefix: str, tensors: Mapping[str, Stored], spec: ModelSpec | None
) -> Iterator[Match]:
    used = set(keys.values())
    ignored = tuple(name for name in tensors if name not in used)
    for layout in LAYOUTS:
        entries = tuple(layout.entries(layout.depth(list(keys))))
        if {plain(entry.foreign) for entry in entries} == set(keys):
            yield Match(layout, entries, keys, prefix, ignored)
    canonical = set(keys) if spec is None else set(spec.parameters())
    if canonical == set(keys) and "head.kernel" in keys and any(".norm." in key for key in keys):
        own = tuple(Entry((name,), name, "=") for name in keys)
        if spec is not None or any("_mixing." in name for name in keys):
            yield Match(None, own, keys, prefix, ignored)


def _nearest(tensors: Mapping[str, Stored]) -> list[str]:
    """What is missing and what is too much for the layout that fits best."""
    best: tuple[float, Layout, set[str], set[str]] | None = None
    for keys, _ in _unwrapped(tensors):
        for layout in LAYOUTS:
            expected = {plain(e.foreign) for e in layout.entries(layout.depth(list(keys)))}
            share = len(expected & set(keys)) / max(1, len(expected | set(keys)))
            if best is None or share > best[0]:
                best = share, layout, expected - set(keys), set(keys) - expected
    if best is None or best[0] < 0.3:
        names = sorted({layout.name for layout in LAYOUTS})
        return [
            (
                f"its names are those of no layout; expected one of {', '.join(names)} or "
                f"{CANONICAL}, got {sorted(tensors)[:5]}"
            )
        ]
    _, layout, missing, foreign = best
    lines = [f"its names are nearly those of {layout.name} ({'/'.join(layout.families)})"]
    lines += [f"- {name} (missing)" for name in sorted(missing)[:10]]
    lines += [f"+ {name} (not in the layout)" for name in sorted(foreign)[:10]]
    if any(name.startswith("head") for name in missing):
        lines.append("weights without a classifier are no whole model; get those with one")
    return lines


# --- shapes and values ------------------------------------------------------------------------


def canonical_shapes(
    match: Match, tensors: Mapping[str, Stored], where: str
) -> dict[str, tuple[int, ...]]:
    """The shape of every canonical weight.

    Raises:
        FileError: with every tensor whose axes are not those of its row.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    problems = []
    for entry in match.entries:
        stored = tensors[match.keys[plain(entry.foreign)]]
        try:
            if stored.dtype.kind not in "f" and stored.dtype.name != "bfloat16":
                raise ValueError(f"expected a floating dtype, got {stored.dtype}")
            shape = entry.canonical_shape(_squeezed(match, entry, stored.shape), {})
        except ValueError as error:
            problems.append(f"{entry.foreign}: {error}")
            continue
        shapes |= dict.fromkeys(entry.canonical, shape)
    if problems:
        raise FileError(where, problems[:20])
    return shapes


class MatchedWeights(Mapping[str, NDArray[Any]]):
    """Canonical weights that are read from their file when they are asked for.

    Args:
        match: where they stand.
        tensors: the file's.
        shapes: of the weights.
    """

    def __init__(
        self,
        match: Match,
        tensors: Mapping[str, Stored],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._match, self._tensors, self._shapes = match, tensors, shapes
        self._entries = {
            name: (entry, which)
            for entry in match.entries
            for which, name in enumerate(entry.canonical)
        }

    def __getitem__(self, name: str) -> NDArray[Any]:
        entry, which = self._entries[name]
        array = self._tensors[self._match.keys[plain(entry.foreign)]].read()
        array = array.reshape(_squeezed(self._match, entry, array.shape))
        return entry.to_canonical(array, self._shapes[name], which)

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _squeezed(match: Match, entry: Entry, shape: tuple[int, ...]) -> tuple[int, ...]:
    """``shape`` without the axes of length one that some layouts carry along."""
    if match.layout is None or not match.layout.squeezed:
        return shape
    name = entry.canonical[0]
    rank = 4 if name == "stem.kernel" else 2 if name.endswith("kernel") else 1
    if len(shape) <= rank:
        return shape
    kept = tuple(size for size in shape if size != 1)
    if len(kept) != rank:
        raise ValueError(f"{list(shape)} can lose its axes of length one in more than one way")
    return kept


# --- which layouts can hold a spec ------------------------------------------------------------


def holds(layout: Layout, spec: ModelSpec) -> bool:
    """Whether a layout can hold ``spec``: reading it back gives the same, but for semantics."""
    if family_of(spec) not in layout.families or layout.shapes(spec) is None:
        return False
    shapes = {name: parameter.shape for name, parameter in spec.parameters().items()}
    assert isinstance(spec.input, Image)  # as all of the families
    try:
        found = infer_spec(
            shapes,
            semantics_of(spec),
            where=layout.name,
            image_size=(spec.input.height, spec.input.width),
            heads=known_sizes(spec).get("heads"),
        )
    except SpecError:
        return False  # weights of these names, but of no model of the family
    return same_but_for_semantics(found, spec)


def find_layout(name: str, spec: ModelSpec) -> Layout:
    """The layout called ``name`` that can hold ``spec``.

    Raises:
        FileError: if there is none; the message lists those that can.
    """
    able = [layout for layout in LAYOUTS if holds(layout, spec)]
    found = [layout for layout in able if layout.name == name]
    if not found:
        names = [CANONICAL, *dict.fromkeys(layout.name for layout in able)]
        family = family_of(spec) or "of no published family"
        known = any(layout.name == name for layout in LAYOUTS)
        problem = f"cannot hold this architecture ({family})" if known else "there is no such one"
        raise FileError(f"layout {name!r}", f"{problem}; expected one of {', '.join(names)}")
    return found[0]
