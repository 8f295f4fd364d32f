"""The layer vocabulary: every kind's fields, parameters, shapes and cost.

A layer is a frozen value. It maps the incoming shape to its parameters (in canonical
orientation) and to the outgoing shape; what it computes is written down in
``mixer_spec/reference/layers.py``. Fields that change a number have no default.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from ._fields import Checked, Count, Index, Matches, PositiveFloat
from .shapes import Features, Image, Shape, Table

Incoming = TypeVar("Incoming", Image, Table, Features)


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


def _scale(channels: int, initial: Initial = Constant(1.0)) -> Parameter:
    return Parameter(("channel",), (channels,), initial)


def _bias(size: int, axis: str = "channel") -> Parameter:
    return Parameter((axis,), (size,), Constant(0.0))


def _kernel(rows: int, columns: int, axes: tuple[str, str], *, fan_in: int) -> Parameter:
    return Parameter(axes, (rows, columns), LecunNormal(), fan_in)


def _channel_kernel(channels: int, features: int) -> Parameter:
    return _kernel(channels, features, ("channel", "channel_out"), fan_in=channels)


# --- the base -------------------------------------------------------------------------------


class Layer(Checked, Generic[Incoming]):
    """One layer of the vocabulary.

    Class attributes:
        accepts: the shape it takes: an image, a table or features.
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


# --- stems ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchEmbed(Layer[Image]):
    """Linear map of each non-overlapping patch: ``image -> [token, channel]``.

    Tokens are in row-major order of the patches; the pixels of a patch are in
    (row, column, rgb) order, so the kernel is a matrix over its first three axes.

    Args:
        patch: ``(height, width)`` of a patch in pixels.
        features: channels of the table.

    Source:
        arXiv:2105.01601, section 2: "per-patch fully-connected"; ``stem`` in models_mixer.py.
    """

    kind: ClassVar[str] = "patch_embed"
    label: ClassVar[str] = ""
    accepts: ClassVar[type[Any]] = Image
    patch: tuple[Count, Count]
    features: Count

    def rules(self, incoming: Image) -> Iterator[str]:
        for axis, size, patch in zip(
            ("height", "width"), (incoming.height, incoming.width), self.patch, strict=True
        ):
            if size % patch:
                yield (
                    f"the image's {axis} must be a multiple of the patch's; "
                    f"expected {size} % {patch} == 0, got {size % patch}"
                )

    def parameters(self, incoming: Image) -> Mapping[str, Parameter]:
        height, width = self.patch
        axes = ("patch_row", "patch_column", "rgb", "channel")
        shape = (height, width, incoming.channels, self.features)
        kernel = Parameter(axes, shape, LecunNormal(), fan_in=height * width * incoming.channels)
        return {"kernel": kernel, "bias": _bias(self.features)}

    def outgoing(self, incoming: Image) -> Table:
        rows, columns = incoming.height // self.patch[0], incoming.width // self.patch[1]
        return Table(tokens=rows * columns, channels=self.features, grid=(rows, columns))

    def multiply_adds(self, incoming: Image) -> int:
        return self.outgoing(incoming).tokens * self.parameters(incoming)["kernel"].size


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassToken(Layer[Table]):
    """A learned token put in front of the others (ViT); it becomes token 0.

    Source:
        arXiv:2010.11929, equation (1).
    """

    kind: ClassVar[str] = "class_token"
    label: ClassVar[str] = "class_token"

    def parameters(self, incoming: Table) -> Mapping[str, Parameter]:
        axes = ("token", "channel")
        return {"embedding": Parameter(axes, (1, incoming.channels), Constant(0.0))}

    def outgoing(self, incoming: Table) -> Table:
        return Table(
            tokens=incoming.tokens + 1,
            channels=incoming.channels,
            grid=incoming.grid,
            prefix=incoming.prefix + 1,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionEmbedding(Layer[Table]):
    """A learned table added to the tokens (ViT): ``X + E``.

    Source:
        arXiv:2010.11929, equation (1); initial standard deviation 0.02 as in models_vit.py.
    """

    kind: ClassVar[str] = "position_embedding"
    label: ClassVar[str] = "position"

    def parameters(self, incoming: Table) -> Mapping[str, Parameter]:
        return {"embedding": Parameter(("token", "channel"), incoming.shape, Normal(0.02))}


# --- norms and element-wise layers ----------------------------------------------------------


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
        return {"scale": _scale(incoming.channels), "bias": _bias(incoming.channels)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Affine(Layer[Table]):
    """``x * scale + bias`` per channel: ResMLP's norm.

    Source:
        arXiv:2105.03404, equation (1).
    """

    kind: ClassVar[str] = "affine"
    label: ClassVar[str] = "norm"

    def parameters(self, incoming: Table) -> Mapping[str, Parameter]:
        return {"scale": _scale(incoming.channels), "bias": _bias(incoming.channels)}


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
        return {"scale": _scale(incoming.channels, Constant(0.1))}


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


# --- mixing ---------------------------------------------------------------------------------


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
        kernel = _kernel(self.features, incoming.tokens, axes, fan_in=incoming.tokens)
        return {"kernel": kernel, "bias": _bias(self.features, "token_out")}

    def outgoing(self, incoming: Table) -> Table:
        return Table(tokens=self.features, channels=incoming.channels)

    def multiply_adds(self, incoming: Table) -> int:
        return self.features * incoming.tokens * incoming.channels


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
            "kernel": _channel_kernel(incoming.channels, self.features),
            "bias": _bias(self.features, "channel_out"),
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
            found[f"{name}.kernel"] = _channel_kernel(incoming.channels, incoming.channels)
            found[f"{name}.bias"] = _bias(incoming.channels, "channel_out")
        return found

    def multiply_adds(self, incoming: Table) -> int:
        tokens, channels = incoming.shape
        return 4 * tokens * channels * channels + 2 * tokens * tokens * channels

    def activations(self, incoming: Table) -> int:
        """Query, key, value, the weighted sum and the output, and each head's softmax."""
        tokens, channels = incoming.shape
        return 5 * tokens * channels + self.heads * tokens * tokens


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


# --- pool and head --------------------------------------------------------------------------


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
        return {"kernel": kernel, "bias": _bias(self.classes, "class")}

    def outgoing(self, incoming: Features) -> Features:
        return Features(channels=self.classes)

    def multiply_adds(self, incoming: Features) -> int:
        return incoming.channels * self.classes


# --- where each kind may stand --------------------------------------------------------------

StemLayer = PatchEmbed
EmbeddingLayer = ClassToken | PositionEmbedding
NormLayer = LayerNorm | Affine
BranchLayer = (
    NormLayer
    | LayerScale
    | Gelu
    | Silu
    | TokenDense
    | ChannelDense
    | SpatialGate
    | GatedUnit
    | Attention
)
PoolLayer = MeanPool | TakeToken
AnyLayer = StemLayer | EmbeddingLayer | BranchLayer | Residual | PoolLayer | Head
