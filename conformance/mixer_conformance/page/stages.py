"""The heat strips: of each model, every backend's stages, blocks side by side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .overview import Column
from .shown import Margin, heat, how_far

Tap = dict[str, Any]

_BLOCK = re.compile(r"blocks\.(\d{1,6})\.(.+)")


@dataclass(frozen=True, slots=True)
class StageCell:
    """One stage of one backend.

    Args:
        heat: the colour.
        told: the tap and how far it is, in words.
    """

    heat: str
    told: str


@dataclass(frozen=True, slots=True)
class Strip:
    """One backend's stages.

    Args:
        column: the backend.
        taps: as they are stored.
        before: the stages in front of the blocks.
        branches: of each branch: its name and a stage for each block, or ``None``.
        after: the stages behind the blocks.
    """

    column: Column
    taps: Sequence[Tap]
    before: tuple[StageCell | None, ...]
    branches: tuple[tuple[str, tuple[StageCell | None, ...]], ...]
    after: tuple[StageCell | None, ...]


@dataclass(frozen=True, slots=True)
class ModelStages:
    """The stages of one model.

    Args:
        model: its name.
        before: names of the stages in front of the blocks.
        blocks: their numbers.
        after: names of the stages behind them.
        strips: one for each backend that was judged there.
        failed: whether any stage is out of tolerance.
    """

    model: str
    before: tuple[str, ...]
    blocks: tuple[int, ...]
    after: tuple[str, ...]
    strips: tuple[Strip, ...]
    failed: bool


def stages(runs: Sequence[dict[str, Any]], seen: Sequence[Column]) -> list[ModelStages]:
    """The models whose taps were judged: with a bad stage, deep, or much looked at come first."""
    found: dict[str, dict[Column, Sequence[Tap]]] = {}
    by_key = {(column.backend, column.profile): column for column in seen}
    for run in runs:
        column = by_key[run["backend"], run["profile"]]
        for model, taps in _taps(run["results"]).items():
            found.setdefault(model, {})[column] = taps
    made = [_model(model, judged) for model, judged in found.items()]
    cases = Counter(result["model"] for run in runs for result in run["results"])
    return sorted(made, key=lambda one: (not one.failed, -len(one.blocks), -cases[one.model]))


def _taps(results: Iterable[dict[str, Any]]) -> dict[str, Sequence[Tap]]:
    """Of each model, the taps of the first family that judged any: conformance inputs come first."""
    found: dict[str, Sequence[Tap]] = {}
    for result in results:
        if result["taps"]:
            found.setdefault(result["model"], result["taps"])
    return found


def _model(model: str, judged: dict[Column, Sequence[Tap]]) -> ModelStages:
    names = list(dict.fromkeys(tap["tap"] for taps in judged.values() for tap in taps))
    inside = {name: match for name in names if (match := _BLOCK.fullmatch(name))}
    outside = [name for name in names if name not in inside]
    # A model without a block has its stem in front all the same.
    before = tuple(name for name in outside if name == "stem")
    after = tuple(name for name in outside if name != "stem")
    blocks = tuple(sorted({int(match[1]) for match in inside.values()}))
    branches = tuple(dict.fromkeys(match[2] for match in inside.values()))
    strips = tuple(
        _strip(column, taps, before, blocks, branches, after) for column, taps in judged.items()
    )
    failed = any(heat(_margin(tap)) in ("over", "far") for taps in judged.values() for tap in taps)
    return ModelStages(model, before, blocks, after, strips, failed)


def _strip(
    column: Column,
    taps: Sequence[Tap],
    before: Sequence[str],
    blocks: Sequence[int],
    branches: Sequence[str],
    after: Sequence[str],
) -> Strip:
    cells = {tap["tap"]: _cell(tap) for tap in taps}
    return Strip(
        column=column,
        taps=taps,
        before=tuple(cells.get(name) for name in before),
        branches=tuple(
            (branch, tuple(cells.get(f"blocks.{number}.{branch}") for number in blocks))
            for branch in branches
        ),
        after=tuple(cells.get(name) for name in after),
    )


def _cell(tap: Tap) -> StageCell:
    bits = tap["bits"]
    seen = f", {bits:.1f} bits" if isinstance(bits, int | float) else ""
    margin = _margin(tap)
    return StageCell(heat(margin), f"{tap['tap']}: {how_far(margin)}{seen}")


def _margin(tap: Tap) -> Margin:
    """Of the stage alone where it was seen, so that a mistake marks its own stage and no later."""
    found: Margin = tap["margin"] if tap["local_margin"] is None else tap["local_margin"]
    return found
