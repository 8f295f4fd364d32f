"""Google's Vision Transformer, as Flax names its modules today and as it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_converters import load
from tests.foreign_models import CLASSES, PATCH, assert_same_function, flat, images, shaken


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


@pytest.mark.parametrize(
    ("numbers", "pool"), [("today", "token"), ("today", "mean"), ("old", "token")]
)
@pytest.mark.written_by_others("google", "vit")
@pytest.mark.written_by_others("google", "vit_mean")
@pytest.mark.written_by_others("google_old", "vit")
def test_google_s_vit(numbers: str, pool: str, tmp_path: Path) -> None:
    model = FlaxViT(pool)
    params = shaken(model.init(jax.random.key(0), images())["params"])
    logits = np.asarray(model.apply({"params": params}, images()))
    arrays = {}
    for name, array in flat(params).items():
        name = name.replace("Transformer/pos_emb", "Transformer/posembed_input/pos_emb")
        if numbers == "old":
            name = name.replace("LayerNorm_1", "LayerNorm_2").replace("MlpBlock_0", "MlpBlock_3")
            name = name.replace("Attention_0", "Attention_1")
        arrays[name] = array
    np.savez(tmp_path / "vit.npz", **arrays)
    found = load(tmp_path / "vit.npz", heads=2)
    assert found.layout == ("google" if numbers == "today" else "google_old")
    assert_same_function(found, logits)
