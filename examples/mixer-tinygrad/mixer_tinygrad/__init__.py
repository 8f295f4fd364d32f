"""A backend of mixer-spec that computes every layer kind in tinygrad."""

from __future__ import annotations

import functools
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_spec import BackendInfo, ModelSpec, layers
from mixer_spec.backend import Profile, check_inputs, check_profile
from mixer_spec.graph import Node
from mixer_spec.weights import Weights, validate

if shutil.which(os.environ.get("CC", "clang")) is None:
    os.environ.setdefault("DEV", "CPU:X86")  # tinygrad's own assembler, where clang is missing

from tinygrad import Device, Tensor

LOCK = threading.Lock()  # tinygrad's caches are not made for threads


def run(node: Node, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """One layer at its place, with those inside it; ``x`` is ``[batch, token, channel]``."""
    own = {name: weights[f"{node.path}.{name}"] for name in node.own_parameters}

    def nested(x: Tensor) -> Tensor:
        return functools.reduce(lambda x, child: run(child, weights, x), node.children, x)

    match node.layer:
        case layers.PatchEmbed(patch=(height, width)):
            kernel = own["kernel"].reshape(height, width, x.shape[3], -1).permute(3, 2, 0, 1)
            patches = x.permute(0, 3, 1, 2).conv2d(kernel, own["bias"], stride=(height, width))
            return patches.flatten(2).transpose(1, 2)
        case layers.LinearEmbed() | layers.ChannelDense() | layers.Head():
            return x @ own["kernel"] + own["bias"]
        case layers.TokenEmbed():
            return own["embedding"][x]
        case layers.ClassToken():
            return own["embedding"].reshape(1, 1, -1).expand(len(x), -1, -1).cat(x, dim=1)
        case layers.PositionEmbedding():
            return x + own["embedding"]
        case layers.LayerNorm(epsilon=epsilon):
            return standardised(x, epsilon) * own["scale"] + own["bias"]
        case layers.TokenNorm(epsilon=epsilon):
            along = standardised(x.transpose(1, 2), epsilon)
            return (along * own["scale"] + own["bias"]).transpose(1, 2)
        case layers.Affine() | layers.LayerScale():
            return x * own["scale"] + own.get("bias", 0)
        case layers.Gelu():
            return x.gelu(node.layer.approximation)
        case layers.Silu():
            return x.silu()
        case layers.TokenDense():
            return own["kernel"] @ x + own["bias"].unsqueeze(1)
        case layers.UntiedTokenDense():  # a matrix for each channel: [channel, token_out, token]
            columns = x.transpose(1, 2).unsqueeze(3)
            return ((own["kernel"] @ columns).squeeze(3) + own["bias"]).transpose(1, 2)
        case layers.DepthwiseConv(window=(height, width)):
            image = x.transpose(1, 2).unflatten(2, node.incoming.grid)  # type: ignore[union-attr]
            kernel = own["kernel"].permute(2, 0, 1).unsqueeze(1)
            around = (width // 2, width // 2, height // 2, height // 2)
            mixed = image.conv2d(kernel, own["bias"], groups=x.shape[2], padding=around)
            return mixed.flatten(2).transpose(1, 2)
        case layers.GroupChannels(groups=groups):
            return x.unflatten(2, (-1, groups)).permute(0, 3, 1, 2).flatten(1, 2)
        case layers.UngroupChannels(groups=groups):
            return x.unflatten(1, (groups, -1)).permute(0, 2, 3, 1).flatten(2)
        case layers.SpatialGate():
            u, v = x.chunk(2, dim=2)
            return u * nested(v)
        case layers.GatedUnit(axis=axis, gate=which):
            halves = x.chunk(2, dim=1 if axis == "token" else 2)
            return halves[which == "first"] * nested(halves[which == "second"])
        case layers.Attention(heads=heads):
            dense = (x @ own[f"{n}.kernel"] + own[f"{n}.bias"] for n in ("query", "key", "value"))
            query, key, value = (y.unflatten(2, (heads, -1)).transpose(1, 2) for y in dense)
            mixed = query.scaled_dot_product_attention(key, value).transpose(1, 2).flatten(2)
            return mixed @ own["out.kernel"] + own["out.bias"]
        case layers.Residual():
            return x + nested(x)
        case layers.MeanPool():
            return x.mean(axis=1)
        case layers.TakeToken(index=index):
            return x[:, index]
    raise NotImplementedError(f"tinygrad has no {node.layer.kind} here")


def standardised(x: Tensor, epsilon: float) -> Tensor:
    """Mean 0 and variance 1 along the last axis; the variance in two passes."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + epsilon).sqrt()


class Model:
    """A spec with its weights on tinygrad's device."""

    def __init__(self, spec: ModelSpec, weights: Weights) -> None:
        self._spec = spec
        self._weights = {name: array.copy() for name, array in weights.items()}
        self._tensors = {name: to_tensor(array) for name, array in self._weights.items()}

    def forward(self, inputs: NDArray[Any], taps: Sequence[str] = ()) -> Mapping[str, NDArray[Any]]:
        """See :meth:`mixer_spec.backend.Model.forward`."""
        check_inputs(self._spec, inputs, taps)
        with LOCK:
            found, x = {}, to_tensor(inputs)
            for step in self._spec.steps:
                for node in step.nodes:
                    x = run(node, self._tensors, x)
                if step.tap in taps or step.tap == "logits":
                    found[step.tap] = x
            Tensor.realize(*found.values())
            return {tap: table.numpy() for tap, table in found.items()}

    def export_weights(self) -> Weights:
        """See :meth:`mixer_spec.backend.Model.export_weights`."""
        return self._weights


def to_tensor(array: NDArray[Any]) -> Tensor:
    """A copy, in float32 or whole numbers: tinygrad refuses arrays that are read-only."""
    dtype = np.int32 if array.dtype.kind in "iu" else np.float32
    return Tensor(np.array(array, dtype, order="C")).to(Device.DEFAULT).realize()


class Backend:
    """What ``--backend tinygrad`` finds."""

    def info(self) -> BackendInfo:
        """See :meth:`mixer_spec.backend.Backend.info`."""
        return BackendInfo(
            name="tinygrad",
            versions={"tinygrad": version("tinygrad")},
            device=Device.DEFAULT.lower(),
            profiles=("f32-strict",),
        )

    def load(self, spec: ModelSpec, weights: Weights, *, profile: Profile = "f32-strict") -> Model:
        """See :meth:`mixer_spec.backend.Backend.load`."""
        check_profile(self.info(), profile)
        validate(spec, weights)
        return Model(spec, weights)
