"""The widths of a Mixer, for models that are written without the spec."""

from __future__ import annotations

from typing import NamedTuple

from mixer_spec import ModelSpec


class Sizes(NamedTuple):
    """What the paper's table 1 lists."""

    patch: int
    tokens: int
    channels: int
    depth: int
    token_hidden: int
    channel_hidden: int
    classes: int


def sizes_of(spec: ModelSpec) -> Sizes:
    """The widths of a Mixer of one patch size and square patches, read off its weights' shapes."""
    shapes = {name: parameter.shape for name, parameter in spec.parameters().items()}
    token_hidden, tokens = shapes["blocks.0.token_mixing.dense_0.kernel"]
    channels, channel_hidden = shapes["blocks.0.channel_mixing.dense_0.kernel"]
    return Sizes(
        patch=shapes["stem.kernel"][0],
        tokens=tokens,
        channels=channels,
        depth=spec.depth,
        token_hidden=token_hidden,
        channel_hidden=channel_hidden,
        classes=shapes["head.bias"][0],
    )
