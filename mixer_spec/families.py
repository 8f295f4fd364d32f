"""The papers' own numbers in, a ModelSpec out: one builder for each family."""

from __future__ import annotations

from typing import Literal

from .blocks import NORM, GeluForm, channel_mixing, channel_mlp, token_mixing, token_mlp
from .errors import SpecError
from .layers import (
    Affine,
    Attention,
    ChannelDense,
    GatedUnit,
    Gelu,
    Head,
    LayerNorm,
    LayerScale,
    LinearEmbed,
    MeanPool,
    PositionEmbedding,
    Residual,
    Silu,
    SpatialGate,
    TokenDense,
    TokenEmbed,
    TokenNorm,
)
from .model import ModelSpec
from .patches import image_and_tokens, of_patches, repeated, with_class_token
from .shapes import ImageSize, TokenIds, Vectors


def mixer(
    *,
    image_size: ImageSize,
    patch: int,
    channels: int,
    depth: int,
    token_hidden: int,
    channel_hidden: int,
    classes: int = 1000,
    gelu: GeluForm = "tanh",
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
    image, tokens = image_and_tokens(image_size, patch)
    block = (
        token_mlp(tokens, token_hidden, gelu),
        channel_mlp(channels, channel_hidden, gelu),
    )
    return of_patches(image, patch, channels, repeated(block, depth), classes)


def resmlp(
    *, image_size: ImageSize, patch: int, channels: int, depth: int, classes: int = 1000
) -> ModelSpec:
    """ResMLP: one linear map over the tokens, an MLP over the channels, Affine for a norm.

    Source:
        arXiv:2105.03404, equations (2) and (3); the erf GELU and the hidden width of 4 C are
        those of resmlp_models.py in deit.
    """
    image, tokens = image_and_tokens(image_size, patch)
    block = (
        token_mixing(Affine(), TokenDense(features=tokens), LayerScale()),
        channel_mlp(channels, 4 * channels, "none", Affine(), LayerScale()),
    )
    return of_patches(image, patch, channels, repeated(block, depth), classes, norm=Affine())


def gmlp(
    *, image_size: ImageSize, patch: int, channels: int, depth: int, classes: int = 1000
) -> ModelSpec:
    """gMLP: one gated MLP a block, whose gate mixes the tokens.

    Source:
        arXiv:2105.08050, figure 1 and table 1 (hidden width 6 C); the mixed epsilons are timm's,
        which trained the published weights: 1e-6, and 1e-5 inside the gate.
    """
    image, tokens = image_and_tokens(image_size, patch)
    gated_mixing = Residual(
        name="gated_mixing",
        layers=(
            NORM,
            ChannelDense(features=6 * channels),
            Gelu(approximation="none"),
            SpatialGate(layers=(LayerNorm(epsilon=1e-5), TokenDense(features=tokens))),
            ChannelDense(features=channels),
        ),
    )
    return of_patches(image, patch, channels, repeated((gated_mixing,), depth), classes)


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
        ``gmixer_12_224`` and ``gmixer_24_224`` in timm's mlp_mixer.py.
    """
    image, tokens = image_and_tokens(image_size, patch)
    block = (
        token_mixing(
            NORM,
            TokenDense(features=token_hidden),
            GatedUnit(axis="token", gate="second", activation=Silu()),
            TokenDense(features=tokens),
        ),
        channel_mixing(
            NORM,
            ChannelDense(features=channel_hidden),
            GatedUnit(axis="channel", gate="second", activation=Silu()),
            ChannelDense(features=channels),
        ),
    )
    return of_patches(image, patch, channels, repeated(block, depth), classes)


def vit(
    *,
    image_size: ImageSize,
    patch: int,
    channels: int,
    depth: int,
    heads: int,
    channel_hidden: int,
    pool: Literal["class_token", "mean"] = "class_token",
    classes: int = 1000,
) -> ModelSpec:
    """The Vision Transformer: the baseline of the Mixer paper.

    Args:
        image_size: pixels of a side, or ``(height, width)``.
        patch: pixels of a patch's side.
        channels: columns of the table.
        depth: number of blocks.
        heads: number of attention heads.
        channel_hidden: width of the MLP.
        pool: classify by a class token as the paper does, or by the mean of the tokens.
        classes: number of logits.

    Raises:
        SpecError: if there is no such pool; and, as from every builder, for sizes that do not fit.

    Source:
        arXiv:2010.11929, equations (1) to (4) and table 1; tanh GELU, epsilon 1e-6 and both ways
        to classify as in models_vit.py.
    """
    image, _ = image_and_tokens(image_size, patch)
    block = (
        token_mixing(NORM, Attention(heads=heads)),
        channel_mlp(channels, channel_hidden, "tanh"),
    )
    stages = repeated(block, depth)
    match pool:
        case "class_token":
            return with_class_token(image, patch, channels, stages, classes)
        case "mean":
            positions = (PositionEmbedding(),)
            return of_patches(image, patch, channels, stages, classes, embeddings=positions)
    raise SpecError("pool", f"must be 'class_token' or 'mean', got {pool!r}")


def feed_forward(
    *, image_size: ImageSize, patch: int, channels: int, depth: int, classes: int = 1000
) -> ModelSpec:
    """ViT with an MLP over the tokens in attention's place ("Do You Even Need Attention?").

    The MLPs are four times as wide as what they mix; the one over the tokens comes second, and
    its norm runs over the tokens too.

    Source:
        arXiv:2105.02723 and its code, vision_transformer_linear.py.
    """
    image, patches = image_and_tokens(image_size, patch)
    tokens = patches + 1
    block = (
        channel_mlp(channels, 4 * channels, "none"),
        token_mixing(
            TokenNorm(epsilon=1e-6),
            TokenDense(features=4 * tokens),
            Gelu(approximation="none"),
            TokenDense(features=tokens),
        ),
    )
    return with_class_token(image, patch, channels, repeated(block, depth), classes)


def sequence_mixer(
    *,
    input: TokenIds | Vectors,
    channels: int,
    depth: int,
    token_hidden: int,
    channel_hidden: int,
    classes: int,
    gelu: GeluForm = "tanh",
) -> ModelSpec:
    """A Mixer for sequences of fixed length instead of images: the paper's closing question.

    Words get a learned vector each, vectors a linear map; the blocks are the Mixer's.

    Args:
        input: ids of words ``[token]``, or vectors ``[token, channel]``.
        channels: columns of the table.
        depth: number of blocks.
        token_hidden: width of the token-mixing MLP.
        channel_hidden: width of the channel-mixing MLP.
        classes: number of logits.
        gelu: which form.

    Raises:
        SpecError: if the input is an image.

    Source:
        arXiv:2105.01601, section 5, asks whether such a design works for language.

    Example:
        >>> sequence_mixer(input=TokenIds(tokens=64, vocabulary=8000), channels=128, depth=4,
        ...                token_hidden=64, channel_hidden=512, classes=2).parameter_count
        1586690
    """
    if not isinstance(input, TokenIds | Vectors):
        raise SpecError(
            "input", f"must be TokenIds or Vectors, got {input!r}; mixer() takes images"
        )
    stem = TokenEmbed if isinstance(input, TokenIds) else LinearEmbed
    block = (
        token_mlp(input.tokens, token_hidden, gelu),
        channel_mlp(channels, channel_hidden, gelu),
    )
    return ModelSpec(
        input=input,
        stem=stem(features=channels),
        embeddings=(),
        stages=repeated(block, depth),
        norm=NORM,
        pool=MeanPool(),
        head=Head(classes=classes),
    )
