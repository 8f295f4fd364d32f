"""The plot of error against depth: every backend's, what is allowed, and independent errors' root.

Errors that are independent of each other add up like a random walk: with the square root of how
many there are. Both axes are logarithmic, so that this is a straight line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .overview import Column
from .stages import ModelStages, Tap

WIDTH, HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 12, 34

_FEWEST = 4
"""Branches below which there is no depth to speak of."""

_LEAST, _MOST = 1e-30, 1e30
"""Errors that a picture can have: float64 rounds at 1e-16, and beyond 1 nothing is right."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """One backend's errors.

    Args:
        column: the backend.
        points: ``x,y`` of the picture, as SVG writes them.
        marks: the same as pairs.
    """

    column: Column
    points: str
    marks: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class DepthPlot:
    """The picture, in its own units.

    Args:
        across: of each tick: its place and text.
        up: likewise.
        lines: the backends.
        allowed: of each arithmetic, what is allowed.
        root: the line of independent errors.
        width: of the picture.
        height: likewise.
    """

    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]
    allowed: tuple[tuple[str, str], ...]
    root: str
    width: int = WIDTH
    height: int = HEIGHT


def depth_plot(model: ModelStages) -> DepthPlot | None:
    """The plot of one model; ``None`` if it has few blocks, or no error to show."""
    errors = {strip.column: _values(strip.taps, "error") for strip in model.strips}
    allowed: dict[str, list[Point]] = {}
    noise: list[Point] = []
    for strip in model.strips:
        allowed.setdefault(strip.column.profile, _values(strip.taps, "tolerance"))
        noise = noise or _values(strip.taps, "noise")
    deepest = max((x for points in errors.values() for x, _ in points), default=0.0)
    if deepest < _FEWEST or not noise:
        return None
    root = [(x, noise[0][1] * math.sqrt(x / noise[0][0])) for x in (1.0, deepest)]
    every = [*errors.values(), *allowed.values(), root]
    low = math.floor(math.log10(min(y for points in every for _, y in points)))
    high = math.ceil(math.log10(max(y for points in every for _, y in points)))

    def place(point: Point) -> Point:
        x = _LEFT + (WIDTH - _LEFT - _RIGHT) * math.log(point[0]) / math.log(deepest)
        share = (math.log10(point[1]) - low) / max(1, high - low)
        return round(x, 1), round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share, 1)

    ticks = [2**power for power in range(20) if 2**power <= deepest]
    step = max(1, (high - low) // 5)
    return DepthPlot(
        across=tuple((place((tick, 10.0**low))[0], str(tick)) for tick in ticks),
        up=tuple(
            (place((1.0, 10.0**power))[1], f"1e{power}") for power in range(low, high + 1, step)
        ),
        lines=tuple(
            Line(column, _path(map(place, points)), tuple(map(place, points)))
            for column, points in errors.items()
            if points
        ),
        allowed=tuple((profile, _path(map(place, at))) for profile, at in allowed.items() if at),
        root=_path(map(place, root)),
    )


def _values(taps: Sequence[Tap], key: str) -> list[Point]:
    """How deep, from 1, and a value that can be drawn, of each branch that has one."""
    branches = [tap for tap in taps if tap["tap"].startswith("blocks.")]
    return [
        (float(depth), float(tap[key]))
        for depth, tap in enumerate(branches, 1)
        if isinstance(tap[key], int | float) and _LEAST < tap[key] < _MOST
    ]


def _path(points: Iterable[Point]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
