"""Models of other people, tiny: their modules and names, written out or as their packages have them."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import flax.traverse_util
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

SIZE, PATCH, CLASSES = 16, 4, 5

FAMILIES_OF_TIMM = ("mixer", "gmixer", "resmlp", "gmlp", "vit")


def images(count: int = 2) -> np.ndarray:
    """Noise ``[batch, height, width, rgb]``."""
    return np.random.default_rng(3).uniform(-1, 1, (count, SIZE, SIZE, 3)).astype(np.float32)


# --- Flax linen ------------------------------------------------------------------------------


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


class Encoder(nn.Module):
    """ViT's encoder with the official names."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        position = self.param("pos_embedding", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        x = x + position
        for i in range(2):
            x = EncoderBlock(name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class EncoderBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(y, y)
        return x + MlpBlock()(nn.LayerNorm()(x))


class MlpBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        hidden = nn.Dense(10)(x)
        return nn.Dense(8)(nn.gelu(hidden))


class FlaxViT(nn.Module):
    pool: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(8, (PATCH, PATCH), strides=(PATCH, PATCH), name="embedding")(x)
        x = x.reshape(x.shape[0], -1, 8)
        if self.pool == "token":
            token = self.param("cls", nn.initializers.zeros, (1, 1, 8))
            x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
        x = Encoder(name="Transformer")(x)
        return nn.Dense(CLASSES, name="head")(x[:, 0] if self.pool == "token" else x.mean(axis=1))


def flat(params: Any, prefix: str = "") -> dict[str, np.ndarray]:
    tree = flax.traverse_util.flatten_dict(params, sep="/")
    return {prefix + name: np.asarray(array) for name, array in tree.items()}


def shaken(tree: Any) -> Any:
    """Random values in place of zeros and ones, so that no mistake hides behind them."""
    generator = np.random.default_rng(5)
    return jax.tree.map(
        lambda a: (np.asarray(a) + 0.3 * generator.standard_normal(a.shape)).astype(np.float32),
        tree,
    )


# --- Flax NNX --------------------------------------------------------------------------------


class NnxMlp(nnx.Module):
    def __init__(self, width: int, hidden: int, gated: bool, rngs: nnx.Rngs) -> None:
        self.gated = gated
        self.fc1 = nnx.Linear(width, hidden, rngs=rngs)
        self.fc2 = nnx.Linear(hidden // 2 if gated else hidden, width, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        if not self.gated:
            return self.fc2(nnx.gelu(self.fc1(x)))
        value, gate = jnp.split(self.fc1(x), 2, axis=-1)  # timm's GluMlp
        return self.fc2(value * nnx.silu(gate))


class NnxBlock(nnx.Module):
    def __init__(self, gated: bool, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(8, rngs=rngs)
        self.mlp_tokens = NnxMlp(16, 6, gated, rngs)
        self.norm2 = nnx.LayerNorm(8, rngs=rngs)
        self.mlp_channels = NnxMlp(8, 10, gated, rngs)

    def __call__(self, x: Any) -> Any:
        x = x + jnp.swapaxes(self.mlp_tokens(jnp.swapaxes(self.norm1(x), 1, 2)), 1, 2)
        return x + self.mlp_channels(self.norm2(x))


class NnxMixer(nnx.Module):
    def __init__(self, gated: bool, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 8, (PATCH, PATCH), strides=(PATCH, PATCH), rngs=rngs)
        self.blocks = nnx.List([NnxBlock(gated, rngs), NnxBlock(gated, rngs)])
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.stem(x)
        x = x.reshape(x.shape[0], -1, 8)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(axis=1))


# --- timm ------------------------------------------------------------------------------------


class _Anything(type):
    """A class with every attribute, such as the members of an enumeration."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Placeholder(types.ModuleType):
    """torchvision has no build for this torch; timm imports names of it that no model here uses."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (torch.nn.Module,), {})


@contextlib.contextmanager
def imported_timm() -> Iterator[Any]:
    """timm itself."""
    names = [
        *("", ".ops", ".ops.misc", ".models", ".models.feature_extraction", ".datasets"),
        *(".transforms", ".transforms.functional", ".utils"),
    ]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            module = _Placeholder(f"torchvision{name}")
            patch.setitem(sys.modules, module.__name__, module)
            parent, _, child = module.__name__.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
        yield importlib.import_module("timm")


def tiny(timm: Any, family: str, **more: Any) -> torch.nn.Module:
    """timm's own module of a family, as its entry points make it, at a tiny size."""
    mixers, vits = timm.models.mlp_mixer, timm.models.vision_transformer
    sizes = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": 8, "num_classes": CLASSES, **more}
    if family == "vit":
        return randomise(vits.VisionTransformer(depth=2, num_heads=2, **sizes))
    options: dict[str, Any] = {
        "mixer": {},
        "gmixer": {"mlp_ratio": (1.0, 4.0), "mlp_layer": mixers.GluMlp, "act_layer": torch.nn.SiLU},
        "resmlp": {"mlp_ratio": 4, "block_layer": mixers.ResBlock, "norm_layer": mixers.Affine},
        "gmlp": {
            "mlp_ratio": 6,
            "block_layer": mixers.SpatialGatingBlock,
            "mlp_layer": mixers.GatedMlp,
        },
    }[family]
    return randomise(mixers.MlpMixer(num_blocks=2, **options, **sizes))


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


# --- Keras -----------------------------------------------------------------------------------


def keras_file(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """What Keras 2 writes: a group for each layer, in it the weights by their whole names."""
    leaves = {"scale": "gamma"}
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            layer, _, leaf = name.rpartition("/")
            leaf = "beta" if "orm" in layer and leaf == "bias" else leaves.get(leaf, leaf)
            file.require_group(layer).create_dataset(f"{layer}/{leaf}:0", data=array)
