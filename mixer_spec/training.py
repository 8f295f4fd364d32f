"""One step of training as data: the loss, the optimiser, what it remembers, and the gradients.

What each computes is written down in ``mixer_spec/reference/``; recipes over many steps are
another matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ._fields import Above, AtMost, Checked, Fraction, NotNegative, PositiveFloat
from .errors import InputError
from .model import ModelSpec
from .weights import Weights, validate


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossEntropy(Checked):
    """The mean over the batch of ``-sum over classes of target * log softmax(logits)``.

    The target of a label is ``1 - label_smoothing`` on its class, and ``label_smoothing`` spread
    evenly over all classes, its own included.

    Args:
        label_smoothing: 0 for none.

    Source:
        arXiv:1512.00567, section 7; PyTorch and Optax define it so too.
    """

    kind: ClassVar[str] = "cross_entropy"
    label_smoothing: Fraction


@dataclass(frozen=True, kw_only=True, slots=True)
class Sgd(Checked):
    """``w - learning_rate * g``.

    Args:
        learning_rate: of this step; a schedule makes another value for each.
    """

    kind: ClassVar[str] = "sgd"
    slots: ClassVar[tuple[str, ...]] = ()
    learning_rate: PositiveFloat


@dataclass(frozen=True, kw_only=True, slots=True)
class Momentum(Checked):
    """``m = decay * m + g``, then ``w - learning_rate * m``.

    The learning rate stays outside of ``m``, and ``g`` enters whole (no dampening).

    Args:
        learning_rate: of this step.
        decay: of the momentum.
        form: ``"nesterov"`` steps along ``decay * m + g``, with the new ``m``, instead.

    Source:
        ``torch.optim.SGD`` with dampening 0 and ``optax.sgd``, which agree.
    """

    kind: ClassVar[str] = "momentum"
    slots: ClassVar[tuple[str, ...]] = ("momentum",)
    learning_rate: PositiveFloat
    decay: Annotated[float, Above(0.0), AtMost(1)]
    form: Literal["classical", "nesterov"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamW(Checked):
    """Adam with weight decay that is decoupled from the moments.

    ``m = beta1 m + (1 - beta1) g``, ``v = beta2 v + (1 - beta2) g^2``, and in step ``t``, the first
    being 1, ``w - learning_rate * (m' / (sqrt(v') + epsilon) + weight_decay * w)`` with
    ``m' = m / (1 - beta1^t)`` and ``v' = v / (1 - beta2^t)``.

    Args:
        learning_rate: of this step; it multiplies the decay too.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        epsilon: outside the root, and not corrected for the bias.
        weight_decay: share of a weight that is taken off, times the learning rate.
        decayed: ends of the names of the weights that decay; ``("kernel",)`` leaves out biases,
            scales and embeddings.

    Source:
        arXiv:1711.05101, algorithm 2, without its schedule, as ``torch.optim.AdamW`` and
        ``optax.adamw`` compute it.
    """

    kind: ClassVar[str] = "adamw"
    slots: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment")
    learning_rate: PositiveFloat
    beta1: Fraction
    beta2: Fraction
    epsilon: PositiveFloat
    weight_decay: NotNegative
    decayed: tuple[str, ...]

    def broken_rules(self) -> Iterator[str]:
        """A moment that never takes in a gradient has no bias correction."""
        for name in ("beta1", "beta2"):
            if getattr(self, name) == 1.0:
                yield f"{name} is too large; expected below 1, got 1.0"


Optimiser = Sgd | Momentum | AdamW


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainState:
    """Everything that one step of training hands to the next, in canonical names.

    Args:
        step: how many steps were taken.
        weights: as they are after that step.
        slots: what the optimiser remembers: for each of its ``slots`` an array for every weight.
    """

    step: int
    weights: Weights
    slots: Mapping[str, Weights]


def initial_state(optimiser: Optimiser, weights: Weights) -> TrainState:
    """The state before the first step: nothing remembered, in the dtypes of ``weights``.

    Example:
        >>> momentum = Momentum(learning_rate=0.1, decay=0.9, form="classical")
        >>> initial_state(momentum, {"head.bias": np.ones(2)}).slots
        {'momentum': {'head.bias': array([0., 0.])}}
    """
    slots = {
        slot: {name: np.zeros_like(array) for name, array in weights.items()}
        for slot in optimiser.slots
    }
    return TrainState(step=0, weights=weights, slots=slots)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gradients:
    """The derivatives of one number.

    Args:
        weights: canonical name to array of the weight's shape, for every weight.
        inputs: of the inputs' shape; ``None`` for ids of words, which have no derivative.
    """

    weights: Weights
    inputs: NDArray[Any] | None


def check_cotangents(spec: ModelSpec, batch: int, cotangents: Mapping[str, NDArray[Any]]) -> None:
    """Refuse cotangents that do not fit the taps of ``spec``; every ``vjp`` calls this.

    Args:
        spec: the architecture.
        batch: length of the inputs' first axis.
        cotangents: should be tap to floating array of the tap's shape, at least one.

    Raises:
        InputError: with every rule broken.
    """
    shapes = {step.tap: (batch, *step.outgoing.shape) for step in spec.steps}
    problems = [] if cotangents else ["nothing to differentiate; expected a tap, got none"]
    for tap, array in cotangents.items():
        if tap not in shapes:
            problems.append(f"unknown tap {tap!r}; expected names like {list(spec.taps[:3])}")
        elif not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.floating):
            kind = getattr(array, "dtype", type(array).__name__)
            problems.append(f"{tap}: wrong dtype; expected a floating NumPy array, got {kind}")
        elif array.shape != shapes[tap]:
            expected, got = list(shapes[tap]), list(array.shape)
            problems.append(f"{tap}: wrong shape; expected {expected}, got {got}")
    if problems:
        raise InputError("cotangents", problems)


def check_labels(spec: ModelSpec, batch: int, labels: NDArray[Any]) -> None:
    """Refuse labels ``[batch]`` that are not one class for each input; each ``train_step`` calls it.

    Raises:
        InputError: naming the rule broken.
    """
    if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
        kind = getattr(labels, "dtype", type(labels).__name__)
        raise InputError("labels", f"wrong dtype; expected whole numbers (int64), got {kind}")
    if labels.shape != (batch,):
        raise InputError("labels", f"wrong shape; expected [{batch}], got {list(labels.shape)}")
    if not 0 <= labels.min() <= labels.max() < spec.classes:
        raise InputError(
            "labels",
            f"outside of the classes; expected 0 to {spec.classes - 1}, "
            f"got {labels.min()} to {labels.max()}",
        )


def check_state(spec: ModelSpec, optimiser: Optimiser, state: TrainState) -> None:
    """Refuse a state that is not of this optimiser and spec; every ``train_step`` calls this.

    Raises:
        InputError: if the slots are another optimiser's.
        WeightsError: if the weights, or the arrays of a slot, do not fit the spec.
    """
    if state.slots.keys() != {*optimiser.slots}:
        raise InputError(
            "state",
            f"slots of another optimiser; expected {sorted(optimiser.slots)} for "
            f"{optimiser.kind}, got {sorted(state.slots)}",
        )
    validate(spec, state.weights, where="state.weights")
    for slot, arrays in state.slots.items():
        validate(spec, arrays, where=f"state.slots.{slot}")
