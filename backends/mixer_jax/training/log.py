"""What a run writes while it goes: metrics as JSON lines, the same for TensorBoard, and its speed.

``metrics.jsonl`` holds nothing but functions of the recipe, so that a run that was killed and
resumed leaves the same bytes as one that was not. Times are in ``speed.jsonl``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from mixer_converters.atomic import replacing

METRICS, SPEED = "metrics.jsonl", "speed.jsonl"


class Log:
    """The files of one run.

    Args:
        folder: of the run.
        step: that the run goes on from; lines of later steps are taken out.
    """

    def __init__(self, folder: Path, step: int) -> None:
        cut_back(folder / METRICS, step)
        # Line by line, for whoever looks on.
        self._metrics: IO[str] = (folder / METRICS).open("a", buffering=1, encoding="utf-8")
        self._speed: IO[str] = (folder / SPEED).open("a", buffering=1, encoding="utf-8")
        self._board = _tensorboard(folder / "tensorboard", step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers that the recipe decides."""
        self._write(self._metrics, step, values)

    def speed(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers that the machine decides."""
        self._write(self._speed, step, values)

    def _write(self, file: IO[str], step: int, values: Mapping[str, float]) -> None:
        file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def sync(self) -> None:
        """Return when the disk has every line; before each checkpoint."""
        for file in (self._metrics, self._speed):
            file.flush()
            os.fsync(file.fileno())
        self._board.flush()

    def close(self) -> None:
        """Close the files."""
        self.sync()
        self._metrics.close()
        self._speed.close()
        self._board.close()


def _tensorboard(folder: Path, step: int) -> Any:
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; a last one that a kill cut off is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def cut_back(path: Path, step: int) -> None:
    """Take out the lines of steps behind ``step``, and what a kill left of a line."""
    if not path.exists():
        return
    kept = [line for line in read(path) if line["step"] <= step]
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
