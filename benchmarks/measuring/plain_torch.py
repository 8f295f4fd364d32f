"""A Mixer as PyTorch users write it: ``nn.Linear`` on both axes, with a transposition between."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from measuring.sizes import Sizes
from mixer_spec.weights import Weights


class Mlp(nn.Sequential):
    """``Linear``, GELU, ``Linear``: over the last axis."""

    def __init__(self, size: int, hidden: int, approximate: str = "tanh") -> None:
        super().__init__(
            nn.Linear(size, hidden), nn.GELU(approximate=approximate), nn.Linear(hidden, size)
        )


class Block(nn.Module):
    """Token mixing on the transposed table, then channel mixing."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(sizes.channels, eps=1e-6)
        self.token_mlp = Mlp(sizes.tokens, sizes.token_hidden)
        self.channel_norm = nn.LayerNorm(sizes.channels, eps=1e-6)
        self.channel_mlp = Mlp(sizes.channels, sizes.channel_hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token_mlp(self.token_norm(x).transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = x + self.channel_mlp(self.channel_norm(x))
        return mixed


class PlainMixer(nn.Module):
    """``[batch, rgb, height, width] -> [batch, class]``, with a strided convolution for a stem."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, sizes.channels, sizes.patch, stride=sizes.patch)
        self.blocks = nn.Sequential(*(Block(sizes) for _ in range(sizes.depth)))
        self.norm = nn.LayerNorm(sizes.channels, eps=1e-6)
        self.head = nn.Linear(sizes.channels, sizes.classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(dim=1))
        return logits


def state_dict(weights: Weights, depth: int) -> dict[str, Tensor]:
    """The canonical weights of a Mixer as :class:`PlainMixer` names and turns them."""
    tensors = {name: torch.tensor(array) for name, array in weights.items()}
    # Canonical [patch_row, patch_column, rgb, channel] -> [channel, rgb, patch_row, patch_column]
    state = {"stem.weight": tensors["stem.kernel"].permute(3, 2, 0, 1)}
    state |= {"stem.bias": tensors["stem.bias"]}
    state |= {"norm.weight": tensors["norm.scale"], "norm.bias": tensors["norm.bias"]}
    state |= {"head.weight": tensors["head.kernel"].mT, "head.bias": tensors["head.bias"]}
    for block in (f"blocks.{index}" for index in range(depth)):
        for axis in ("token", "channel"):
            ours = f"{block}.{axis}_mixing"
            state[f"{block}.{axis}_norm.weight"] = tensors[f"{ours}.norm.scale"]
            state[f"{block}.{axis}_norm.bias"] = tensors[f"{ours}.norm.bias"]
            for number, position in ((0, 0), (1, 2)):
                kernel = tensors[f"{ours}.dense_{number}.kernel"]
                theirs = f"{block}.{axis}_mlp.{position}"
                # A token kernel multiplies from the left, so it is [out, in] already.
                state[f"{theirs}.weight"] = kernel if axis == "token" else kernel.mT
                state[f"{theirs}.bias"] = tensors[f"{ours}.dense_{number}.bias"]
    return state
