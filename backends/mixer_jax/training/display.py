"""What a person sees of a run: a live line on stderr, and a picture of it at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mixer_spec.atomic import replacing
from mixer_spec.commands.output import console

from .log import METRICS, read

_BETWEEN_LINES = 60.0  # seconds
_FEW = 40  # points, each with a dot


class Display:
    """The live line; where stderr is no terminal, a line a minute.

    Args:
        progress: of rich.
        steps: of the whole run.
        step: that it goes on from.
    """

    def __init__(self, progress: Progress, *, steps: int, step: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=steps, completed=step, now="compiling")
        self._known: dict[str, float] = {}
        self._next_line = time.monotonic() + _BETWEEN_LINES

    def at(self, step: int, **now: float) -> None:
        """A step is done.

        Args:
            step: how many are.
            now: loss, images_per_second, mfu and accuracy; what is not given is as it was.
        """
        self._known |= now
        words = "  ".join(
            form.format(self._known[name])
            for name, form in (
                ("loss", "loss {:.3f}"),
                ("accuracy", "held out {:.1%}"),
                ("images_per_second", "{:,.0f} images/s"),
                ("mfu", "MFU {:.0%}"),
            )
            if name in self._known
        )
        self._progress.update(self._task, completed=step, now=words)
        if not self._progress.console.is_terminal and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _BETWEEN_LINES
            task = self._progress.tasks[0]
            left = timedelta(seconds=round(task.time_remaining or 0))
            self.say(f"step {step:,} of {task.total:,.0f}  {words}  {left} left")

    def say(self, message: str) -> None:
        """A line that stays."""
        self._progress.console.print(escape(message))


@contextlib.contextmanager
def display(*, steps: int, step: int) -> Iterator[Display]:
    """The display of one run."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True)) as progress:
        yield Display(progress, steps=steps, step=step)


def draw(folder: Path, path: Path) -> None:
    """A picture of a run's metrics: losses, held-out accuracy, learning rate, length of gradients.

    Args:
        folder: of the run.
        path: of the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, PercentFormatter, StrMethodFormatter

    lines = read(folder / METRICS)
    figure = Figure(figsize=(9, 6), dpi=110)
    FigureCanvasAgg(figure)
    (loss, accuracy), (rate, gradient) = panels = figure.subplots(2, 2, sharex=True)
    for axes, name, title, colour in (
        (loss, "loss", "training", "#0969da"),
        (loss, "held_out_loss", "held out", "#cf222e"),
        (accuracy, "accuracy", "held-out accuracy", "#cf222e"),
        (rate, "learning_rate", "learning rate", "#0969da"),
        (gradient, "gradient_norm", "length of the gradient", "#0969da"),
    ):
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:  # a run may have no held-out examples
            dots = "." if len(points) < _FEW else ""
            axes.plot(*_columns(points), color=colour, linewidth=1, marker=dots, label=title)
        axes.set_title(title, fontsize=10, loc="left")
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    loss.set_title("loss", fontsize=10, loc="left")
    loss.legend(fontsize=8, frameon=False)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (loss, gradient):
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(LogLocator(subs="all"))
        axes.yaxis.set_minor_formatter("")
    for axes in panels[1]:
        axes.set_xlabel("step", fontsize=8)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _columns(points: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [x for x, _ in points], [y for _, y in points]
