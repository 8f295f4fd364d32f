"""Linear maps of the tokens or of the channels, and the rearrangements between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from mixer_spec._fields import Count
from mixer_spec.shapes import Table

from .base import (
    Constant,
    Layer,
    LecunNormal,
    Parameter,
    bias_parameter,
    channel_kernel_parameter,
    kernel_parameter,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenDense(Layer[Table]):
    """Linear map of the tokens, the same for every channel: ``W X + b``.

    Args:
        features: tokens of the outgoing table.
    """

    kind: ClassVar[str] = "token_dense"
    label: ClassVar[str] = "dense"
    numbered: ClassVar[bool] = True
    features: Count

    def parameters(self, incoming: Table) -> Mapping[str, Parameter]:
        axes = ("token_out", "token")
        kernel = kernel_parameter(self.features, incoming.tokens, axes, fan_in=incoming.tokens)
        return {"kernel": kernel, "bias": bias_parameter(self.features, "token_out")}

    def outgoing(self, incoming: Table) -> Table:
        return Table(tokens=self.features, channels=incoming.channels)

    def multiply_adds(self, incoming: Table) -> int:
        return self.features * incoming.tokens * incoming.channels


@dataclass(frozen=True, kw_only=True, slots=True)
class UntiedTokenDense(Layer[Table]):
    """Linear map of the tokens, another one for each channel: ``y_c = W_c x_c + b_c``.

    Args:
        features: tokens of the outgoing table.

    Source:
        arXiv:2105.01601, appendix A.1, "untying (not sharing) the parameters".
    """

    kind: ClassVar[str] = "untied_token_dense"
    label: ClassVar[str] = "dense"
    numbered: ClassVar[bool] = True
    features: Count

    def parameters(self, incoming: Table) -> Mapping[str, Parameter]:
        tokens, channels = incoming.shape
        axes = ("channel", "token_out", "token")
        shape = (channels, self.features, tokens)
        bias = Parameter(("channel", "token_out"), (channels, self.features), Constant(0.0))
        return {"kernel": Parameter(axes, shape, LecunNormal(), fan_in=tokens), "bias": bias}

    def outgoing(self, incoming: Table) -> Table:
        return Table(tokens=self.features, channels=incoming.channels)

    def multiply_adds(self, incoming: Table) -> int:
        return self.features * incoming.tokens * incoming.channels


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthwiseConv(Layer[Table]):
    """Convolution of each channel over the patch grid, with zeros around it.

    ``y[r, c] = b + sum over i, j of kernel[i, j] * x[r + i - height // 2, c + j - width // 2]``
    for every channel by itself.

    Args:
        window: ``(height, width)`` of the kernel in tokens, both odd.

    Source:
        arXiv:2105.03404, table 3: the ablations "conv 3x3 dw" and "conv 3x3 dw-sep".
    """

    kind: ClassVar[str] = "depthwise_conv"
    label: ClassVar[str] = "conv"
    window: tuple[Count, Count]

    def rules(self, incoming: Table) -> Iterator[str]:
        if incoming.grid is None or incoming.prefix:
            yield (
                "a convolution needs tokens that lie on a grid; expected the patches of an image "
                f"and nothing else, got {incoming}"
                + (f" with {incoming.prefix} in front of the grid" if incoming.prefix else "")
            )
        if not all(side % 2 for side in self.window):
            yield f"a window has a middle; expected odd sides, got {self.window}"

    def parameters(self, incoming: Table) -> Mapping[str, Parameter]:
        height, width = self.window
        axes, shape = ("row", "column", "channel"), (height, width, incoming.channels)
        kernel = Parameter(axes, shape, LecunNormal(), fan_in=height * width)
        return {"kernel": kernel, "bias": bias_parameter(incoming.channels)}

    def multiply_adds(self, incoming: Table) -> int:
        height, width = self.window
        return incoming.tokens * incoming.channels * height * width


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupChannels(Layer[Table]):
    """Concatenate ``groups`` neighbouring channels: ``[S, C] -> [S groups, C / groups]``.

    Column ``j`` of the result is column ``j groups`` of the table, then column ``j groups + 1``
    and so on: ``y[g S + s, j] = x[s, j groups + g]``.

    Args:
        groups: how many channels become one.

    Source:
        arXiv:2105.01601, appendix A.1, "grouping the channels together".
    """

    kind: ClassVar[str] = "group_channels"
    label: ClassVar[str] = "group"
    groups: Count

    def rules(self, incoming: Table) -> Iterator[str]:
        if incoming.channels % self.groups:
            yield (
                f"the groups must divide the channels; expected {incoming.channels} % "
                f"{self.groups} == 0, got {incoming.channels % self.groups}"
            )

    def outgoing(self, incoming: Table) -> Table:
        return Table(
            tokens=incoming.tokens * self.groups, channels=incoming.channels // self.groups
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class UngroupChannels(Layer[Table]):
    """The inverse of :class:`GroupChannels`: ``[S groups, C] -> [S, C groups]``.

    Args:
        groups: how many channels one becomes.
    """

    kind: ClassVar[str] = "ungroup_channels"
    label: ClassVar[str] = "ungroup"
    groups: Count

    def rules(self, incoming: Table) -> Iterator[str]:
        if incoming.tokens % self.groups:
            yield (
                f"the groups must divide the tokens; expected {incoming.tokens} % "
                f"{self.groups} == 0, got {incoming.tokens % self.groups}"
            )

    def outgoing(self, incoming: Table) -> Table:
        return Table(
            tokens=incoming.tokens // self.groups, channels=incoming.channels * self.groups
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelDense(Layer[Table]):
    """Linear map of the channels, the same for every token: ``X W + b``.

    Args:
        features: channels of the outgoing table.
    """

    kind: ClassVar[str] = "channel_dense"
    label: ClassVar[str] = "dense"
    numbered: ClassVar[bool] = True
    features: Count

    def parameters(self, incoming: Table) -> Mapping[str, Parameter]:
        return {
            "kernel": channel_kernel_parameter(incoming.channels, self.features),
            "bias": bias_parameter(self.features, "channel_out"),
        }

    def outgoing(self, incoming: Table) -> Table:
        return Table(
            tokens=incoming.tokens,
            channels=self.features,
            grid=incoming.grid,
            prefix=incoming.prefix,
        )

    def multiply_adds(self, incoming: Table) -> int:
        return incoming.tokens * incoming.channels * self.features
