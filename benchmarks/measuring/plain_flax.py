"""A Mixer as the paper's appendix gives it: ``linen`` layers and a swap of axes."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from measuring.sizes import Sizes
from mixer_spec.weights import Weights


class Mlp(nn.Module):
    """``Dense``, GELU by tanh, ``Dense``: over the last axis."""

    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.gelu(nn.Dense(self.hidden)(x))
        return nn.Dense(x.shape[-1])(y)


class Block(nn.Module):
    """Token mixing on the table with its axes swapped, then channel mixing."""

    sizes: Sizes

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = jnp.swapaxes(nn.LayerNorm(name="token_norm")(x), 1, 2)
        x = x + jnp.swapaxes(Mlp(self.sizes.token_hidden, name="token_mlp")(y), 1, 2)
        y = nn.LayerNorm(name="channel_norm")(x)
        return x + Mlp(self.sizes.channel_hidden, name="channel_mlp")(y)


class PlainMixer(nn.Module):
    """``[batch, height, width, rgb] -> [batch, class]``, with a strided convolution for a stem."""

    sizes: Sizes

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        patch = (self.sizes.patch, self.sizes.patch)
        x = nn.Conv(self.sizes.channels, patch, strides=patch, name="stem")(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        for index in range(self.sizes.depth):
            x = Block(self.sizes, name=f"block_{index}")(x)
        x = nn.LayerNorm(name="norm")(x).mean(axis=1)
        return nn.Dense(self.sizes.classes, name="head")(x)


def params(weights: Weights, depth: int) -> dict[str, Any]:
    """The canonical weights of a Mixer as :class:`PlainMixer` names and turns them."""

    def pair(name: str, leaf: str) -> dict[str, Any]:
        return {leaf: weights[f"{name}.{leaf}"], "bias": weights[f"{name}.bias"]}

    def mlp(name: str, axis: str) -> dict[str, Any]:
        found = {f"Dense_{n}": pair(f"{name}.dense_{n}", "kernel") for n in (0, 1)}
        for dense in found.values():
            # A token kernel multiplies from the left: [out, in] -> [in, out]
            dense["kernel"] = dense["kernel"].T if axis == "token" else dense["kernel"]
        return found

    found = {name: pair(name, "kernel") for name in ("stem", "head")}
    found["norm"] = pair("norm", "scale")
    for index in range(depth):
        found[f"block_{index}"] = {}
        for axis in ("token", "channel"):
            ours = f"blocks.{index}.{axis}_mixing"
            found[f"block_{index}"][f"{axis}_norm"] = pair(f"{ours}.norm", "scale")
            found[f"block_{index}"][f"{axis}_mlp"] = mlp(ours, axis)
    on_device: dict[str, Any] = jax.tree.map(jnp.array, found)
    return on_device
