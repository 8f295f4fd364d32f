"""Flax NNX: the state of ports of timm's Mixer, in every kind of file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
from flax import nnx

from mixer_converters import load
from mixer_spec.errors import SpecError
from tests.foreign_models import CLASSES, PATCH, assert_same_function, images, shaken


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


@pytest.mark.parametrize("gated", [False, True], ids=["mixer", "gmixer"])
@pytest.mark.parametrize("kind", ["orbax", "npz", "msgpack with values"])
@pytest.mark.written_by_others("nnx", "mixer")
@pytest.mark.written_by_others("nnx", "gmixer")
def test_an_nnx_state(kind: str, gated: bool, tmp_path: Path) -> None:
    model = NnxMixer(gated, nnx.Rngs(0))
    graph, state = nnx.split(model)
    pure = shaken(nnx.to_pure_dict(state))
    nnx.replace_by_pure_dict(state, pure)
    logits = np.asarray(nnx.merge(graph, state)(images()))
    tree = {str(k): v for k, v in flax.traverse_util.flatten_dict(pure, sep=None).items()}
    named = {"/".join(map(str, k)): v for k, v in flax.traverse_util.flatten_dict(pure).items()}
    assert len(tree) == len(named)
    path = tmp_path / "state"
    if kind == "orbax":
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, pure)
    elif kind == "npz":
        path = tmp_path / "state.npz"
        np.savez(path, **named)
    else:
        path = tmp_path / "state.msgpack"
        leaves = {tuple(k.split("/")): {"value": v} for k, v in named.items()}
        nested = flax.traverse_util.unflatten_dict(leaves)
        path.write_bytes(flax.serialization.msgpack_serialize(nested))
    if not gated:  # which has no GELU
        with pytest.raises(SpecError, match="--gelu tanh or --gelu none"):
            load(path)
    found = load(path, gelu="tanh")
    assert found.layout == "nnx"
    assert_same_function(found, logits)
