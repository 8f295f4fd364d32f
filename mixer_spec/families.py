"""The papers' own numbers in, a ModelSpec out: one builder for each family."""

from __future__ import annotations

from typing import Literal

from .errors import SpecError
from .layers import (
    Affine,
    Attention,
    ChannelDense,
    ClassToken,
    GatedUnit,
    Gelu,
    Head,
    LayerNorm,
    LayerScale,
    MeanPool,
    NormLayer,
    PatchEmbed,
    PositionEmbedding,
    Residual,
    Silu,
    SpatialGate,
    TakeToken,
    TokenDense,
)
from .model import ModelSpec, Stage
from .shapes import Image

ImageSize = int | tuple[int, int]
"""Pixels of a square image's side, or ``(height, width)``."""


def mixer(
    *,
    image_size: ImageSize,
    patch: int,
    channels: int,
    depth: int,
    token_hidden: int,
    channel_hidden: int,
    classes: int = 1000,
    gelu: Literal["tanh", "none"] = "tanh",
) -> ModelSpec:
    """MLP-Mixer, with the paper's letters P, C, D_S and D_C for the sizes after the image's.

    Args:
        image_size: pixels of a side, or ``(height, width)``.
        patch: pixels of a patch's side (P).
        channels: columns of the table (C).
        depth: number of blocks.
        token_hidden: width of the token-mixing MLP (D_S).
        channel_hidden: width of the channel-mixing MLP (D_C).
        classes: number of logits.
        gelu: ``"tanh"`` as Google's Flax code computes it, ``"none"`` for erf as timm does.

    Source:
        arXiv:2105.01601, equation (1) and table 1; epsilon 1e-6 is Flax's default, which
        models_mixer.py uses.
    """
    image, tokens = _image_and_tokens(image_size, patch)
    norm = LayerNorm(epsilon=1e-6)
    activation = Gelu(approximation=gelu)
    token_mixing = Residual(
        name="token_mixing",
        layers=(norm, TokenDense(features=token_hidden), activation, TokenDense(features=tokens)),
    )
    channel_mixing = Residual(
        name="channel_mixing",
        layers=(
            norm,
            ChannelDense(features=channel_hidden),
            activation,
            ChannelDense(features=channels),
        ),
    )
    block = (token_mixing, channel_mixing)
    return _mean_pooled(image, patch, channels, block, depth, norm, classes)


def resmlp(
    *, image_size: ImageSize, patch: int, channels: int, depth: int, classes: int = 1000
) -> ModelSpec:
    """ResMLP: one linear map over the tokens, an MLP over the channels, Affine for a norm.

    Source:
        arXiv:2105.03404, equations (2) and (3); the erf GELU and the hidden width of 4 C are
        those of resmlp_models.py in deit.
    """
    image, tokens = _image_and_tokens(image_size, patch)
    token_mixing = Residual(
        name="token_mixing", layers=(Affine(), TokenDense(features=tokens), LayerScale())
    )
    channel_mixing = Residual(
        name="channel_mixing",
        layers=(
            Affine(),
            ChannelDense(features=4 * channels),
            Gelu(approximation="none"),
            ChannelDense(features=channels),
            LayerScale(),
        ),
    )
    block = (token_mixing, channel_mixing)
    return _mean_pooled(image, patch, channels, block, depth, Affine(), classes)


def gmlp(
    *, image_size: ImageSize, patch: int, channels: int, depth: int, classes: int = 1000
) -> ModelSpec:
    """gMLP: one gated MLP a block, whose gate mixes the tokens.

    Source:
        arXiv:2105.08050, figure 1 and table 1 (hidden width 6 C); the mixed epsilons are timm's,
        which trained the published weights: 1e-6, and 1e-5 inside the gate.
    """
    image, tokens = _image_and_tokens(image_size, patch)
    gate = SpatialGate(layers=(LayerNorm(epsilon=1e-5), TokenDense(features=tokens)))
    gated_mixing = Residual(
        name="gated_mixing",
        layers=(
            LayerNorm(epsilon=1e-6),
            ChannelDense(features=6 * channels),
            Gelu(approximation="none"),
            gate,
            ChannelDense(features=channels),
        ),
    )
    norm = LayerNorm(epsilon=1e-6)
    return _mean_pooled(image, patch, channels, (gated_mixing,), depth, norm, classes)


