"""What a case family is, and what it is given: the backend, a model of the zoo, and problems."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mixer_conformance.findings import Finding, of_taps
from mixer_conformance.measure import Array
from mixer_conformance.precision import PRECISIONS
from mixer_conformance.problem import Problem, conformance_problem, remembered
from mixer_conformance.subject import Loaded, Subject
from mixer_conformance.trained import trained_problem
from mixer_spec import ModelSpec
from mixer_spec.backend import Profile
from mixer_spec.layers import AnyLayer
from mixer_spec.shapes import TokenIds
from mixer_spec.weights import Weights

from .zoo import WITH_WEIGHTS, Effort, ZooModel

FLOATING: tuple[Profile, ...] = ("f64", "f32-strict", "f32-tf32", "f32-bf16mm", "bf16", "fp16")
"""The profiles that round and do not quantise."""

WIDE: tuple[Profile, ...] = ("f64", "f32-strict", "f32-tf32", "f32-bf16mm")
"""The profiles that keep float32 or more between the layers."""

EVERY: tuple[Profile, ...] = tuple(PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One backend on one model of the zoo; shared by the case families that are run on it.

    Args:
        subject: the backend.
        model: of the zoo.
        spec: its architecture.
        seed: of weights and inputs.
        effort: how much is run.
    """

    subject: Subject
    model: ZooModel
    spec: ModelSpec
    seed: int
    effort: Effort

    @functools.cached_property
    def standard(self) -> Problem:
        """Conformance weights and inputs; of a trained model, its own and real images."""
        return self.problem("standard", lambda standard: standard)

    @functools.cached_property
    def loaded(self) -> Loaded:
        """The model with conformance weights."""
        return self.load(self.standard.weights)

    def load(self, weights: Weights, spec: ModelSpec | None = None) -> Loaded:
        """The model with other weights, or another model."""
        return self.subject.load(spec or self.spec, weights)

    def problem(self, label: str, change: Callable[[Problem], Problem]) -> Problem:
        """The standard problem, changed; ``label`` names the change among all of a model's."""
        return remembered(
            self.spec,
            self.subject.precision,
            self.seed,
            label,
            lambda: change(self._given()),
        )

    def _given(self) -> Problem:
        precision = self.subject.precision
        if self.model.group == WITH_WEIGHTS:
            return trained_problem(precision, seed=self.seed)
        return conformance_problem(self.spec, precision, seed=self.seed)

    def judged(self, problem: Problem) -> Finding:
        """The backend's run of a problem, held against its standards."""
        loaded = self.loaded if problem is self.standard else self.load(problem.weights)
        return of_taps(problem.judge(loaded.forward(problem.inputs)))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One family of cases.

    Args:
        id: ``F01`` to ``F30``.
        title: what is done.
        catches: the mistakes that it is for.
        level: 0 structure, 1 logits, 2 taps, 3 gradients, 4 optimiser.
        suits: whether it is run on a model.
        check: looks at one model; what it finds, in the order of computation.
        profiles: the arithmetics that it makes sense in.
        quick: the only models of a quick run, for a case that takes its time.
        in_process: why files cannot ask it, where they cannot: what the backend must be here for.
        optional: whether a backend may do without and reach the level all the same.
    """

    id: str
    title: str
    catches: str
    level: int
    suits: Callable[[ZooModel, ModelSpec], bool]
    check: Callable[[Trial], Iterable[Finding]]
    profiles: tuple[Profile, ...] = FLOATING
    quick: tuple[str, ...] | None = None
    in_process: str = ""
    optional: bool = False


# --- which models ------------------------------------------------------------------------------


def on_every(model: ZooModel, spec: ModelSpec) -> bool:
    """Every model."""
    return True


def on_small(model: ZooModel, spec: ModelSpec) -> bool:
    """The models of the zoo that are no published variants."""
    return model.group in ("Z0", "Z1", "Z2", "Z3")


def on_families(model: ZooModel, spec: ModelSpec) -> bool:
    """One small model of every family."""
    return model.group == "Z1"


def on(*names: str) -> Callable[[ZooModel, ModelSpec], bool]:
    """The models of these names."""
    return lambda model, spec: model.name in names


def has(spec: ModelSpec, *kinds: type[AnyLayer]) -> bool:
    """Whether any layer is of one of the kinds."""
    return any(isinstance(node.layer, kinds) for node in spec.nodes())


def takes_numbers(spec: ModelSpec) -> bool:
    """Whether the inputs are pixels or vectors, and not the ids of words."""
    return not isinstance(spec.input, TokenIds)


# --- changes of weights ------------------------------------------------------------------------


def scaled(weights: Weights, factor: float, names: Iterable[str]) -> dict[str, Array]:
    """The named weights times ``factor``, which should be a power of two."""
    return {name: weights[name] * np.float32(factor) for name in names}


def zeros(weights: Weights, names: Iterable[str]) -> dict[str, Array]:
    """The named weights, all zero."""
    return {name: np.zeros_like(weights[name]) for name in names}


def branch_ends(spec: ModelSpec) -> Mapping[str, tuple[str, ...]]:
    """Of each branch, by the tap behind it: the weights of its last layer that has any.

    Example:
        >>> from mixer_spec import families
        >>> spec = families.resmlp(image_size=8, patch=4, channels=6, depth=1, classes=3)
        >>> branch_ends(spec)["blocks.0.token_mixing"]
        ('blocks.0.token_mixing.scale.scale',)
    """
    found = {}
    for step in spec.steps:
        if step.tap.startswith("blocks."):
            (*_, last) = (node for node in step.nodes[-1].walk() if node.own_parameters)
            found[step.tap] = tuple(f"{last.path}.{name}" for name in last.own_parameters)
    return found
