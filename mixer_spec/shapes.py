"""What flows between layers, without the batch axis: an input, a table of tokens, a feature vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._fields import Checked, Count


@dataclass(frozen=True, kw_only=True, slots=True)
class Image(Checked):
    """Pixels ``[height, width, channel]``; the channels of a photo are red, green, blue.

    Args:
        height: rows of pixels.
        width: columns of pixels.
        channels: values per pixel, 3 for RGB.
    """

    kind: ClassVar[str] = "image"
    noun: ClassVar[str] = "an image"
    axes: ClassVar[tuple[str, ...]] = ("height", "width", "rgb")
    height: Count
    width: Count
    channels: Count

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(height, width, channel)``."""
        return self.height, self.width, self.channels

    def __str__(self) -> str:
        return f"[height {self.height}, width {self.width}, channel {self.channels}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenIds(Checked):
    """A sequence of whole numbers ``[token]``, each the number of a word in a vocabulary.

    Args:
        tokens: the fixed length of the sequence.
        vocabulary: how many words there are; ids run from 0 to one below.
    """

    kind: ClassVar[str] = "token_ids"
    noun: ClassVar[str] = "ids of words"
    axes: ClassVar[tuple[str, ...]] = ("token",)
    tokens: Count
    vocabulary: Count

    @property
    def shape(self) -> tuple[int]:
        """``(token,)``."""
        return (self.tokens,)

    def __str__(self) -> str:
        return f"[token {self.tokens}] of {self.vocabulary} words"


@dataclass(frozen=True, kw_only=True, slots=True)
class Vectors(Checked):
    """A sequence of vectors ``[token, channel]``: samples of a signal, rows of a table.

    Args:
        tokens: the fixed length of the sequence.
        channels: values in each vector.
    """

    kind: ClassVar[str] = "vectors"
    noun: ClassVar[str] = "vectors"
    axes: ClassVar[tuple[str, ...]] = ("token", "channel")
    tokens: Count
    channels: Count

    @property
    def shape(self) -> tuple[int, int]:
        """``(token, channel)``."""
        return self.tokens, self.channels

    def __str__(self) -> str:
        return f"[token {self.tokens}, channel {self.channels}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Tokens ``[token, channel]``, the paper's matrix X.

    Args:
        tokens: rows of the table.
        channels: columns of the table.
        grid: the patch grid ``(rows, columns)`` that the last tokens lie on in row-major order;
            ``None`` when the tokens have no place in an image (inside a token-mixing branch).
        prefix: tokens in front of the grid (class tokens).
    """

    noun: ClassVar[str] = "a table of tokens"
    tokens: int
    channels: int
    grid: tuple[int, int] | None = None
    prefix: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """``(token, channel)``."""
        return self.tokens, self.channels

    def __str__(self) -> str:
        return f"[token {self.tokens}, channel {self.channels}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """One vector ``[channel]`` per input: the pooled features, or the logits."""

    noun: ClassVar[str] = "one vector"
    channels: int

    @property
    def shape(self) -> tuple[int]:
        """``(channel,)``."""
        return (self.channels,)

    def __str__(self) -> str:
        return f"[channel {self.channels}]"


ImageSize = int | tuple[int, int]
"""Pixels of a square image's side, or ``(height, width)``."""

ModelInput = Image | TokenIds | Vectors
Shape = ModelInput | Table | Features
