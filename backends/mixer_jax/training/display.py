"""What a person sees of a run: a live line on stderr, and a picture of it at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mixer_converters.atomic import replacing

from .log import METRICS, read


class Display:
    """The live line; only messages where stderr is no terminal.

    Args:
        progress: of rich.
        steps: of the whole run.
        step: that it goes on from.
    """

    def __init__(self, progress: Progress, *, steps: int, step: int) -> None:
        self._progress = progress
        self._task = progress.add_task("Training", total=steps, completed=step, now="compiling")

    def at(self, step: int, **now: float) -> None:
        """A step is done.

        Args:
            step: how many are.
            now: loss, images_per_second, mfu and accuracy, as far as they are known.
        """
        words = [
            form.format(now[name])
            for name, form in (
                ("loss", "loss {:.3f}"),
                ("accuracy", "held out {:.1%}"),
                ("images_per_second", "{:,.0f} images/s"),
                ("mfu", "MFU {:.0%}"),
            )
            if name in now
        ]
        self._progress.update(self._task, completed=step, now="  ".join(words))

    def say(self, message: str) -> None:
        """A line that stays."""
        self._progress.console.print(escape(message))


@contextlib.contextmanager
def display(*, steps: int, step: int) -> Iterator[Display]:
    """The display of one run."""
    columns = (
        TextColumn("[bold]{task.description}[/]"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Display(progress, steps=steps, step=step)


def draw(folder: Path, path: Path) -> None:
    """A picture of a run's metrics: loss, held-out accuracy, learning rate, length of gradients.

    Args:
        folder: of the run.
        path: of the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read(folder / METRICS)
    figure = Figure(figsize=(9, 6), dpi=110)
    FigureCanvasAgg(figure)
    panels = (
        ("loss", "loss", "log"),
        ("accuracy", "held-out accuracy", "linear"),
        ("learning_rate", "learning rate", "linear"),
        ("gradient_norm", "length of the gradient", "log"),
    )
    for axes, (name, title, scale) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        points = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot(
            *_columns(points), color="#0969da", linewidth=1, marker="." if len(points) < 40 else ""
        )
        if all(value > 0 for _, value in points):
            axes.set_yscale(scale)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _columns(points: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [x for x, _ in points], [y for _, y in points]
