"""What a layer is: its parameters, shapes and cost, each from the incoming shape alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from mixer_spec._fields import Checked
from mixer_spec.shapes import Features, Image, Shape, Table, TokenIds, Vectors

if TYPE_CHECKING:
    from .nesting import BranchLayer


Incoming = TypeVar("Incoming", Image, TokenIds, Vectors, Table, Features)


# --- parameters -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Constant:
    """Initial values that are all ``value``."""

    value: float


@dataclass(frozen=True, slots=True)
class Normal:
    """Initial values drawn from a normal distribution with mean zero."""

    stddev: float


@dataclass(frozen=True, slots=True)
class LecunNormal:
    """A normal of variance ``1 / fan_in``, truncated at two standard deviations (Flax's default)."""


Initial = Constant | Normal | LecunNormal


@dataclass(frozen=True, slots=True)
class Parameter:
    """One weight tensor of a layer.

    Args:
        axes: the word for each axis, as in ``("channel", "channel_out")``.
        shape: the length of each axis.
        initial: the distribution of its initial values.
        fan_in: for kernels, how many products are summed into one output.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    initial: Initial
    fan_in: int | None = None

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)


def scale_parameter(channels: int, initial: Initial = Constant(1.0)) -> Parameter:
    """The factor of each channel."""
    return Parameter(("channel",), (channels,), initial)


def bias_parameter(size: int, axis: str = "channel") -> Parameter:
    """The summand of each value along ``axis``."""
    return Parameter((axis,), (size,), Constant(0.0))


def kernel_parameter(rows: int, columns: int, axes: tuple[str, str], *, fan_in: int) -> Parameter:
    """A matrix whose every output is a sum of ``fan_in`` products."""
    return Parameter(axes, (rows, columns), LecunNormal(), fan_in)


def channel_kernel_parameter(channels: int, features: int) -> Parameter:
    """A matrix that tables are multiplied with from the right."""
    return kernel_parameter(channels, features, ("channel", "channel_out"), fan_in=channels)


# --- the base -------------------------------------------------------------------------------


class Layer(Checked, Generic[Incoming]):
    """One layer of the vocabulary.

    Class attributes:
        accepts: the shape it takes: a model's input, a table or features.
        label: its name in a list; an empty label means that its parameters have the list's name.
        numbered: whether its name carries a counter (``dense_0``, ``gelu_1``).
    """

    __slots__ = ()
    accepts: ClassVar[type[Any]] = Table
    label: ClassVar[str]
    numbered: ClassVar[bool] = False

    def rules(self, incoming: Incoming) -> Iterator[str]:
        """The rules that this layer breaks on ``incoming``, as messages."""
        yield from ()

    def parameters(self, incoming: Incoming) -> Mapping[str, Parameter]:
        """Its own parameters by name, without those of nested layers."""
        return {}

    def outgoing(self, incoming: Incoming) -> Shape:
        """The shape it makes of ``incoming``."""
        return incoming

    def multiply_adds(self, incoming: Incoming) -> int:
        """Products summed in matrix products for one image, without those of nested layers."""
        return 0

    def activations(self, incoming: Incoming) -> int:
        """Values it computes for one image, without those of nested layers."""
        return math.prod(self.outgoing(incoming).shape)

    def nested(self, incoming: Incoming) -> tuple[tuple[BranchLayer, ...], Table] | None:
        """The list of layers inside this one and the table that enters it, if there is one."""
        return None
