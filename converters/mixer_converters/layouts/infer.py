"""From the names and shapes of canonical weights to the spec that has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mixer_converters.semantics import Semantics, same_but_for_semantics
from mixer_spec import blocks, families
from mixer_spec.errors import MixerSpecError, SpecError
from mixer_spec.layers import (
    Affine,
    Attention,
    ChannelDense,
    ClassToken,
    EmbeddingLayer,
    GatedUnit,
    Gelu,
    Head,
    LayerNorm,
    LayerScale,
    MeanPool,
    PatchEmbed,
    PositionEmbedding,
    Residual,
    SpatialGate,
    TakeToken,
    TokenDense,
)
from mixer_spec.model import ModelSpec
from mixer_spec.patches import repeated
from mixer_spec.shapes import Image, ImageSize
from mixer_spec.variants import VARIANTS

Shapes = Mapping[str, tuple[int, ...]]
_ERF = Gelu(approximation="none")


def infer_spec(
    shapes: Shapes,
    semantics: Semantics,
    *,
    where: str,
    image_size: ImageSize | None = None,
    heads: int | None = None,
) -> ModelSpec:
    """The spec of the family's own composition that has weights of these names and shapes.

    Args:
        shapes: canonical name to shape.
        semantics: what shapes do not tell.
        where: the file, for the message.
        image_size: pixels of a side or ``(height, width)``; by default the image is square.
        heads: of the attention; by default those of the published model of the same sizes.

    Raises:
        SpecError: if there is none, or the image size or the heads are missing.
    """
    try:
        spec = _infer(shapes, image_size, heads)
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, MixerSpecError):
            raise SpecError(where, error.problems) from None
        raise SpecError(
            where, f"its shapes make no model of a known family, got: {error!r}"
        ) from None
    expected = {name: parameter.shape for name, parameter in spec.parameters().items()}
    wrong = [n for n in {**expected, **shapes} if expected.get(n) != shapes.get(n)]
    if wrong:
        raise SpecError(
            where,
            [
                f"{n} does not fit the rest; expected {_words(expected.get(n))}, "
                f"got {_words(shapes.get(n))}"
                for n in wrong[:10]
            ],
        )
    return semantics.within(spec)


def family_of(spec: ModelSpec) -> str | None:
    """The family that a spec's layers make it one of; ``None`` for sequences and other stems."""
    kinds = {type(node.layer) for node in spec.nodes()}
    if not isinstance(spec.input, Image) or not isinstance(spec.stem, PatchEmbed):
        return None
    if Attention in kinds:
        return "vit" if ClassToken in kinds else "vit_mean"
    marks = {SpatialGate: "gmlp", GatedUnit: "gmixer", LayerScale: "resmlp"}
    return next((family for mark, family in marks.items() if mark in kinds), "mixer")


def variant_of(spec: ModelSpec) -> str | None:
    """The published name of an architecture, whatever its GELU and epsilon are."""
    if not isinstance(spec.input, Image):
        return None
    size = (spec.input.height, spec.input.width)
    for name, variant in VARIANTS.items():
        try:
            published = variant.spec(image_size=size, classes=spec.classes)
        except SpecError:
            continue  # its patch does not divide this image
        if same_but_for_semantics(published, spec):
            return name
    return None


