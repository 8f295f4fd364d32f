"""Runs that were measured before, in a file of JSON lines, and those that are left."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Run = dict[str, Any]
"""A line of ``measuring.alarms``, with the number of threads."""


def measure(
    backends: Sequence[str],
    models: Sequence[str],
    seeds: Sequence[int],
    threads: int,
    record: Path | None,
) -> Iterator[Run]:
    """Each backend on each model with each seed: from the record, or now, when it is added there.

    Args:
        backends: that are right.
        models: of the zoo.
        seeds: of weights and inputs.
        threads: that compute, on as many cores.
        record: what was measured before and is from now on; ``None`` keeps nothing.
    """
    recorded = read(record) if record else []
    known = {_key(run): run for run in recorded if run["threads"] == threads}
    wanted = [(name, model, seed) for seed in seeds for model in models for name in backends]
    yield from (known[key] for key in wanted if key in known)
    left = [key for key in wanted if key not in known]
    if not left:
        return
    command = [sys.executable, "-m", "measuring.alarms"]
    with (
        limited_to(threads),
        subprocess.Popen(
            command, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin:
            process.stdin.write(json.dumps(left).encode())
        for line in process.stdout:
            found = {"threads": threads} | json.loads(line)
            if record:
                append(record, found)
            yield found
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _key(run: Run) -> tuple[str, str, int]:
    return run["backend"], run["model"], run["seed"]


def read(record: Path) -> list[Run]:
    """All that was recorded; half a line, of a process that was killed, is cut off."""
    if not record.exists():
        return []
    whole, end, rest = record.read_bytes().rpartition(b"\n")
    if rest:
        os.truncate(record, len(whole + end))
    return [json.loads(line) for line in whole.splitlines()]


def append(record: Path, found: Run) -> None:
    """Add a line at once, so that several processes may record in the same file."""
    line = (json.dumps(found) + "\n").encode()
    file = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line)
        os.fsync(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def limited_to(threads: int) -> Iterator[None]:
    """New processes compute with so many threads, on as many cores."""
    cores, before = os.sched_getaffinity(0), os.environ.get("OMP_NUM_THREADS")
    os.sched_setaffinity(0, sorted(cores)[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
