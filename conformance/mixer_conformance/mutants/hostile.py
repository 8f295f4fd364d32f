"""Backends that compute rightly and misbehave: state, memory, threads, time, and broken rules."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mixer_conformance.measure import Array
from mixer_spec import BackendInfo, ModelSpec
from mixer_spec.backend import check_inputs, check_profile
from mixer_spec.reference import Arithmetic
from mixer_spec.reference.backend import ReferenceModel
from mixer_spec.weights import validate

from .mutant import Weights


class Honest:
    """The float32 reference; the others are it with one fault."""

    def info(self) -> BackendInfo:
        """See :meth:`mixer_spec.backend.Backend.info`."""
        return BackendInfo(name="mutant", versions={}, device="cpu", profiles=("f32-strict",))

    def load(self, spec: ModelSpec, weights: Mapping[str, Array], *, profile: str) -> Any:
        """See :meth:`mixer_spec.backend.Backend.load`."""
        check_profile(self.info(), profile)
        validate(spec, weights)
        return self.model(spec, {name: array.copy() for name, array in weights.items()})

    def model(self, spec: ModelSpec, weights: Weights) -> Any:
        """The model, where the faults are."""
        return _Model(spec, weights)


@dataclass
class _Model:
    spec: ModelSpec
    weights: Weights

    def forward(self, inputs: Array, taps: Sequence[str] = ()) -> Weights:
        check_inputs(self.spec, inputs, taps)
        return self.run(inputs, taps)

    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        found = ReferenceModel(self.spec, self.weights, Arithmetic(np.float32)).forward(
            inputs, taps
        )
        return dict(found)

    def export_weights(self) -> Weights:
        return self.weights


def _with(model: type[_Model]) -> type[Honest]:
    """A backend whose models are of this class."""

    class Faulty(Honest):
        def model(self, spec: ModelSpec, weights: Weights) -> Any:
            return model(spec, weights)

    return Faulty


# --- state -----------------------------------------------------------------------------------


class FirstWeightsForEver(Honest):
    """Keeps the weights of the first model that had these shapes."""

    def __init__(self) -> None:
        self._held: dict[ModelSpec, Weights] = {}

    def model(self, spec: ModelSpec, weights: Weights) -> Any:
        model = _Stale(spec, self._held.setdefault(spec, weights))
        model.exported = weights
        return model


@dataclass
class _Stale(_Model):
    exported: Weights = field(default_factory=dict)

    def export_weights(self) -> Weights:
        return self.exported


class ProgramsByShape(Honest):
    """Compiles once for all specs whose weights have the same shapes."""

    def __init__(self) -> None:
        self._programs: dict[tuple[Any, ...], ModelSpec] = {}

    def model(self, spec: ModelSpec, weights: Weights) -> Any:
        key = tuple((name, array.shape) for name, array in weights.items())
        return _Model(self._programs.setdefault(key, spec), weights)


class OneModelForAll(Honest):
    """Every model that was loaded has the weights of the latest."""

    def __init__(self) -> None:
        self._latest: list[Weights] = []

    def model(self, spec: ModelSpec, weights: Weights) -> Any:
        self._latest[:] = [weights]
        return _Latest(spec, weights, self._latest)


@dataclass
class _Latest(_Model):
    latest: list[Weights]

    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        held = self.latest[0]
        fits = held.keys() == self.weights.keys() and all(
            held[name].shape == self.weights[name].shape for name in held
        )
        weights = held if fits else self.weights
        return _Model(self.spec, weights).run(inputs, taps)


class _FirstBatch(_Model):
    """The batch size of the first call is built in; what is more is dropped, and zeros come back."""

    size: int | None = None

    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        self.size = self.size or len(inputs)
        found = super().run(inputs[: self.size], taps)
        missing = len(inputs) - min(self.size, len(inputs))
        return {
            name: np.concatenate([table, np.zeros((missing, *table.shape[1:]), table.dtype)])
            for name, table in found.items()
        }


class _RunningMean(_Model):
    """Takes off a thousandth of the mean of all inputs so far."""

    mean = np.float32(0)

    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        self.mean = np.float32(0.9) * self.mean + np.float32(0.1) * np.float32(inputs.mean())
        return super().run(inputs - np.float32(1e-3) * self.mean, taps)


class _Drifting(_Model):
    """Adds its result to its own head bias, as a training step that nobody asked for."""

    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        found = super().run(inputs, taps)
        bias = self.weights["head.bias"]
        bias += np.float32(1e-6) * found["logits"].mean(axis=0)
        return found


class _Scratch(_Model):
    """One scratch buffer for all threads."""

    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        self.held = inputs
        found = super().run(self.held, taps)
        self.callers = getattr(self, "callers", 0) + 1
        time.sleep(0.02)
        alone = self.callers == 1
        self.callers = 0
        return found if alone else {name: table + 1 for name, table in found.items()}


# --- memory ----------------------------------------------------------------------------------


class _WritesInput(_Model):
    def forward(self, inputs: Array, taps: Sequence[str] = ()) -> Weights:
        check_inputs(self.spec, inputs, taps)
        found = super().run(inputs, taps)
        if inputs.dtype.kind == "f" and inputs.flags.writeable:
            inputs *= 0.5
        return found


class _OneBuffer(_Model):
    """Writes every result into the same memory."""

    buffer: Array | None = None

    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        found = super().run(inputs, taps)
        logits = found["logits"]
        if self.buffer is None or self.buffer.shape != logits.shape:
            self.buffer = np.empty_like(logits)
        self.buffer[:] = logits
        return found | {"logits": self.buffer}


class _IgnoresStrides(_Model):
    """Reads the memory from the first value on, as if there were no strides."""

    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        if not inputs.flags.c_contiguous:
            base: Any = inputs
            while isinstance(base.base, np.ndarray):
                base = base.base
            if base.dtype == inputs.dtype:
                inputs = base.reshape(-1)[: inputs.size].reshape(inputs.shape)
        return super().run(inputs, taps)


class _IgnoresByteOrder(_Model):
    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        return super().run(inputs.view(inputs.dtype.newbyteorder("=")), taps)


class _ReturnsInput(_Model):
    """Gives its input back under a tap's name."""

    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        found = super().run(inputs, taps)
        if "stem" in found and inputs.size >= found["stem"].size and inputs.dtype == np.float32:
            memory = inputs.reshape(-1)[: found["stem"].size].reshape(found["stem"].shape)
            found["stem"] = memory
        return found


