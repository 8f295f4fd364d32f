"""The backend under judgement, called with care: time limits, and every rule of the protocol.

A backend may raise, hang, write into its input, or return something else than was asked for. Each
is a :class:`Violation` with its own message; the suite notes it and goes on.
"""

from __future__ import annotations

import contextlib
import importlib
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

import mixer_spec
from mixer_spec import Backend, MissingExtraError, Model, ModelSpec
from mixer_spec.backend import BackendInfo
from mixer_spec.weights import Weights

from .measure import Array
from .precision import Precision
from .weights import conformance_inputs, conformance_weights

T = TypeVar("T")


class Violation(Exception):
    """The backend broke a rule of the protocol.

    Args:
        message: which one, expected and got.
        kind: ``error`` where it raised or hung, ``unsupported`` where it refused the model.
        culprit: the tap, weight or argument.
    """

    def __init__(
        self,
        message: str,
        kind: Literal["fail", "error", "unsupported"] = "fail",
        culprit: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.culprit = culprit


class ByFiles:
    """A backend that only files connect with the suite: it has no memory or errors to look at."""


class _Call(threading.Thread):
    """One call of a backend."""


def something_hangs() -> bool:
    """Whether a call that was left behind is still running; only asked when no other is."""
    return any(isinstance(thread, _Call) for thread in threading.enumerate())


def limited(doing: str, call: Callable[[], T], seconds: float) -> T:
    """``call()``, in a thread of its own that is left behind when its time is over.

    Raises:
        Violation: if it raises or does not return in time.
    """
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            # Infinities are judged, not warned of; NumPy's settings are each thread's own.
            with np.errstate(all="ignore"):
                answers.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - a backend may even call sys.exit
            answers.put((None, error))

    thread = _Call(target=work, daemon=True, name=doing)
    thread.start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise Violation(
            f"{doing} did not return; expected an answer within {seconds:g} s", "error"
        ) from None
    thread.join()
    if error is None:
        return answer  # type: ignore[return-value]  # None only where T is
    if isinstance(error, (MissingExtraError, Violation)):
        raise error
    kind: Literal["error", "unsupported"] = "error"
    if isinstance(error, NotImplementedError):
        kind = "unsupported"
    text = traceback.format_exception_only(error)[-1].strip()
    raise Violation(f"{doing} raised {text}", kind) from error


@contextlib.contextmanager
def unchanged(doing: str, given: Mapping[str, Array]) -> Iterator[None]:
    """A call that must not write into the arrays it was given; if it did, they are put right.

    Raises:
        Violation: that names the first array that is another one afterwards.
    """
    before = {name: array.copy() for name, array in given.items()}
    yield
    wrong = [
        name
        for name, array in given.items()
        if not np.array_equal(array, before[name], equal_nan=array.dtype.kind == "f")
    ]
    for name in wrong:
        given[name][...] = before[name]  # other cases use them too
    if wrong:
        raise Violation(f"{doing} changed its {wrong[0]}", culprit=wrong[0])


def print_own_stack(error: BaseException) -> None:
    """The stack of what a backend raised, on stderr, from where its own code begins."""
    told = traceback.TracebackException.from_exception(error)
    others = (
        str(Path(__file__).parent),
        str(Path(mixer_spec.__file__).parent),
        "<frozen importlib",
    )
    outside = [
        number
        for number, frame in enumerate(told.stack)
        if not frame.filename.startswith((*others, importlib.__file__))
    ]
    # A syntax error's place is no frame.
    nothing = len(told.stack) if isinstance(error, SyntaxError) else 0
    del told.stack[: min(outside, default=nothing)]
    print("".join(told.format()), end="", file=sys.stderr)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model of the subject.

    Args:
        subject: the backend.
        spec: the architecture.
        model: what ``load`` returned.
    """

    subject: Subject
    spec: ModelSpec
    model: Model

    def forward(self, inputs: Array, taps: Sequence[str] | None = None) -> dict[str, Array]:
        """Run a batch and hold what comes back against the protocol.

        Args:
            inputs: of any layout; must be as before afterwards.
            taps: names; by default all that the subject shows.

        Raises:
            Violation: if it raises, hangs, changes its input, or returns too little, another
                shape or dtype, or its own input.
        """
        names = self.subject.taps(self.spec) if taps is None else taps
        with unchanged("forward", {"inputs": inputs}):
            found = self.subject.ask(
                self.spec, "forward", lambda: self.model.forward(inputs, names)
            )
        if not isinstance(found, Mapping):
            raise Violation(f"forward must return a mapping of taps, got {type(found).__name__}")
        wanted = list(dict.fromkeys([*names, "logits"]))
        return {name: self._checked(name, found.get(name), inputs) for name in wanted}

    def logits(self, inputs: Array) -> Array:
        """The logits of a batch."""
        return self.forward(inputs, ())["logits"]

    def _checked(self, name: str, table: Any, inputs: Array) -> Array:
        outgoing = next(step.outgoing for step in self.spec.steps if step.tap == name)
        shape, dtype = (len(inputs), *outgoing.shape), self.subject.precision.dtype
        if table is None:
            raise Violation(f"{name} was not returned", culprit=name)
        if not isinstance(table, np.ndarray):
            raise Violation(
                f"{name} must be a NumPy array, got {type(table).__name__}", culprit=name
            )
        if table.dtype != dtype:
            raise Violation(
                f"{name}: wrong dtype; expected {np.dtype(dtype).name}, got {table.dtype}",
                culprit=name,
            )
        if table.shape != shape:
            raise Violation(
                f"{name}: wrong shape; expected {list(shape)}, got {list(table.shape)}",
                culprit=name,
            )
        if np.may_share_memory(table, inputs):
            raise Violation(f"{name} shares its memory with the input", culprit=name)
        return table

    def export(self) -> Weights:
        """The weights that it holds.

        Raises:
            Violation: if it raises, hangs, or returns something else than arrays.
        """
        found = self.subject.ask(self.spec, "export_weights", self.model.export_weights)
        if not isinstance(found, Mapping):
            raise Violation(
                f"export_weights must return a mapping of names, got {type(found).__name__}"
            )
        return {name: np.asarray(array) for name, array in found.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A backend in one of the arithmetics that it claims.

    Args:
        backend: in hand.
        info: what it says of itself.
        precision: the profile's arithmetic.
        sees_taps: whether it is judged at its taps.
        limit: seconds that one call may take.
    """

    backend: Backend
    info: BackendInfo
    precision: Precision
    sees_taps: bool
    limit: float

    def taps(self, spec: ModelSpec) -> tuple[str, ...]:
        """The taps that it is judged at."""
        return spec.taps if self.sees_taps else ("logits",)

    def load(self, spec: ModelSpec, weights: Weights, *, writable: bool = False) -> Loaded:
        """Load a model.

        Args:
            spec: the architecture.
            weights: canonical name to array.
            writable: give it the arrays themselves, and not what it cannot write into.

        Raises:
            Violation: if it raises, hangs or returns something else than a model.
        """
        given = weights if writable else {name: _frozen(array) for name, array in weights.items()}
        model = self.ask(spec, "load", lambda: self._load(spec, given))
        if not isinstance(model, Model):
            raise Violation(f"load must return a Model, got {type(model).__name__}")
        return Loaded(self, spec, model)

    def call(self, doing: str, call: Callable[[], T]) -> T:
        """``call()`` within the time limit."""
        return limited(doing, call, self.limit)

    def ask(self, spec: ModelSpec, doing: str, call: Callable[[], T]) -> T:
        """``call()`` of what every model must do, within the time limit.

        A model may be refused as a whole, and is then unsupported; an accident in one that can be
        run is an error, whatever the exception is called.

        Raises:
            Violation: if it raises or hangs.
        """
        try:
            return self.call(doing, call)
        except Violation as refusal:
            accident = refusal.__cause__
            if not isinstance(accident, NotImplementedError) or not self._runs(spec):
                raise
            raise Violation(
                f"{refusal}; expected an answer, since it runs this model otherwise", "error"
            ) from accident

    def _load(self, spec: ModelSpec, weights: Weights) -> Model:
        return self.backend.load(spec, weights, profile=self.precision.profile)

    def _runs(self, spec: ModelSpec) -> bool:
        """Whether a model can be run at all, with plain weights and inputs."""
        inputs = conformance_inputs(spec, 1)
        if inputs.dtype.kind == "f":
            inputs = inputs.astype(self.precision.dtype)
        try:
            model = self.call("load", lambda: self._load(spec, conformance_weights(spec)))
            self.call("forward", lambda: model.forward(inputs))
        except Violation:
            return False
        return True


def _frozen(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view
