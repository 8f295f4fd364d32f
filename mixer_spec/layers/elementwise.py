"""Norms, scales and activations: layers that keep the shape of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from mixer_spec._fields import PositiveFloat
from mixer_spec.shapes import Table

from .base import Constant, Layer, Parameter, bias_parameter, scale_parameter


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerNorm(Layer[Table]):
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` over the channels of a token.

    The variance is the population's (divided by the number of channels), computed in two passes.

    Args:
        epsilon: inside the root. Flax and timm's Mixer use 1e-6, PyTorch's default is 1e-5.
    """

    kind: ClassVar[str] = "layer_norm"
    label: ClassVar[str] = "norm"
    epsilon: PositiveFloat

    def parameters(self, incoming: Table) -> Mapping[str, Parameter]:
        return {
            "scale": scale_parameter(incoming.channels),
            "bias": bias_parameter(incoming.channels),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenNorm(Layer[Table]):
    """Layer normalisation of each channel over the tokens, as if the table were transposed.

    Args:
        epsilon: inside the root.

    Source:
        ``LinearBlock.norm2`` in vision_transformer_linear.py, the code of arXiv:2105.02723.
    """

    kind: ClassVar[str] = "token_norm"
    label: ClassVar[str] = "norm"
    epsilon: PositiveFloat

    def parameters(self, incoming: Table) -> Mapping[str, Parameter]:
        scale = Parameter(("token",), (incoming.tokens,), Constant(1.0))
        return {"scale": scale, "bias": bias_parameter(incoming.tokens, "token")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Affine(Layer[Table]):
    """``x * scale + bias`` per channel: ResMLP's norm.

    Source:
        arXiv:2105.03404, equation (1).
    """

    kind: ClassVar[str] = "affine"
    label: ClassVar[str] = "norm"

    def parameters(self, incoming: Table) -> Mapping[str, Parameter]:
        return {
            "scale": scale_parameter(incoming.channels),
            "bias": bias_parameter(incoming.channels),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerScale(Layer[Table]):
    """``x * scale`` per channel, small at first (ResMLP, CaiT).

    Source:
        arXiv:2105.03404, section 2; the initial value depends on the depth of the model, so
        published ones stand with their variants.
    """

    kind: ClassVar[str] = "layer_scale"
    label: ClassVar[str] = "scale"

    def parameters(self, incoming: Table) -> Mapping[str, Parameter]:
        return {"scale": scale_parameter(incoming.channels, Constant(0.1))}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gelu(Layer[Table]):
    """Gaussian error linear unit.

    Args:
        approximation: ``"none"`` is ``x Phi(x)`` by erf, as in timm; ``"tanh"`` is the
            approximation that Google's Flax code runs. They differ by up to 4.7e-4 per value.
    """

    kind: ClassVar[str] = "gelu"
    label: ClassVar[str] = "gelu"
    numbered: ClassVar[bool] = True
    approximation: Literal["none", "tanh"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Silu(Layer[Table]):
    """``x / (1 + exp(-x))``."""

    kind: ClassVar[str] = "silu"
    label: ClassVar[str] = "silu"
    numbered: ClassVar[bool] = True
