"""A whole run: from a recipe and examples to trained weights, resumed wherever it was stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from numpy.typing import NDArray

from mixer_spec import ModelSpec
from mixer_spec.errors import FileError, InputError
from mixer_spec.evaluation import EvaluationBatch
from mixer_spec.job import Habits, Stopped
from mixer_spec.recipe import Recipe
from mixer_spec.schedule import learning_rate
from mixer_spec.stochastic_depth import branch_factors
from mixer_spec.weights import Weights, digest

from .checkpoint import Checkpoints, Identity
from .display import Display, display
from .evaluate import Score, make_evaluate
from .log import Log
from .mesh import Placement
from .room import check_compiled
from .speed import Speed
from .state import State, abstract_state, dtype_of, initial_state, result
from .step import Metrics, Moment, Rows, make_step
from .stopping import told_to_end

_PACKAGES = ("jax", "jaxlib", "optax", "numpy")
_IN_FLIGHT = 2  # steps that the host may be ahead of the devices


class ExampleBatch(Protocol):
    """This process's rows of a step; see ``mixer_spec.batches.Batch``."""

    @property
    def images(self) -> NDArray[Any]:
        """``[row, height, width, rgb]``."""
        ...

    @property
    def labels(self) -> NDArray[np.float32]:
        """``[row, class]``."""
        ...

    @property
    def rows(self) -> NDArray[np.int64]:
        """``[row]``, numbers in the global batch."""
        ...

    @property
    def unreadable(self) -> tuple[str, ...]:
        """What is wrong with images that were replaced."""
        ...


