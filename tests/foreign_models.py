"""Models in the frameworks' own modules, and what their converted weights are held against."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import torch

from mixer_converters import Checkpoint
from mixer_spec import ModelSpec
from mixer_spec.weights import Weights
from tests.float32_noise import rms, truth_and_tolerance

SIZE, PATCH, CLASSES = 16, 4, 5
"""Pixels of a side, those of a patch, and the number of logits of every model here."""


def images() -> np.ndarray:
    """Noise ``[batch, height, width, rgb]``; enough of it that no logit is near by luck."""
    return np.random.default_rng(3).uniform(-1, 1, (8, SIZE, SIZE, 3)).astype(np.float32)


def is_same_function(spec: ModelSpec, weights: Weights, logits: np.ndarray) -> bool:
    """Whether ``logits`` of :func:`images` are as near to the reference as float32 itself comes."""
    truth, tolerance = truth_and_tolerance(spec, weights, images())
    return rms(logits - truth["logits"]) <= tolerance["logits"]


def assert_same_function(found: Checkpoint, logits: np.ndarray) -> None:
    """The reference, on the converted weights, gives what the original module gave."""
    assert is_same_function(found.spec, found.weights, logits)


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def run_torch(module: torch.nn.Module) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(module(torch.from_numpy(images()).permute(0, 3, 1, 2).contiguous()))


# --- Flax ---------------------------------------------------------------------------------------


class Mlp(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        width = x.shape[-1]
        hidden = nn.Dense(self.hidden)(x)  # first, since Flax numbers modules as they are made
        return nn.Dense(width)(nn.gelu(hidden))


class MixerBlock(nn.Module):
    tokens_hidden: int
    channels_hidden: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
        x = x + jnp.swapaxes(Mlp(self.tokens_hidden, name="token_mixing")(y), 1, 2)
        return x + Mlp(self.channels_hidden, name="channel_mixing")(nn.LayerNorm()(x))


class FlaxMixer(nn.Module):
    """Modules and names as the official code has them."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(8, (PATCH, PATCH), strides=(PATCH, PATCH), name="stem")(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        for _ in range(2):
            x = MixerBlock(6, 10)(x)
        x = nn.LayerNorm(name="pre_head_layer_norm")(x).mean(axis=1)
        return nn.Dense(CLASSES, name="head")(x)


def shaken(tree: Any) -> Any:
    """Random values in place of zeros and ones, so that no mistake hides behind them."""
    generator = np.random.default_rng(5)
    return jax.tree.map(
        lambda a: (np.asarray(a) + 0.3 * generator.standard_normal(a.shape)).astype(np.float32),
        tree,
    )


@functools.cache
def flax_mixer() -> tuple[Any, np.ndarray]:
    """The parameters of a Flax linen Mixer, and its logits."""
    model = FlaxMixer()
    params = shaken(model.init(jax.random.key(0), images())["params"])
    return params, np.asarray(model.apply({"params": params}, images()))


def flat(params: Any, prefix: str = "") -> dict[str, np.ndarray]:
    tree = flax.traverse_util.flatten_dict(params, sep="/")
    return {prefix + name: np.asarray(array) for name, array in tree.items()}
