"""Stems: from the input to the first table of tokens; and what joins the tokens there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mixer_spec._fields import Count
from mixer_spec.shapes import Image, Table, TokenIds, Vectors

from .base import (
    Constant,
    Layer,
    LecunNormal,
    Normal,
    Parameter,
    bias_parameter,
    channel_kernel_parameter,
)


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
        return {"kernel": kernel, "bias": bias_parameter(self.features)}

    def outgoing(self, incoming: Image) -> Table:
        rows, columns = incoming.height // self.patch[0], incoming.width // self.patch[1]
        return Table(tokens=rows * columns, channels=self.features, grid=(rows, columns))

    def multiply_adds(self, incoming: Image) -> int:
        return self.outgoing(incoming).tokens * self.parameters(incoming)["kernel"].size


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenEmbed(Layer[TokenIds]):
    """One learned vector for each word: ``[token] -> [token, channel]``.

    Args:
        features: channels of the table.

    Source:
        arXiv:1810.04805 (BERT), initial standard deviation 0.02.
    """

    kind: ClassVar[str] = "token_embed"
    label: ClassVar[str] = ""
    accepts: ClassVar[type[Any]] = TokenIds
    features: Count

    def parameters(self, incoming: TokenIds) -> Mapping[str, Parameter]:
        shape = (incoming.vocabulary, self.features)
        return {"embedding": Parameter(("word", "channel"), shape, Normal(0.02))}

    def outgoing(self, incoming: TokenIds) -> Table:
        return Table(tokens=incoming.tokens, channels=self.features)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearEmbed(Layer[Vectors]):
    """Linear map of each vector of a sequence: ``[token, channel] -> [token, channel_out]``.

    Args:
        features: channels of the table.

    Source:
        arXiv:2105.01601, section 2: the per-patch map, of vectors that are no patches.
    """

    kind: ClassVar[str] = "linear_embed"
    label: ClassVar[str] = ""
    accepts: ClassVar[type[Any]] = Vectors
    features: Count

    def parameters(self, incoming: Vectors) -> Mapping[str, Parameter]:
        return {
            "kernel": channel_kernel_parameter(incoming.channels, self.features),
            "bias": bias_parameter(self.features, "channel_out"),
        }

    def outgoing(self, incoming: Vectors) -> Table:
        return Table(tokens=incoming.tokens, channels=self.features)

    def multiply_adds(self, incoming: Vectors) -> int:
        return incoming.tokens * incoming.channels * self.features


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
