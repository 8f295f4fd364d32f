"""How many inputs a second each backend runs: alternating rounds, each backend in its own process.

Every backend keeps a pool of threads, and two pools in one process take the cores from each other.
So each has a process of its own that waits while another is measured, and every round passes over
all backends and all models, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import statistics
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .backend import backend_names, load_backend
from .errors import MissingExtraError, MixerSpecError
from .model import ModelSpec
from .shapes import TokenIds
from .weights import initial

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

WARM_UP = 2
"""Forward passes of each model before the first round; the first of them may compile."""

_PATIENCE = 5.0  # seconds that a process gets to end by itself


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """Inputs a second of one model on one backend, NumPy in and NumPy out.

    Args:
        median: of the rounds.
        lowest: of the slowest round.
        highest: of the fastest round.
    """

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was measured on one backend.

    Args:
        backend: its name.
        versions: its packages' versions.
        device: where it computed.
        throughput: of each model, in the order they were given; empty if the backend crashed.
        crash: the traceback, if it did.
    """

    backend: str
    versions: Mapping[str, str]
    device: str
    throughput: tuple[Throughput, ...]
    crash: str | None = None


def measure(
    specs: Sequence[ModelSpec],
    backends: Sequence[str] | None,
    *,
    batch: int,
    rounds: int = 5,
    seconds: float = 0.2,
    progress: Callable[[str], None] = lambda activity: None,
) -> list[Measured]:
    """Measure every spec on every backend.

    Args:
        specs: the architectures; their weights are the initial ones.
        backends: names; ``None`` is every one whose extra is installed, without the reference.
        batch: inputs in a forward pass.
        rounds: how often each model is measured.
        seconds: how long a model runs in each round, at least; one forward pass is the least.
        progress: told what is being done.

    Raises:
        MixerSpecError: if a backend that was named is unknown or lacks its extra, or if one
            refuses a spec.
    """
    names = [n for n in backend_names() if n != "reference"] if backends is None else backends
    workers: list[_Worker] = []
    with contextlib.ExitStack() as ending:
        for name in dict.fromkeys(names):
            progress(f"{name}: starting")
            worker = _Worker(name)
            ending.callback(worker.stop)
            try:
                worker.ask("start", name)
            except MissingExtraError:
                if backends is not None:
                    raise
            else:
                workers.append(worker)
        for number, spec in enumerate(specs):
            for worker in workers:
                progress(f"{worker.name}: loading model {number + 1} of {len(specs)}")
                worker.ask("load", spec.to_json(), batch)
        for turn in range(rounds):
            for number in range(len(specs)):
                for worker in workers:
                    progress(
                        f"round {turn + 1} of {rounds}: "
                        f"model {number + 1} of {len(specs)} on {worker.name}"
                    )
                    worker.ask("run", number, seconds)
        return [worker.measured(len(specs), batch) for worker in workers]


class _Worker:
    """The parent's side of one backend's process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._info: tuple[Mapping[str, str], str] = ({}, "")
        self._crash: str | None = None
        self._runs: defaultdict[int, list[float]] = defaultdict(list)
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, request: str, *arguments: Any) -> None:
        """Let the process do something; a backend that has crashed is not asked again.

        Raises:
            MixerSpecError: if the backend refuses.
        """
        if self._crash is not None:
            return
        try:
            self._pipe.send((request, *arguments))
            kind, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(_PATIENCE)
            kind, answer = "crash", f"its process ended with exit code {self._process.exitcode}"
        match kind:
            case "refusal":
                error, where, problems = answer
                raise error(where, problems)
            case "crash":
                self._crash = answer
            case "info":
                self._info = answer
            case "seconds":
                self._runs[arguments[0]].append(answer)

    def measured(self, models: int, batch: int) -> Measured:
        """What was found of the first ``models`` models."""
        versions, device = self._info
        found = [] if self._crash else [_summary(self._runs[i], batch) for i in range(models)]
        return Measured(
            backend=self.name,
            versions=versions,
            device=device,
            throughput=tuple(found),
            crash=self._crash,
        )

    def stop(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _summary(seconds: Sequence[float], batch: int) -> Throughput:
    """Of the seconds that a forward pass took in each round."""
    return Throughput(
        median=batch / statistics.median(seconds),
        lowest=batch / max(seconds),
        highest=batch / min(seconds),
    )


# --- in the backend's process ---------------------------------------------------------------


def _serve(pipe: Connection) -> None:
    """Answer requests until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    backend: Any = None
    runs: list[Callable[[], object]] = []
    while True:
        try:
            request, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            match request:
                case "start":
                    backend = load_backend(*arguments)
                    info = backend.info()
                    pipe.send(("info", (dict(info.versions), info.device)))
                case "load":
                    runs.append(_load(backend, *arguments))
                    pipe.send(("loaded", None))
                case "run":
                    number, least = arguments
                    pipe.send(("seconds", _seconds_per_call(runs[number], least)))
        except MixerSpecError as error:
            pipe.send(("refusal", (type(error), error.where, error.problems)))
        except Exception:  # noqa: BLE001 - whatever it is, it is this backend's answer
            pipe.send(("crash", traceback.format_exc()))


def _load(backend: Any, spec_json: str, batch: int) -> Callable[[], object]:
    """A forward pass of the model, warmed up."""
    spec = ModelSpec.from_json(spec_json)
    model, inputs = backend.load(spec, initial(spec)), _inputs(spec, batch)

    def run() -> object:
        return model.forward(inputs)

    for _ in range(WARM_UP):
        run()
    return run


def _inputs(spec: ModelSpec, batch: int) -> NDArray[Any]:
    generator = np.random.default_rng(0)
    shape = (batch, *spec.input.shape)
    if isinstance(spec.input, TokenIds):
        return generator.integers(spec.input.vocabulary, size=shape)
    return generator.standard_normal(shape, np.float32)


def _seconds_per_call(run: Callable[[], object], least: float) -> float:
    """The mean of as many calls as fill ``least`` seconds, and of one at least."""
    calls, elapsed, start = 0, 0.0, time.perf_counter()
    while not calls or elapsed < least:
        run()
        calls += 1
        elapsed = time.perf_counter() - start
    return elapsed / calls