def _infer(shapes: Shapes, image_size: ImageSize | None, heads: int | None) -> ModelSpec:
    rows, columns, rgb, channels = shapes["stem.kernel"]
    depth = 1 + max(
        (int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")), default=-1
    )
    classes = shapes["head.bias"][0]
    embeddings, pool = _embeddings(shapes)
    if not depth:
        raise ValueError("no blocks")
    block, tokens = _block(shapes, channels, heads, depth)
    if embeddings:
        tokens = shapes["stem.position.embedding"][0] - (len(embeddings) - 1)
    norm = Affine() if "blocks.0.token_mixing.scale.scale" in shapes else blocks.NORM
    return ModelSpec(
        input=_image(tokens, (rows, columns), rgb, image_size),
        stem=PatchEmbed(patch=(rows, columns), features=channels),
        embeddings=embeddings,
        stages=repeated(block, depth),
        norm=norm,
        pool=pool,
        head=Head(classes=classes),
    )


def _embeddings(shapes: Shapes) -> tuple[tuple[EmbeddingLayer, ...], MeanPool | TakeToken]:
    if "stem.class_token.embedding" in shapes:
        return (ClassToken(), PositionEmbedding()), TakeToken(index=0)
    if "stem.position.embedding" in shapes:
        return (PositionEmbedding(),), MeanPool()
    return (), MeanPool()


def _block(
    shapes: Shapes, channels: int, heads: int | None, depth: int
) -> tuple[tuple[Residual, ...], int]:
    """The residual branches of a block, and how many tokens they mix (0 if they do not tell)."""
    if "blocks.0.gated_mixing.dense_0.kernel" in shapes:
        hidden = shapes["blocks.0.gated_mixing.dense_0.kernel"][1]
        tokens = shapes["blocks.0.gated_mixing.gate.dense_0.kernel"][0]
        gate = SpatialGate(layers=(LayerNorm(epsilon=1e-5), TokenDense(features=tokens)))
        layers = (blocks.NORM, ChannelDense(features=hidden), _ERF, gate)
        return (
            Residual(name="gated_mixing", layers=(*layers, ChannelDense(features=channels))),
        ), tokens
    token, channel = "blocks.0.token_mixing.", "blocks.0.channel_mixing."
    channel_hidden = shapes[channel + "dense_0.kernel"][1]
    if token + "attention.query.kernel" in shapes:
        heads = heads or _published_heads(channels, depth)
        mixing = blocks.token_mixing(blocks.NORM, Attention(heads=heads))
        return (mixing, blocks.channel_mlp(channels, channel_hidden, "none")), 0
    token_hidden, tokens = shapes[token + "dense_0.kernel"]
    if token + "scale.scale" in shapes:
        linear = blocks.token_mixing(Affine(), TokenDense(features=tokens), LayerScale())
        mlp = blocks.channel_mlp(channels, channel_hidden, "none", Affine(), LayerScale())
        return (linear, mlp), tokens
    if shapes[token + "dense_1.kernel"][1] * 2 == token_hidden:
        return _gated_mlps(channels, tokens, token_hidden, channel_hidden), tokens
    return (
        blocks.token_mlp(tokens, token_hidden, "none"),
        blocks.channel_mlp(channels, channel_hidden, "none"),
    ), tokens


def _gated_mlps(
    channels: int, tokens: int, token_hidden: int, channel_hidden: int
) -> tuple[Residual, ...]:
    """gMixer's block, as :func:`mixer_spec.families.gmixer` has it."""
    sizes: dict[str, Any] = {"token_hidden": token_hidden, "channel_hidden": channel_hidden}
    whole = families.gmixer(
        image_size=(1, tokens), patch=1, channels=channels, depth=1, classes=1, **sizes
    )
    return whole.stages[0].block


def _published_heads(channels: int, depth: int) -> int:
    for name, variant in VARIANTS.items():
        if name.startswith("vit_"):
            spec = variant.spec()
            if isinstance(spec.stem, PatchEmbed) and (spec.stem.features, spec.depth) == (
                channels,
                depth,
            ):
                return next(n.layer.heads for n in spec.nodes() if isinstance(n.layer, Attention))
    raise SpecError(
        "attention",
        "the shapes of its weights do not tell the number of heads, and no published ViT has "
        f"{channels} channels and {depth} blocks; expected heads, got none; say it to "
        "`mixer-spec convert`, with --heads",
    )


def _image(tokens: int, patch: tuple[int, int], rgb: int, image_size: ImageSize | None) -> Image:
    if image_size is not None:
        height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
        if (height // patch[0]) * (width // patch[1]) != tokens:
            raise SpecError(
                "image size",
                f"does not make the tokens that these weights mix; expected {tokens}, got "
                f"{height} x {width} in patches of {patch[0]} x {patch[1]}",
            )
        return Image(height=height, width=width, channels=rgb)
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise SpecError(
            "image size",
            f"its {tokens} tokens make no square; expected an image size, got none; "
            "say it to `mixer-spec convert`, with --image-size HxW",
        )
    return Image(height=side * patch[0], width=side * patch[1], channels=rgb)


def _words(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else str(list(shape))
