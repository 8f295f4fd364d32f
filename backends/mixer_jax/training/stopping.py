"""How a run is told to end: by SIGTERM, from whoever manages the machine, or by Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def told_to_end() -> Iterator[Callable[[int], bool]]:
    """Whether the run should save and end behind a step, given how many are done.

    One process answers to SIGTERM and to Ctrl-C; a second Ctrl-C does not wait for the step. Of
    several, SIGTERM to any one of them ends all behind the same step.
    """
    if jax.process_count() > 1:  # the service of jax.distributed has the signal
        yield multihost_utils.reached_preemption_sync_point
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number in came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    try:
        before = [signal.signal(number, note) for number in _SIGNALS]
    except ValueError:  # not in the main thread: whoever runs us there has the signals
        yield lambda step: False
        return
    try:
        yield lambda step: bool(came)
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)
