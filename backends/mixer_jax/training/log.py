"""What a run writes while it goes: metrics as JSON lines, the same for TensorBoard, and its speed.

``metrics.jsonl`` holds nothing but functions of the recipe, so that a run that was killed and
resumed leaves the same bytes as one that was not. Times are in ``speed.jsonl``.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from mixer_spec.atomic import replacing
from mixer_spec.errors import FileError

METRICS, SPEED = "metrics.jsonl", "speed.jsonl"


class Log:
    """The files of one run.

    Args:
        folder: of the run.
        step: that the run goes on from; lines of later steps are taken out.

    Raises:
        FileError: here and in every method, if the disk is full or refuses.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        cut_back(folder / METRICS, step)
        with _writing(folder), contextlib.ExitStack() as files:
            # Line by line, for whoever looks on.
            self._metrics, self._speed = (
                files.enter_context((folder / name).open("a", buffering=1, encoding="utf-8"))
                for name in (METRICS, SPEED)
            )
            self._board = _Board(folder / "tensorboard", step)
            files.callback(self._board.close)
            self._files = files.pop_all()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers that the recipe decides."""
        self._write(self._metrics, step, values)

    def speed(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers that the machine decides."""
        self._write(self._speed, step, values)

    def _write(self, file: IO[str], step: int, values: Mapping[str, float]) -> None:
        with _writing(self._folder):
            file.write(json.dumps({"step": step, **values}) + "\n")
            self._board.add(step, values)

    def sync(self) -> None:
        """Return when the disk has every line; before each checkpoint."""
        with _writing(self._folder):
            for file in (self._metrics, self._speed):
                file.flush()
                os.fsync(file.fileno())
            self._board.flush()

    def close(self) -> None:
        """Close the files."""
        with _writing(self._folder):
            self._files.close()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(
            str(folder),
            f"the metrics could not be written: {error.strerror or error}; make room, and start "
            "the same command again; it goes on from the last checkpoint",
        ) from error


class _Board:
    """The same numbers as TensorBoard reads them.

    Written here and now: tensorboardX's SummaryWriter hands them to a thread, which a full disk
    ends, and then waits for it without end.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(exist_ok=True)
        name = (
            f"events.out.tfevents.{time.time():.0f}.{platform.node()}"  # what TensorBoard expects
        )
        self._records = RecordWriter(str(folder / name))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        # Later steps, of a run that was killed, are not shown any more.
        self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, wall_time=time.time(), summary=Summary(value=found)))

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        self._records.close()


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