class KeepsCallersWeights(Honest):
    """Scales the caller's own arrays, and forgets to scale them back."""

    def load(self, spec: ModelSpec, weights: Mapping[str, Array], *, profile: str) -> Any:
        check_profile(self.info(), profile)
        validate(spec, weights)
        model = _Model(spec, {name: array.copy() for name, array in weights.items()})
        if weights["head.bias"].flags.writeable:
            weights["head.bias"][...] *= 2
        return model


# --- randomness ------------------------------------------------------------------------------


class _Dropout(_Model):
    """A hundredth of the inputs is dropped, as in training."""

    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        if inputs.dtype.kind != "f":
            return super().run(inputs, taps)
        kept = np.random.default_rng().random(inputs.shape) > 0.01
        return super().run(inputs * kept.astype(inputs.dtype) / inputs.dtype.type(0.99), taps)


class _LastBit(_Model):
    """The last bit of the logits is random, as sums in a random order have it."""

    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        found = super().run(inputs, taps)
        logits = found["logits"]
        up = np.random.default_rng().random(logits.shape) > 0.5
        return found | {"logits": np.where(up, np.nextafter(logits, np.float32(np.inf)), logits)}


# --- time and rules --------------------------------------------------------------------------


class _Hangs(_Model):
    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        threading.Event().wait(5)
        return super().run(inputs, taps)


class _Exits(_Model):
    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        raise SystemExit(1)


class _Raises(_Model):
    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        raise RuntimeError("out of memory on device 0")


class _RaisesOnOdd(_Model):
    """Cannot take a batch of other than a multiple of four but one and three."""

    def run(self, inputs: Array, taps: Sequence[str]) -> Weights:
        if len(inputs) > 3 and len(inputs) % 4:
            raise RuntimeError("batch must be a multiple of 4")
        return super().run(inputs, taps)


class ReturnsNothing(Honest):
    """``load`` forgets its return."""

    def model(self, spec: ModelSpec, weights: Weights) -> Any:
        return None


class RefusesEverything(Honest):
    """Says that it cannot, for every model: no pass."""

    def model(self, spec: ModelSpec, weights: Weights) -> Any:
        raise NotImplementedError("this engine has no such layer")


DropsTheBatchsEnd = _with(_FirstBatch)
RemembersInputs = _with(_RunningMean)
Drifts = _with(_Drifting)
SharesScratch = _with(_Scratch)
WritesInput = _with(_WritesInput)
ReusesItsBuffer = _with(_OneBuffer)
IgnoresStrides = _with(_IgnoresStrides)
IgnoresByteOrder = _with(_IgnoresByteOrder)
ReturnsItsInput = _with(_ReturnsInput)
DropsInputs = _with(_Dropout)
RandomLastBit = _with(_LastBit)
Hangs = _with(_Hangs)
Exits = _with(_Exits)
Raises = _with(_Raises)
RaisesOnFive = _with(_RaisesOnOdd)
