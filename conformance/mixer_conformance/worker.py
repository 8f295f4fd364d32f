"""The child of :mod:`mixer_conformance.isolated`: judges a backend and tells each result as a line.

The request is one line of JSON on stdin. The answer is lines of JSON on what was stdout; an empty
line is a heartbeat, which only comes while the backend lets Python run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from mixer_spec.errors import MixerSpecError

from .subject import print_own_stack, something_hangs
from .suite import Planned, explained, planned, subject_of

HEARTBEAT = 0.5
"""Seconds from one sign of life to the next."""

Tell = Callable[[dict[str, Any] | None], None]


def main() -> None:
    """Judge what the request says, then end the process without waiting for any thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asked is told too, and ends this process
    request = json.loads(sys.stdin.readline())
    sys.path[:] = request["path"]
    tell = _own_stdout()
    threading.Thread(target=_beat, args=(tell,), daemon=True).start()
    try:
        _judge(request, tell)
    except MixerSpecError as error:
        refused = {"class": type(error).__name__, "where": error.where, "problems": error.problems}
        tell({"refused": refused})
    except Exception as error:  # noqa: BLE001 - a backend's constructor or info() may raise anything
        print_own_stack(error)
        tell({"failed": traceback.format_exception_only(error)[-1].strip()})
    os._exit(0)


def _judge(request: dict[str, Any], tell: Tell) -> None:
    level, effort = request["level"], request["effort"]
    subject = subject_of(
        request["backend"], request["profile"], level, effort, limit=request["limit"]
    )
    chosen = {name: request[name] for name in ("scales", "seed", "cases")}
    plan = [
        {"case": one.case.id, "model": one.trial.model.name, "level": one.case.level}
        for one in planned(subject, level=level, effort=effort, **chosen)
    ]
    info = dataclasses.asdict(subject.info) | {"versions": dict(subject.info.versions)}
    tell({"info": info, "plan": plan})

    def waiting() -> Iterator[Planned]:
        for one in planned(subject, level=level, effort=effort, **chosen):
            if one.id not in request["done"]:
                tell({"starts": one.id})
                yield one

    for result in explained(waiting()):
        tell({"result": result.to_data()})
        if something_hangs():  # it takes time from all that follows, and may hold locks
            tell({"hangs": result.id})
            os._exit(0)


def _own_stdout() -> Tell:
    """Keep stdout for the answer alone: what a backend prints goes to stderr, and it reads nothing."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with open(os.devnull, encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 0)
    lock = threading.Lock()

    def tell(message: dict[str, Any] | None) -> None:
        with lock:
            answer.write(("" if message is None else json.dumps(message)) + "\n")
            answer.flush()

    return tell


def _beat(tell: Tell) -> None:
    with contextlib.suppress(BrokenPipeError):
        while True:
            time.sleep(HEARTBEAT)
            tell(None)
    os._exit(1)  # whoever asked is gone


if __name__ == "__main__":
    main()
