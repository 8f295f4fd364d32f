"""From the tokens to one vector, and from that to the logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mixer_spec._fields import Count, Index
from mixer_spec.shapes import Features, Table

from .base import Constant, Layer, Parameter, bias_parameter


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanPool(Layer[Table]):
    """The mean of all tokens: ``[token, channel] -> [channel]``."""

    kind: ClassVar[str] = "mean_pool"
    label: ClassVar[str] = "pool"

    def outgoing(self, incoming: Table) -> Features:
        return Features(channels=incoming.channels)


@dataclass(frozen=True, kw_only=True, slots=True)
class TakeToken(Layer[Table]):
    """One token: ``[token, channel] -> [channel]``.

    Args:
        index: which token; ViT's class token is 0.
    """

    kind: ClassVar[str] = "take_token"
    label: ClassVar[str] = "pool"
    index: Index

    def rules(self, incoming: Table) -> Iterator[str]:
        if self.index >= incoming.tokens:
            yield f"no such token; expected an index below {incoming.tokens}, got {self.index}"

    def outgoing(self, incoming: Table) -> Features:
        return Features(channels=incoming.channels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Head(Layer[Features]):
    """The classifier: ``x W + b``, zero at first.

    Args:
        classes: number of logits.
    """

    kind: ClassVar[str] = "head"
    label: ClassVar[str] = "head"
    accepts: ClassVar[type[Any]] = Features
    classes: Count

    def parameters(self, incoming: Features) -> Mapping[str, Parameter]:
        shape = (incoming.channels, self.classes)
        kernel = Parameter(("channel", "class"), shape, Constant(0.0), fan_in=incoming.channels)
        return {"kernel": kernel, "bias": bias_parameter(self.classes, "class")}

    def outgoing(self, incoming: Features) -> Features:
        return Features(channels=self.classes)

    def multiply_adds(self, incoming: Features) -> int:
        return incoming.channels * self.classes
