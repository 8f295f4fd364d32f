"""What a benchmark says in the end: figures, targets, and how quiet the machine was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from mixer_spec.commands.output import print_json, table

from .machine import describe, print_machine


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should be and what it is.

    Args:
        what: is measured, in words.
        wanted: in words, with the unit.
        measured: in words, with the unit.
        reached: whether it is good enough.
    """

    what: str
    wanted: str
    measured: str
    reached: bool


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that a benchmark found.

    Args:
        figures: as plain data.
        targets: the verdict.
        load: the load average before.
        noise: cores that other processes used meanwhile.
    """

    figures: dict[str, Any]
    targets: Sequence[Target]
    load: float
    noise: float

    def print_json(self) -> None:
        """Print the one JSON document of a benchmark."""
        print_json(
            {
                "machine": describe(),
                "load_average_before": self.load,
                "cores_used_by_others": self.noise,
                **self.figures,
                "targets": [asdict(target) for target in self.targets],
            }
        )

    def print_end(self, out: Console) -> None:
        """Print the verdict and the machine, the last lines of every benchmark."""
        right = ("wanted", "measured")
        made = table("target", *right, "", right=right)
        for target in self.targets:
            verdict = "[green]reached[/]" if target.reached else "[bold red]MISSED[/]"
            made.add_row(target.what, target.wanted, target.measured, verdict)
        out.print()
        out.print(made)
        out.print()
        print_machine(out, self.load, self.noise)