class ExampleBatches(Protocol):
    """Batches by step; see ``mixer_spec.batches.Batches``."""

    def iterate(self, start: int) -> Iterator[ExampleBatch]:
        """The batches from step ``start`` to the last."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outcome:
    """What a run ends with.

    Args:
        weights: canonical name to array, whole, in every process.
        score: on the held-out examples; ``None`` without any.
        resumed: the step that it went on from.
        unreadable: images that were replaced, and why.
    """

    weights: Weights
    score: Score | None
    resumed: int
    unreadable: tuple[str, ...]


def run(
    spec: ModelSpec,
    recipe: Recipe,
    batches: ExampleBatches,
    weights: Weights,
    folder: Path,
    *,
    habits: Habits,
    data: str,
    placed: Placement,
    held_out: Callable[[], Iterator[EvaluationBatch]] | None = None,
) -> Outcome:
    """Train, or go on where a run in the same folder was stopped.

    Args:
        spec: the architecture.
        recipe: how it is trained.
        batches: this process's examples.
        weights: before the first step, canonical name to array.
        folder: for everything that the run writes.
        habits: what is written, and when.
        data: the fingerprint of the training data.
        placed: where the arrays go.
        held_out: makes the evaluation's batches anew.

    Raises:
        InputError: if the folder holds another run; if a step does not fit into the memory; if
            the loss is not a number.
        FileError: if the folder cannot be made, or a file in it not be written.
        Stopped: if SIGTERM or Ctrl-C came; the state is saved.
    """
    with jax.enable_x64(recipe.compute == "float64"):
        return _Run(spec, recipe, folder, habits, placed, held_out).go(batches, weights, data)


class _Run:
    def __init__(
        self,
        spec: ModelSpec,
        recipe: Recipe,
        folder: Path,
        habits: Habits,
        placed: Placement,
        held_out: Callable[[], Iterator[EvaluationBatch]] | None,
    ) -> None:
        self.spec, self.recipe, self.placed = spec, recipe, placed
        self.folder, self.habits = folder, habits
        self.held_out = held_out
        self.step = make_step(spec, recipe, placed)
        self.evaluate = make_evaluate(spec, recipe, placed)
        self.pending: deque[tuple[int, Metrics]] = deque()
        self.score: Score | None = None
        self.unreadable: dict[str, None] = {}

    def go(self, batches: ExampleBatches, weights: Weights, data: str) -> Outcome:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(
                str(self.folder), f"cannot be made; {error.strerror}; choose another --out"
            ) from None
        identity = Identity(
            spec=self.spec,
            recipe=self.recipe,
            data=data,
            weights=digest(weights),
            versions={name: version(name) for name in _PACKAGES},
        )
        said: list[str] = []
        checkpoints = Checkpoints(
            self.folder / "checkpoints", identity, keep=self.habits.keep, tell=said.append
        )
        state = checkpoints.restore(abstract_state(self.spec, self.recipe, self.placed))
        if state is None:
            state = initial_state(self.spec, self.recipe, weights, self.placed)
        first = int(state.step)
        if first:
            said.append(f"going on from step {first}")
        with (
            display(steps=self.recipe.steps, step=first) as shown,
            told_to_end() as told,
            self._log(first) as log,
        ):
            for message in said:
                shown.say(message)
            try:
                state = self._steps(state, first, batches, checkpoints, log, shown, told)
            finally:
                checkpoints.close()
        return Outcome(
            weights=result(self.spec, state, self.placed),
            score=self.score,
            resumed=first,
            unreadable=tuple(self.unreadable),
        )

    @contextmanager
    def _log(self, first: int) -> Iterator[Log | None]:
        """The log of the first process; the others have none."""
        if jax.process_index():
            yield None
            return
        log = Log(self.folder, first)
        try:
            yield log
        finally:
            log.close()

    def _steps(
        self,
        state: State,
        first: int,
        batches: ExampleBatches,
        checkpoints: Checkpoints,
        log: Log | None,
        shown: Display,
        told: Callable[[int], bool],
    ) -> State:
        """All the steps that are left."""
        speed = Speed(self.spec, self.recipe, self.placed, log)
        shown.say(f"MFU is the share of {speed.basis}")
        habits, last = self.habits, self.recipe.steps
        for number, batch in enumerate(batches.iterate(first), first):
            self._profile(number, state)
            self._note(batch, shown)
            rate = learning_rate(
                self.recipe.schedule, number, steps=last, peak=self.recipe.optimiser.learning_rate
            )
            rows, now = self._rows(batch, number), Moment(np.int32(number), np.float64(rate))
            if number == first:
                check_compiled(self.step, state, rows, now)
            state, metrics = self.step(state, rows, now)
            self.pending.append((number, metrics))
            done = number + 1
            stop = told(done)
            saves = done % habits.save_every == 0 or done == last or stop
            evaluates = done % habits.evaluate_every == 0 or done == last
            try:
                self._settle(0 if saves or evaluates else _IN_FLIGHT, log, shown, speed)
            except InputError:
                self._save(state, log, checkpoints)
                raise
            if evaluates:
                self._evaluate(state, done, log, shown)
            if saves:
                self._save(state, log, checkpoints)
            if stop and done < last:
                checkpoints.wait()
                raise Stopped(
                    "training",
                    f"was told to end; saved step {done} of {last}; start the same command again",
                )
        if first == last:
            self._evaluate(state, last, None, shown)
        return state

    def _save(self, state: State, log: Log | None, checkpoints: Checkpoints) -> None:
        """The log first: a checkpoint says that its lines are there."""
        if log:
            log.sync()
        checkpoints.save(state)

    def _rows(self, batch: ExampleBatch, number: int) -> Rows:
        """The examples of a step on the devices."""
        factors = branch_factors(self.spec, self.recipe, number)
        images = batch.images
        if images.dtype != np.uint8:
            images = images.astype(dtype_of(self.recipe), copy=False)
        return Rows(
            images=self.placed.place_rows(images),
            labels=self.placed.place_rows(batch.labels),
            factors=None
            if factors is None
            else self.placed.place_rows(factors[batch.rows].astype(dtype_of(self.recipe))),
        )

    def _settle(self, ahead: int, log: Log | None, shown: Display, speed: Speed) -> None:
        """Read the metrics of all but the newest steps, and stop at one that is no number."""
        while len(self.pending) > ahead:
            number, metrics = self.pending.popleft()
            loss, norm = float(metrics.loss), float(metrics.gradient_norm)
            done = number + 1
            if not bool(metrics.taken):
                raise InputError(
                    "training",
                    f"is not finite in step {done}; expected numbers, got a loss of {loss} and a "
                    f"gradient of length {norm}; the weights before it are saved; begin again in "
                    "another --out with a lower `--set optimiser.learning_rate`, a longer "
                    "`--set schedule.warm_up`, or clipping",
                )
            shown.at(done, loss=loss, **speed.at(done))
            if log and (done % self.habits.log_every == 0 or done == self.recipe.steps):
                rate = learning_rate(
                    self.recipe.schedule,
                    number,
                    steps=self.recipe.steps,
                    peak=self.recipe.optimiser.learning_rate,
                )
                log.metrics(done, {"loss": loss, "gradient_norm": norm, "learning_rate": rate})
                speed.log(done)

    def _evaluate(self, state: State, done: int, log: Log | None, shown: Display) -> None:
        if self.held_out is None:
            return
        self.score = self.evaluate(state.average or state.params, self.held_out())
        shown.at(done, accuracy=self.score.accuracy)
        if log:
            log.metrics(done, {"accuracy": self.score.accuracy, "held_out_loss": self.score.loss})

    def _note(self, batch: ExampleBatch, shown: Display) -> None:
        """Name every image that could not be read, once."""
        for problem in batch.unreadable:
            if problem not in self.unreadable:
                self.unreadable[problem] = None
                shown.say(f"left out: {problem}")

    def _profile(self, number: int, state: State) -> None:
        if self.habits.profile is None:
            return
        begin, count = self.habits.profile
        if number == begin:
            jax.profiler.start_trace(str(self.folder / "profile"))
        if number == begin + count:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
