"""Multi-head self-attention, for ViT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from mixer_spec._fields import Count
from mixer_spec.shapes import Table

from .base import Layer, Parameter, bias_parameter, channel_kernel_parameter


@dataclass(frozen=True, kw_only=True, slots=True)
class Attention(Layer[Table]):
    """Multi-head self-attention: softmax of ``q k / sqrt(channels / heads)`` over the tokens.

    Args:
        heads: number of heads; head ``h`` owns channels ``h * size`` to ``(h + 1) * size``.

    Source:
        arXiv:2010.11929, equations (5) to (8) of appendix A.
    """

    kind: ClassVar[str] = "attention"
    label: ClassVar[str] = "attention"
    heads: Count

    def rules(self, incoming: Table) -> Iterator[str]:
        if incoming.channels % self.heads:
            yield (
                f"the heads must divide the channels; "
                f"expected {incoming.channels} % {self.heads} == 0, "
                f"got {incoming.channels % self.heads}"
            )

    def parameters(self, incoming: Table) -> Mapping[str, Parameter]:
        found = {}
        for name in ("query", "key", "value", "out"):
            found[f"{name}.kernel"] = channel_kernel_parameter(incoming.channels, incoming.channels)
            found[f"{name}.bias"] = bias_parameter(incoming.channels, "channel_out")
        return found

    def multiply_adds(self, incoming: Table) -> int:
        tokens, channels = incoming.shape
        return 4 * tokens * channels * channels + 2 * tokens * tokens * channels

    def activations(self, incoming: Table) -> int:
        """Query, key, value, the weighted sum and the output, and each head's softmax."""
        tokens, channels = incoming.shape
        return 5 * tokens * channels + self.heads * tokens * tokens
