"""Models of an image's patches: what their builders put in front of the blocks and behind them."""

from __future__ import annotations

from .blocks import NORM
from .errors import SpecError
from .layers import (
    ClassToken,
    EmbeddingLayer,
    Head,
    MeanPool,
    NormLayer,
    PatchEmbed,
    PoolLayer,
    PositionEmbedding,
    Residual,
    TakeToken,
)
from .model import ModelSpec, Stage
from .shapes import Image, ImageSize


def image_and_tokens(image_size: ImageSize, patch: int) -> tuple[Image, int]:
    """The RGB image and how many whole patches it holds; the spec refuses a remainder.

    Raises:
        SpecError: if the image has other than two sides.
    """
    sides = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    if len(sides) != 2:
        raise SpecError(
            "image_size", f"must be one number or (height, width); expected 2 sides, got {sides}"
        )
    height, width = sides
    image = Image(height=height, width=width, channels=3)
    # At least 1, so that only the rule about the remainder is reported for a small image.
    return image, max(1, (image.height // patch) * (image.width // patch)) if patch else 1


def repeated(block: tuple[Residual, ...], depth: int) -> tuple[Stage, ...]:
    """One stage of ``depth`` equal blocks."""
    return (Stage(transition=(), block=block, depth=depth),)


def of_patches(
    image: Image,
    patch: int,
    channels: int,
    stages: tuple[Stage, ...],
    classes: int,
    *,
    norm: NormLayer = NORM,
    embeddings: tuple[EmbeddingLayer, ...] = (),
    pool: PoolLayer = MeanPool(),  # noqa: B008 - a frozen value
) -> ModelSpec:
    """Patches, blocks, a norm, one vector of the tokens and a classifier."""
    return ModelSpec(
        input=image,
        stem=PatchEmbed(patch=(patch, patch), features=channels),
        embeddings=embeddings,
        stages=stages,
        norm=norm,
        pool=pool,
        head=Head(classes=classes),
    )


def with_class_token(
    image: Image, patch: int, channels: int, stages: tuple[Stage, ...], classes: int
) -> ModelSpec:
    """As :func:`of_patches`, with positions, classified by a token of its own."""
    embeddings = (ClassToken(), PositionEmbedding())
    pool = TakeToken(index=0)
    return of_patches(image, patch, channels, stages, classes, embeddings=embeddings, pool=pool)
