"""Layers with layers inside: gates and residual branches, and what may stand in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from mixer_spec._fields import Matches
from mixer_spec.shapes import Table

from .attention import Attention
from .base import Layer
from .elementwise import Affine, Gelu, LayerNorm, LayerScale, Silu, TokenNorm
from .mixing import (
    ChannelDense,
    DepthwiseConv,
    GroupChannels,
    TokenDense,
    UngroupChannels,
    UntiedTokenDense,
)


def _halved(table: Table, axis: Literal["token", "channel"]) -> Table:
    if axis == "token":
        return Table(tokens=table.tokens // 2, channels=table.channels)
    return Table(
        tokens=table.tokens, channels=table.channels // 2, grid=table.grid, prefix=table.prefix
    )


def _must_be_even(size: int, axis: str) -> Iterator[str]:
    if size % 2:
        yield f"a gate halves the {axis}s; expected an even number of {axis}s, got {size}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SpatialGate(Layer[Table]):
    """gMLP's spatial gating unit: ``u * layers(v)`` for the halves ``u, v`` of the channels.

    Args:
        layers: what the second half passes through, a norm and a :class:`TokenDense` in the paper.

    Source:
        arXiv:2105.08050, equations (3) and (4).
    """

    kind: ClassVar[str] = "spatial_gate"
    label: ClassVar[str] = "gate"
    layers: tuple[BranchLayer, ...]

    def rules(self, incoming: Table) -> Iterator[str]:
        yield from _must_be_even(incoming.channels, "channel")

    def outgoing(self, incoming: Table) -> Table:
        return _halved(incoming, "channel")

    def nested(self, incoming: Table) -> tuple[tuple[BranchLayer, ...], Table]:
        return self.layers, _halved(incoming, "channel")


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedUnit(Layer[Table]):
    """``value * activation(gate)`` for two halves of an axis: timm's gMixer.

    Args:
        axis: the axis that is halved.
        gate: which half passes through the activation.
        activation: the activation of the gate.

    Source:
        ``GluMlp`` in timm, where the gate is the second half.
    """

    kind: ClassVar[str] = "gated_unit"
    label: ClassVar[str] = "gated_unit"
    axis: Literal["token", "channel"]
    gate: Literal["first", "second"]
    activation: Gelu | Silu

    def rules(self, incoming: Table) -> Iterator[str]:
        size = incoming.tokens if self.axis == "token" else incoming.channels
        yield from _must_be_even(size, self.axis)

    def outgoing(self, incoming: Table) -> Table:
        return _halved(incoming, self.axis)

    def nested(self, incoming: Table) -> tuple[tuple[BranchLayer, ...], Table]:
        return (self.activation,), _halved(incoming, self.axis)


ResidualName = Annotated[str, Matches(r"([a-z][a-z0-9]*_)*(mixing|attention)(_[0-9]+)?")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Residual(Layer[Table]):
    """A named branch with a skip connection: ``X + layers(X)``.

    Args:
        name: ``token_mixing``, ``channel_mixing``, ``gated_mixing``, ``attention`` and the like;
            the fixed pattern keeps it clear of every name that a framework's module owns.
        layers: the branch; it must end in the table that it began with.
    """

    kind: ClassVar[str] = "residual"
    label: ClassVar[str] = "residual"
    name: ResidualName
    layers: tuple[BranchLayer, ...]

    def nested(self, incoming: Table) -> tuple[tuple[BranchLayer, ...], Table]:
        return self.layers, incoming


NormLayer = LayerNorm | Affine
BranchLayer = (
    NormLayer
    | TokenNorm
    | LayerScale
    | Gelu
    | Silu
    | TokenDense
    | UntiedTokenDense
    | ChannelDense
    | DepthwiseConv
    | GroupChannels
    | UngroupChannels
    | SpatialGate
    | GatedUnit
    | Attention
)