def gmixer(
    *,
    image_size: ImageSize,
    patch: int,
    channels: int,
    depth: int,
    token_hidden: int,
    channel_hidden: int,
    classes: int = 1000,
) -> ModelSpec:
    """timm's gMixer: a Mixer whose MLPs are gated by a SiLU of their second half.

    Args:
        image_size: pixels of a side, or ``(height, width)``.
        patch: pixels of a patch's side.
        channels: columns of the table.
        depth: number of blocks.
        token_hidden: width of the token-mixing MLP before the gate halves it.
        channel_hidden: width of the channel-mixing MLP before the gate halves it.
        classes: number of logits.

    Source:
        ``gmixer_12_224`` in timm's mlp_mixer.py.
    """
    image, tokens = _image_and_tokens(image_size, patch)
    norm = LayerNorm(epsilon=1e-6)
    token_mixing = Residual(
        name="token_mixing",
        layers=(
            norm,
            TokenDense(features=token_hidden),
            GatedUnit(axis="token", gate="second", activation=Silu()),
            TokenDense(features=tokens),
        ),
    )
    channel_mixing = Residual(
        name="channel_mixing",
        layers=(
            norm,
            ChannelDense(features=channel_hidden),
            GatedUnit(axis="channel", gate="second", activation=Silu()),
            ChannelDense(features=channels),
        ),
    )
    block = (token_mixing, channel_mixing)
    return _mean_pooled(image, patch, channels, block, depth, norm, classes)


def vit(
    *,
    image_size: ImageSize,
    patch: int,
    channels: int,
    depth: int,
    heads: int,
    channel_hidden: int,
    classes: int = 1000,
) -> ModelSpec:
    """The Vision Transformer with a class token: the baseline of the Mixer paper.

    Source:
        arXiv:2010.11929, equations (1) to (4) and table 1; tanh GELU and epsilon 1e-6 as in
        models_vit.py.
    """
    image, _ = _image_and_tokens(image_size, patch)
    norm = LayerNorm(epsilon=1e-6)
    token_mixing = Residual(name="token_mixing", layers=(norm, Attention(heads=heads)))
    channel_mixing = Residual(
        name="channel_mixing",
        layers=(
            norm,
            ChannelDense(features=channel_hidden),
            Gelu(approximation="tanh"),
            ChannelDense(features=channels),
        ),
    )
    return ModelSpec(
        input=image,
        stem=PatchEmbed(patch=(patch, patch), features=channels),
        embeddings=(ClassToken(), PositionEmbedding()),
        stages=(Stage(transition=(), block=(token_mixing, channel_mixing), depth=depth),),
        norm=norm,
        pool=TakeToken(index=0),
        head=Head(classes=classes),
    )


def _image_and_tokens(image_size: ImageSize, patch: int) -> tuple[Image, int]:
    """The RGB image and how many whole patches it holds; the spec refuses a remainder."""
    sides = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    if len(sides) != 2:
        raise SpecError(
            "image_size", f"must be one number or (height, width); expected 2 sides, got {sides}"
        )
    height, width = sides
    image = Image(height=height, width=width, channels=3)
    # At least 1, so that only the rule about the remainder is reported for a small image.
    return image, max(1, (image.height // patch) * (image.width // patch)) if patch else 1


def _mean_pooled(
    image: Image,
    patch: int,
    channels: int,
    block: tuple[Residual, ...],
    depth: int,
    norm: NormLayer,
    classes: int,
) -> ModelSpec:
    """Patches, ``depth`` equal blocks, a norm, the mean of the tokens and a classifier."""
    return ModelSpec(
        input=image,
        stem=PatchEmbed(patch=(patch, patch), features=channels),
        embeddings=(),
        stages=(Stage(transition=(), block=block, depth=depth),),
        norm=norm,
        pool=MeanPool(),
        head=Head(classes=classes),
    )
