"""`run_isolated`: the suite in a process of its own, so that nothing a backend does can stop it.

A call that hangs cannot be ended inside a process, and one that aborts ends the process. So the
child is ended and another takes over at the next case; the caller only ever reads lines.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any, Literal

from mixer_spec import BackendInfo, errors
from mixer_spec.backend import Profile

from .cases import Effort
from .excuses import Excuse, excused
from .result import Result
from .suite import LIMITS, with_stale

START_UP = 120.0
"""Seconds that importing a backend, making it and asking for its ``info()`` may take."""

GRACE = 5.0
"""Seconds without a heartbeat beyond a call's limit, after which a process is taken for stuck."""

MOST: dict[Literal["hung", "died"], int] = {"hung": 3, "died": 20}
"""After so many the rest is not run; a hang costs its whole limit, a crash only a new process."""


def run_isolated(
    backend: str,
    *,
    level: int = 2,
    profile: Profile = "f32-strict",
    effort: Effort = "quick",
    scales: Sequence[str] = (),
    cases: Sequence[str] = (),
    seed: int = 0,
    excuses: Sequence[Excuse] = (),
    limit: float | None = None,
    progress: Callable[[Result], None] = lambda result: None,
) -> tuple[BackendInfo, list[Result]]:
    """Judge one backend as :func:`run` does, but survive whatever it does.

    A case in which the process aborts or gets stuck is an ``error``, and the next goes on in a new
    process; after three hangs or twenty crashes those that are left are an ``error`` each.

    Args:
        backend: a registered name, or ``package.module:Class``.
        level: see :func:`run`, as for all that follow.
        profile: an arithmetic that the backend claims.
        effort: how much is run.
        scales: models or groups of the zoo.
        cases: ids of case families.
        seed: of weights and inputs.
        excuses: known failures.
        limit: seconds that one call may take.
        progress: is told each result.

    Returns:
        What the backend says of itself, and the results.

    Raises:
        UnknownNameError: if there is no such backend, or it does not claim the profile.
        MissingExtraError: if its framework is not installed.
        InputError: if a level, case or scale does not exist.
    """
    request = {
        "backend": backend,
        "level": level,
        "profile": profile,
        "effort": effort,
        "scales": list(scales),
        "cases": list(cases),
        "seed": seed,
        "limit": limit,
        "path": sys.path,
    }
    silence = (LIMITS[effort] if limit is None else limit) + GRACE
    report = _Report(backend, profile, excuses, progress)
    while not report.complete:
        done = [result.id for result in report.results]
        with _worker({**request, "done": done}) as worker:
            for message in _messages(worker, silence):
                report.take(message)
            if not report.complete:
                report.take_end(worker.wait())
    everything = effort != "quick" and not scales and not cases
    results = with_stale(report.results, excuses, profile) if everything else report.results
    return report.info, results


@dataclass
class _Report:
    """What the workers have told so far."""

    backend: str
    profile: Profile
    excuses: Sequence[Excuse]
    progress: Callable[[Result], None]
    info: BackendInfo = field(init=False)
    results: list[Result] = field(default_factory=list)
    waiting: dict[str, Result] | None = None  # from id to a result to be filled in
    running: tuple[Result, float] | None = None  # and when it began
    hung: bool = False  # the worker of now
    lost: Counter[Literal["hung", "died"]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.info = BackendInfo(
            name=self.backend, versions={}, device="unknown", profiles=(self.profile,)
        )

    @property
    def complete(self) -> bool:
        """Whether there is a result for all that was planned."""
        return self.waiting == {}

    def take(self, message: Mapping[str, Any]) -> None:
        """One line of a worker."""
        match message:
            case {"refused": refused}:
                raise getattr(errors, refused["class"])(refused["where"], refused["problems"])
            case {"failed": text}:
                self._lose(f"the backend raised {text}")
            case {"info": info, "plan": plan}:
                if self.waiting is None:
                    self.info = BackendInfo(**info | {"profiles": tuple(info["profiles"])})
                    planned = [Result(profile=self.profile, status="error", **one) for one in plan]
                    self.waiting = {one.id: one for one in planned}
            case {"starts": name} if self.waiting is not None:
                self.running = self.waiting[name], time.perf_counter()
            case {"result": data}:
                self._add(excused(Result.from_data(data), self.excuses))
            case {"hangs": _}:
                self.hung = True
            case {"stuck": _}:
                self.hung = True
                self._lose("the backend did not let Python run and its process had to be ended")

    def take_end(self, code: int) -> None:
        """A worker ended before all was judged: because of a hang, or by the backend itself."""
        if self.hung:
            self.lost["hung"] += 1
        else:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            self.lost["died"] += 1
            self._lose(f"the backend ended its process {how}")
        self.hung = False
        if any(self.lost[kind] >= most for kind, most in MOST.items()):
            self._give_up()

    def _lose(self, message: str) -> None:
        """The case that was running has failed; without one, nothing more can be run."""
        if self.waiting is None:
            self.waiting = {}
            result, since = (
                Result(case="start", model="-", profile=self.profile, level=0, status="error"),
                time.perf_counter(),
            )
            message += " while it was imported and made"
        elif self.running is not None:
            result, since = self.running
        else:
            self._give_up()
            return
        seconds = time.perf_counter() - since
        self._add(excused(replace(result, message=message, seconds=seconds), self.excuses))

    def _give_up(self) -> None:
        hung, died = self.lost["hung"], self.lost["died"]
        for result in list((self.waiting or {}).values()):
            message = f"not run: {hung} calls hung and {died} processes died before it"
            self._add(replace(result, message=message))

    def _add(self, result: Result) -> None:
        self.running = None
        if self.waiting is not None:
            self.waiting.pop(result.id, None)
        self.results.append(result)
        self.progress(result)


# --- one process -------------------------------------------------------------------------------

_Worker = subprocess.Popen[str]


@contextlib.contextmanager
def _worker(request: dict[str, Any]) -> Iterator[_Worker]:
    """A worker at its request; whatever happens, it is gone afterwards."""
    command = [sys.executable, "-X", "faulthandler", "-m", "mixer_conformance.worker"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as worker:
        assert worker.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError), worker.stdin:
                worker.stdin.write(json.dumps(request) + "\n")
            yield worker
        finally:
            worker.kill()


def _messages(worker: _Worker, silence: float) -> Iterator[Mapping[str, Any]]:
    """What a worker tells until it ends; one that gives no sign of life is ended."""
    assert worker.stdout is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(worker.stdout, lines), daemon=True).start()
    started, begun = False, time.monotonic()
    while True:
        # Before it has started, a heartbeat does not lengthen its time.
        left = silence if started else max(0.0, begun + START_UP - time.monotonic())
        try:
            line = lines.get(timeout=left)
        except queue.Empty:
            worker.kill()
            yield {"stuck": True}
            return
        if not line:
            return
        if line != "\n":
            started = True
            yield json.loads(line)


def _read(pipe: IO[str], lines: queue.SimpleQueue[str]) -> None:
    with contextlib.suppress(ValueError):  # closed, since its worker was ended
        for line in pipe:
            lines.put(line)
    lines.put("")
