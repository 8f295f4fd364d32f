"""The Mixer's relatives as PyTorch users write them; a ``Linear`` over tokens is named ``token_``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_spec.weights import Weights

from .plain_torch import Mlp

NAMES = {"kernel": ".weight", "scale": ".weight", "bias": ".bias", "embedding": ""}
"""Canonical end of a weight's name to PyTorch's."""


class Affine(nn.Module):
    """ResMLP's norm: ``x * weight + bias``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class Scale(nn.Module):
    """ResMLP's LayerScale: ``x * weight``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class GluMlp(nn.Module):
    """An MLP whose second half of the hidden units gates the first: over the last axis."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(size, hidden)
        self.fc2 = nn.Linear(hidden // 2, size)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.fc1(x).chunk(2, dim=-1)
        out: Tensor = self.fc2(value * F.silu(gate))
        return out


class Block(nn.Module):
    """A block that knows the canonical names of its parts; what is fused has several."""

    PARTS: ClassVar[Mapping[str, str]]


class ResMlpBlock(Block):
    """ResMLP: a linear map over the tokens, an MLP over the channels, both scaled."""

    PARTS: ClassVar = {
        "token_norm": "token_mixing.norm",
        "token_mix": "token_mixing.dense_0",
        "token_scale": "token_mixing.scale",
        "norm": "channel_mixing.norm",
        "mlp.0": "channel_mixing.dense_0",
        "mlp.2": "channel_mixing.dense_1",
        "scale": "channel_mixing.scale",
    }

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.token_norm = Affine(channels)
        self.token_mix = nn.Linear(tokens, tokens)
        self.token_scale = Scale(channels)
        self.norm = Affine(channels)
        self.mlp = Mlp(channels, 4 * channels, "none")
        self.scale = Scale(channels)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.token_mix(self.token_norm(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.token_scale(mixed)
        found: Tensor = x + self.scale(self.mlp(self.norm(x)))
        return found


class GmlpBlock(Block):
    """gMLP: one MLP, whose second half of the hidden units mixes its tokens and gates the first."""

    PARTS: ClassVar = {
        "norm": "gated_mixing.norm",
        "widen": "gated_mixing.dense_0",
        "gate_norm": "gated_mixing.gate.norm",
        "token_mix": "gated_mixing.gate.dense_0",
        "narrow": "gated_mixing.dense_1",
    }

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.widen = nn.Linear(channels, 6 * channels)
        self.gate_norm = nn.LayerNorm(3 * channels, eps=1e-5)
        self.token_mix = nn.Linear(tokens, tokens)
        self.narrow = nn.Linear(3 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = F.gelu(self.widen(self.norm(x))).chunk(2, dim=-1)
        gate = self.token_mix(self.gate_norm(gate).transpose(1, 2)).transpose(1, 2)
        found: Tensor = x + self.narrow(value * gate)
        return found


class GmixerBlock(Block):
    """gMixer: a Mixer with gated MLPs."""

    PARTS: ClassVar = {
        "token_norm": "token_mixing.norm",
        "token_mlp.fc1": "token_mixing.dense_0",
        "token_mlp.fc2": "token_mixing.dense_1",
        "norm": "channel_mixing.norm",
        "mlp.fc1": "channel_mixing.dense_0",
        "mlp.fc2": "channel_mixing.dense_1",
    }

    def __init__(self, tokens: int, channels: int, token_hidden: int, hidden: int) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(channels, eps=1e-6)
        self.token_mlp = GluMlp(tokens, token_hidden)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = GluMlp(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token_mlp(self.token_norm(x).transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = x + self.mlp(self.norm(x))
        return mixed


class VitBlock(Block):
    """ViT: attention with one product for queries, keys and values; an MLP over the channels."""

    PARTS: ClassVar = {
        "attention_norm": "token_mixing.norm",
        "qkv": " ".join(f"token_mixing.attention.{part}" for part in ("query", "key", "value")),
        "out": "token_mixing.attention.out",
        "norm": "channel_mixing.norm",
        "mlp.0": "channel_mixing.dense_0",
        "mlp.2": "channel_mixing.dense_1",
    }

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(channels, eps=1e-6)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = Mlp(channels, 4 * channels, "tanh")

    def attention(self, x: Tensor) -> Tensor:
        batch, tokens, channels = x.shape
        # [batch, token, 3 channels] -> three of [batch, head, token, size]
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0))
        found: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, channels))
        return found

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        mixed: Tensor = x + self.mlp(self.norm(x))
        return mixed


class FeedForwardBlock(Block):
    """The feed-forward ViT: an MLP over the channels, then norm and MLP over the tokens."""

    PARTS: ClassVar = {
        "norm": "channel_mixing.norm",
        "mlp.0": "channel_mixing.dense_0",
        "mlp.2": "channel_mixing.dense_1",
        "token_norm": "token_mixing.norm",
        "token_mlp.0": "token_mixing.dense_0",
        "token_mlp.2": "token_mixing.dense_1",
    }

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = Mlp(channels, 4 * channels, "none")
        self.token_norm = nn.LayerNorm(tokens, eps=1e-6)
        self.token_mlp = Mlp(tokens, 4 * tokens, "none")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mlp(self.norm(x))
        x = x.transpose(1, 2)
        mixed: Tensor = x + self.token_mlp(self.token_norm(x))
        return mixed.transpose(1, 2)


class PlainModel(nn.Module):
    """``[batch, rgb, height, width] -> [batch, class]``: the mean of the tokens is classified.

    Args:
        blocks: of one kind.
        norm: the last one.
        channels: of a token.
    """

    def __init__(self, blocks: Sequence[Block], norm: nn.Module, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 16, stride=16)
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm
        self.head = nn.Linear(channels, 1000)
        self.parts = {"stem": "stem", "norm": "norm", "head": "head"}
        for index, block in enumerate(blocks):
            for theirs, ours in block.PARTS.items():
                paths = (f"blocks.{index}.{path}" for path in ours.split())
                self.parts[f"blocks.{index}.{theirs}"] = " ".join(paths)

    def tokens(self, images: Tensor) -> Tensor:
        """What enters the blocks, ``[batch, token, channel]``."""
        return torch.flatten(self.stem(images), 2).transpose(1, 2)

    def pool(self, x: Tensor) -> Tensor:
        """What is classified, ``[batch, channel]``."""
        return x.mean(dim=1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.norm(self.blocks(self.tokens(images)))))
        return logits


class PlainModelWithToken(PlainModel):
    """With positions; a learned token in front of the others is classified."""

    def __init__(self, blocks: Sequence[Block], channels: int) -> None:
        super().__init__(blocks, nn.LayerNorm(channels, eps=1e-6), channels)
        self.class_token = nn.Parameter(torch.zeros(1, channels))
        self.position = nn.Parameter(torch.zeros(197, channels))
        self.parts |= {"class_token": "stem.class_token", "position": "stem.position"}

    def tokens(self, images: Tensor) -> Tensor:
        x = super().tokens(images)
        return torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.position

    def pool(self, x: Tensor) -> Tensor:
        return x[:, 0]


MODELS: Mapping[str, Callable[[], PlainModel]] = {
    "resmlp_12": lambda: PlainModel([ResMlpBlock(196, 384) for _ in range(12)], Affine(384), 384),
    "gmlp_s16": lambda: PlainModel(
        [GmlpBlock(196, 256) for _ in range(30)], nn.LayerNorm(256, eps=1e-6), 256
    ),
    "gmixer_12": lambda: PlainModel(
        [GmixerBlock(196, 384, 384, 1536) for _ in range(12)], nn.LayerNorm(384, eps=1e-6), 384
    ),
    "vit_s16": lambda: PlainModelWithToken([VitBlock(384, 6) for _ in range(12)], 384),
    "ff_ti16": lambda: PlainModelWithToken([FeedForwardBlock(197, 192) for _ in range(12)], 192),
}
"""Variant to its plain model."""


def state_dict(weights: Weights, model: PlainModel) -> dict[str, Tensor]:
    """The canonical weights as ``model`` names and turns them."""
    state = {}
    for theirs, ours in model.parts.items():
        for suffix, name in NAMES.items():
            found = [
                weights[path] for part in ours.split() if (path := f"{part}.{suffix}") in weights
            ]
            if suffix == "kernel" and ".token_" not in theirs:
                # [in, out] -> [out, in], as a token kernel, which multiplies from the left, is
                # already; and a stem's [patch_row, patch_column, rgb, channel] likewise.
                found = [np.moveaxis(kernel, (-1, -2), (0, 1)) for kernel in found]
            if found:
                state[f"{theirs}{name}"] = torch.tensor(np.concatenate(found))
    return state
