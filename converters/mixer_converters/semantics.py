"""What weights files do not say: which GELU, and which epsilon; read off a spec and put into one."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixer_spec._fields import Checked
from mixer_spec.layers import Gelu, LayerNorm, SpatialGate
from mixer_spec.model import ModelSpec
from mixer_spec.reference import forward
from mixer_spec.shapes import TokenIds
from mixer_spec.weights import Weights

_CHEAP = 40_000_000_000  # multiply-adds of a forward pass that takes some seconds in float64


@dataclass(frozen=True, kw_only=True, slots=True)
class Semantics:
    """The choices that change numbers and leave no trace in the names or shapes of weights.

    Args:
        gelu: ``"tanh"`` or ``"none"`` (erf); nothing to a model without GELU.
        epsilon: of every LayerNorm, those inside a spatial gate excepted.
        gate_epsilon: of the LayerNorm inside a spatial gate.
    """

    gelu: Literal["tanh", "none"]
    epsilon: float
    gate_epsilon: float

    def within(self, spec: ModelSpec) -> ModelSpec:
        """``spec`` with these choices in place of its own."""
        changed: ModelSpec = _replaced(spec, self, self.epsilon)
        return changed

    def __str__(self) -> str:
        gelu = {"tanh": "tanh GELU", "none": "erf GELU"}[self.gelu]
        gate = "" if self.gate_epsilon == self.epsilon else f" ({self.gate_epsilon:g} in gates)"
        return f"{gelu}, epsilon {self.epsilon:g}{gate}"


NEUTRAL = Semantics(gelu="none", epsilon=1e-6, gate_epsilon=1e-6)
"""Put into two specs before they are compared, so that only what shapes can tell is left."""


def _replaced(part: Any, semantics: Semantics, epsilon: float) -> Any:
    """A layer, or a tuple of them, with the choices put in; ``epsilon`` is that of this place."""
    if isinstance(part, tuple):
        return tuple(_replaced(item, semantics, epsilon) for item in part)
    if isinstance(part, Gelu):
        return Gelu(approximation=semantics.gelu)
    if isinstance(part, LayerNorm):
        return LayerNorm(epsilon=epsilon)
    if not isinstance(part, Checked):
        return part
    inside = semantics.gate_epsilon if isinstance(part, SpatialGate) else epsilon
    fields = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}  # type: ignore[arg-type]
    changed = {n: _replaced(value, semantics, inside) for n, value in fields.items()}
    return part if changed == fields else type(part)(**changed)


def semantics_of(spec: ModelSpec) -> Semantics:
    """The choices of ``spec``; the usual ones where it has no such layer.

    Example:
        >>> from mixer_spec import variant
        >>> str(semantics_of(variant("mixer_b16").spec()))
        'tanh GELU, epsilon 1e-06'
    """
    gelus = [n.layer.approximation for n in spec.nodes() if isinstance(n.layer, Gelu)]
    norms = [n for n in spec.nodes() if isinstance(n.layer, LayerNorm)]
    inside = [n.layer.epsilon for n in norms if ".gate." in n.path]  # type: ignore[union-attr]
    outside = [n.layer.epsilon for n in norms if ".gate." not in n.path]  # type: ignore[union-attr]
    epsilon = (outside or inside or [1e-6])[0]
    return Semantics(
        gelu=(gelus or ["none"])[0], epsilon=epsilon, gate_epsilon=(inside or [epsilon])[0]
    )


def same_but_for_semantics(one: ModelSpec, other: ModelSpec) -> bool:
    """Whether two specs have the same weights and differ in nothing but GELU and epsilon."""
    return NEUTRAL.within(one) == NEUTRAL.within(other)


def effect_on_logits(spec: ModelSpec, other: ModelSpec, weights: Weights) -> float | None:
    """How far two functions of the same weights lie apart: relative L2 of the logits in float64.

    Args:
        spec: one function.
        other: the other; its weights have the same names and shapes.
        weights: of both.

    Returns:
        The distance for one input of noise, or ``None`` if the model is too large to run here, or
        gives no finite logits, or zeros.
    """
    if spec.multiply_adds > _CHEAP:
        return None
    generator = np.random.default_rng(0)
    if isinstance(spec.input, TokenIds):
        inputs: NDArray[Any] = generator.integers(
            spec.input.vocabulary, size=(1, *spec.input.shape)
        )
    else:
        inputs = generator.uniform(-1.0, 1.0, (1, *spec.input.shape))
    with np.errstate(all="ignore"):  # weights may hold NaN, which is no business of this
        one, two = (forward(s, weights, inputs)["logits"] for s in (spec, other))
        distance = float(np.linalg.norm(one - two)) / float(np.linalg.norm(one) or np.nan)
    return distance if math.isfinite(distance) else None
