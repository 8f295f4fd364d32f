"""A mutant: the NumPy reference with one mistake that people make, behind the backend protocol."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from mixer_conformance.measure import Array
from mixer_spec import BackendInfo, ModelSpec
from mixer_spec.backend import Profile, check_inputs, check_profile
from mixer_spec.reference import Arithmetic, run_step
from mixer_spec.reference.layers import COMPUTE
from mixer_spec.weights import validate

Weights = dict[str, Array]
Compute = Callable[..., Array]
"""``(layer, own weights, x, run)``, as in ``mixer_spec.reference.layers``."""

ONE_AT_A_TIME = threading.Lock()
"""Two threads that replace the same functions would put each other's back."""


def same(value: Any) -> Any:
    """No change."""
    return value


def no_change(tap: str, x: Array, y: Array) -> Array:
    """What leaves a step, as it is."""
    return y


def the_step_before(tap: str, tables: Sequence[Array]) -> Array:
    """What enters a step: what left the one before."""
    return tables[-1]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """The reference with a mistake; the defaults make none.

    Args:
        spec: the spec as it is read.
        weights: the weights as they are used.
        images: the inputs as they are used.
        compute: what layer kinds do instead.
        arithmetic: of the step that ends in a tap.
        entering: which of the tables so far, the inputs first, enters the step behind them.
        after: sees each step's tap, input and output and says what leaves it.
        taps: the taps as they are returned; the computation goes on with the right ones.
        exported: the weights as they are exported.
        refuses: whether inputs and weights that do not fit are refused.
        sees_taps: whether taps are returned at all.
        profiles: what is claimed.
    """

    spec: Callable[[ModelSpec], ModelSpec] = same
    weights: Callable[[Weights], Weights] = same
    images: Callable[[Array], Array] = same
    compute: Mapping[type[Any], Compute] = dataclasses.field(default_factory=dict)
    arithmetic: Callable[[str], Arithmetic] = lambda tap: Arithmetic(np.float32)
    entering: Callable[[str, Sequence[Array]], Array] = the_step_before
    after: Callable[[str, Array, Array], Array] = no_change
    taps: Callable[[Weights], Weights] = same
    exported: Callable[[Weights], Weights] = same
    refuses: bool = True
    sees_taps: bool = True
    profiles: tuple[Profile, ...] = ("f32-strict",)

    def info(self) -> BackendInfo:
        """See :meth:`mixer_spec.backend.Backend.info`."""
        return BackendInfo(
            name="mutant", versions={}, device="cpu", profiles=self.profiles, taps=self.sees_taps
        )

    def load(self, spec: ModelSpec, weights: Mapping[str, Array], *, profile: str) -> Loaded:
        """See :meth:`mixer_spec.backend.Backend.load`."""
        if self.refuses:
            check_profile(self.info(), profile)
            validate(spec, weights)
        return Loaded(self, spec, self.spec(spec), dict(weights))

    def step(
        self, spec: ModelSpec, tap: str, weights: Weights, x: Array, arithmetic: Arithmetic
    ) -> Array:
        """One step with the mistake in it.

        Args:
            spec: as it is read.
            tap: where the step ends.
            weights: as they are used.
            x: what enters.
            arithmetic: how to add up.
        """
        step = next(step for step in spec.steps if step.tap == tap)
        # The oracle runs the same functions: they are replaced during this call only.
        with ONE_AT_A_TIME, mock.patch.dict(COMPUTE, self.compute), np.errstate(all="ignore"):
            return self.after(tap, x, run_step(step, weights, x, arithmetic))


@dataclass(frozen=True)
class Loaded:
    """A mutant with weights."""

    mutant: Mutant
    spec: ModelSpec
    read: ModelSpec
    held: Weights

    def forward(self, inputs: Array, taps: Sequence[str] = ()) -> Weights:
        """See :meth:`mixer_spec.backend.Model.forward`."""
        mutant = self.mutant
        if mutant.refuses:
            check_inputs(self.spec, inputs, taps)
        weights, tables = mutant.weights(dict(self.held)), [mutant.images(inputs)]
        found = {}
        for step in self.read.steps:
            x = mutant.entering(step.tap, tables)
            y = mutant.step(self.read, step.tap, weights, x, mutant.arithmetic(step.tap))
            tables.append(y)
            found[step.tap] = y
        found = mutant.taps(found)
        return {name: found[name] for name in (*taps, "logits") if name in found}

    def export_weights(self) -> Weights:
        """See :meth:`mixer_spec.backend.Model.export_weights`."""
        return self.mutant.exported(dict(self.held))


@dataclass(frozen=True, kw_only=True)
class Known:
    """A mistake of the catalogue, and what the suite must say of it.

    Args:
        name: the mistake, in words.
        backend: makes it.
        model: of the zoo, where it shows.
        stage: the tap at fault; or the weight, or the argument.
        killer: the family that must find it.
        profile: that it is judged in.
        limit: seconds that one of its calls may take.
    """

    name: str
    backend: Any
    model: str
    stage: str | None
    killer: str = "F01"
    profile: Profile = "f32-strict"
    limit: float = 20.0


def known(
    name: str, mutant: Mutant, stage: str | None, model: str = "mixer", killer: str = "F01"
) -> Known:
    """A mistake of the catalogue."""
    return Known(name=name, backend=mutant, model=model, stage=stage, killer=killer)


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A mistake that changes no number, and why.

    Args:
        name: the mistake, in words.
        backend: makes it.
        model: of the zoo.
        proof: that no input shows it.
        level: up to which it cannot be seen.
    """

    name: str
    backend: Any
    model: str
    proof: str
    level: int = 2
