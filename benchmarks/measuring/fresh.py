"""Fresh processes: each measurement has imports, thread pools and memory of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that has ended well.

    Args:
        stdout: everything that it printed.
        seconds: from its start to its end.
        peak_bytes: the most memory it had resident at once, as the kernel counted.
    """

    stdout: str
    seconds: float
    peak_bytes: int

    @property
    def last_line(self) -> Any:
        """The JSON document in the last line that it printed."""
        return json.loads(self.stdout.splitlines()[-1])


def run(arguments: Sequence[str], *, accepted: Sequence[int] = (0,)) -> Finished:
    """Run Python in a process of its own.

    Args:
        arguments: of ``python``, as in ``["-m", "mixer_spec", "list"]``.
        accepted: exit codes that count as a result.

    Raises:
        CalledProcessError: if it ends with another code; what it wrote to stderr is in the notes.
    """
    command = [sys.executable, *arguments]
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=_FOLDER, stdout=stdout, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        if process.returncode not in accepted:
            error = subprocess.CalledProcessError(process.returncode, command)
            error.add_note(stderr.read())
            raise error
        return Finished(stdout.read(), seconds, usage.ru_maxrss * 1024)
