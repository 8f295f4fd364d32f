"""What the papers tried and dropped: other ways to mix tokens, and a pyramid."""

from __future__ import annotations

from typing import Literal

from .blocks import NORM, channel_mlp, token_mixing, token_mlp
from .errors import SpecError
from .layers import (
    BranchLayer,
    ChannelDense,
    DepthwiseConv,
    Gelu,
    GroupChannels,
    LayerScale,
    NormLayer,
    TokenDense,
    UngroupChannels,
    UntiedTokenDense,
)
from .model import ModelSpec, Stage
from .patches import image_and_tokens, of_patches, repeated
from .shapes import ImageSize

_TANH = Gelu(approximation="tanh")
_ERF = Gelu(approximation="none")


def mixer_untied(
    *,
    image_size: ImageSize,
    patch: int,
    channels: int,
    depth: int,
    token_hidden: int,
    channel_hidden: int,
    classes: int = 1000,
) -> ModelSpec:
    """Mixer with a token-mixing MLP for each channel, instead of one that all channels share.

    Args:
        image_size: pixels of a side, or ``(height, width)``.
        patch: pixels of a patch's side.
        channels: columns of the table, and how many MLPs there are.
        depth: number of blocks.
        token_hidden: width of each token-mixing MLP.
        channel_hidden: width of the channel-mixing MLP.
        classes: number of logits.

    Source:
        arXiv:2105.01601, appendix A.1, "untying (not sharing) the parameters".
    """
    image, tokens = image_and_tokens(image_size, patch)
    mlp = (UntiedTokenDense(features=token_hidden), _TANH, UntiedTokenDense(features=tokens))
    block = (token_mixing(NORM, *mlp), channel_mlp(channels, channel_hidden, "tanh"))
    return of_patches(image, patch, channels, repeated(block, depth), classes)


def mixer_grouped(
    *,
    image_size: ImageSize,
    patch: int,
    channels: int,
    depth: int,
    token_hidden: int,
    channel_hidden: int,
    groups: int,
    views: bool,
    classes: int = 1000,
) -> ModelSpec:
    """Mixer whose token mixing sees ``groups`` channels at a time.

    Args:
        image_size: pixels of a side, or ``(height, width)``.
        patch: pixels of a patch's side.
        channels: columns of the table.
        depth: number of blocks.
        token_hidden: width of the token-mixing MLP.
        channel_hidden: width of the channel-mixing MLP.
        groups: how many channels are concatenated (G).
        views: concatenate G learned views of each token instead of neighbouring channels: G
            linear maps from C to C / G channels, which together are one from C to C.
        classes: number of logits.

    Source:
        arXiv:2105.01601, appendix A.1, "grouping the channels together". The paper does not say
        how the table gets its shape back; here the inverse rearrangement does it.
    """
    image, tokens = image_and_tokens(image_size, patch)
    look: tuple[BranchLayer, ...] = (ChannelDense(features=channels),) if views else ()
    mlp = (TokenDense(features=token_hidden), _TANH, TokenDense(features=groups * tokens))
    grouped = (GroupChannels(groups=groups), *mlp, UngroupChannels(groups=groups))
    block = (token_mixing(NORM, *look, *grouped), channel_mlp(channels, channel_hidden, "tanh"))
    return of_patches(image, patch, channels, repeated(block, depth), classes)


def mixer_pyramid(
    *,
    image_size: ImageSize,
    patch: int,
    channels: int,
    depths: tuple[int, ...],
    shrink: int,
    token_hidden: int,
    channel_hidden: int,
    classes: int = 1000,
) -> ModelSpec:
    """Mixer in stages: in front of each but the first, a token-mixing MLP maps S to fewer tokens.

    Args:
        image_size: pixels of a side, or ``(height, width)``.
        patch: pixels of a patch's side.
        channels: columns of the table.
        depths: number of blocks in each stage.
        shrink: how many times fewer tokens each stage has than the one before; a remainder is
            dropped, and one token stays.
        token_hidden: width of the token-mixing MLPs.
        channel_hidden: width of the channel-mixing MLPs.
        classes: number of logits.

    Raises:
        SpecError: if a stage would have more tokens than the one before.

    Source:
        arXiv:2105.01601, appendix A.1, "pyramids". The paper does not say how deep the stages were.
    """
    if not shrink >= 1:
        raise SpecError("shrink", f"a pyramid does not grow; expected at least 1, got {shrink!r}")
    image, tokens = image_and_tokens(image_size, patch)
    stages = []
    for number, depth in enumerate(depths):
        transition: tuple[BranchLayer, ...] = ()
        if number:
            tokens = max(1, tokens // shrink)
            mlp = (TokenDense(features=token_hidden), _TANH, TokenDense(features=tokens))
            transition = (NORM, *mlp)
        block = (
            token_mlp(tokens, token_hidden, "tanh"),
            channel_mlp(channels, channel_hidden, "tanh"),
        )
        stages.append(Stage(transition=transition, block=block, depth=depth))
    return of_patches(image, patch, channels, tuple(stages), classes)


def resmlp_ablation(
    *,
    image_size: ImageSize,
    patch: int,
    channels: int,
    depth: int,
    mixing: Literal["linear", "mlp", "conv", "separable_conv"],
    norm: NormLayer,
    classes: int = 1000,
) -> ModelSpec:
    """ResMLP with another way to mix tokens, or with another norm.

    Args:
        image_size: pixels of a side, or ``(height, width)``.
        patch: pixels of a patch's side.
        channels: columns of the table.
        depth: number of blocks.
        mixing: one linear map as in ResMLP; an MLP four times as wide; a 3 x 3 convolution of
            each channel; or that with a linear map of the channels behind it.
        norm: everywhere.
        classes: number of logits.

    Raises:
        SpecError: if there is no such way to mix.

    Source:
        arXiv:2105.03404, table 3 and section 3.3.
    """
    image, tokens = image_and_tokens(image_size, patch)
    conv = DepthwiseConv(window=(3, 3))
    ways: dict[str, tuple[BranchLayer, ...]] = {
        "linear": (TokenDense(features=tokens),),
        "mlp": (TokenDense(features=4 * tokens), _ERF, TokenDense(features=tokens)),
        "conv": (conv,),
        "separable_conv": (conv, ChannelDense(features=channels)),
    }
    if mixing not in ways:
        raise SpecError("mixing", f"must be one of {list(ways)}, got {mixing!r}")
    block = (
        token_mixing(norm, *ways[mixing], LayerScale()),
        channel_mlp(channels, 4 * channels, "none", norm, LayerScale()),
    )
    return of_patches(image, patch, channels, repeated(block, depth), classes, norm=norm)
