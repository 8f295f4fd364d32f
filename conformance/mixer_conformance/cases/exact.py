"""F02: whole numbers in, whole numbers out: results that have no rounding at all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mixer_conformance.findings import Finding, of_bits
from mixer_conformance.measure import Array
from mixer_conformance.weights import splitmix64
from mixer_spec import ModelSpec
from mixer_spec.reference import forward
from mixer_spec.shapes import Image
from mixer_spec.weights import Weights

from .base import WIDE, Case, Trial
from .zoo import PROBE

_GELU_IS_EXACT = 16.0
"""GELU of 16 is 16 and of -16 is zero, in float32 and in float64."""

_STREAM = 2.0**24
"""Beside its square epsilon is nothing, in float64 and in 80 bits too: a norm makes exactly 1 of it."""

_AS_LARGE = _STREAM / 128
"""How much larger a branch's result is than its hidden values allow, to be seen beside the stream."""


def whole(name: str, shape: tuple[int, ...], width: int, least: int) -> Array:
    """Whole numbers from ``least`` to ``least + 2 width``, from the counter hash of the name."""
    key = int.from_bytes(name.encode()[-8:], "little")
    count = int(np.prod(shape))
    drawn = np.concatenate([chunk.copy() for chunk in splitmix64(key, count)])
    return ((drawn % np.uint64(2 * width + 1)).astype(np.float32) + np.float32(least)).reshape(
        shape
    )


def _quiet(spec: ModelSpec) -> dict[str, Array]:
    """Nothing but the identity: norms of scale 1, everything else zero."""
    return {
        name: np.full(parameter.shape, float(name.endswith("norm.scale")), np.float32)
        for name, parameter in spec.parameters().items()
    }


def _balanced(spec: ModelSpec, weights: dict[str, Array]) -> Array:
    """Inputs whose every token is +-2^24 in equal parts, so that a norm makes exactly +-1 of it."""
    assert isinstance(spec.input, Image)  # the probe
    height, width = spec.input.height, spec.input.width
    signs = np.where(np.arange(height * width) % 3 == 0, -1.0, 1.0)
    kernel = weights["stem.kernel"]
    kernel[0, 0, 0, :] = _STREAM * np.where(np.arange(kernel.shape[-1]) % 2, 1.0, -1.0)
    images = np.zeros((3, *spec.input.shape), np.float32)
    images[..., 0] = signs.reshape(height, width)
    images[1] *= -1
    images[2] = images[0, ::-1]
    return images


def _stem(spec: ModelSpec) -> tuple[Weights, Array, str]:
    """Large whole numbers of one sign: float16 sums would overflow or lose the last."""
    weights = _quiet(spec)
    shape = weights["stem.kernel"].shape
    weights["stem.kernel"] = whole("stem.kernel", shape, 60, 1)
    weights["stem.bias"] = whole("stem.bias", shape[-1:], 100, -100)
    return weights, whole("pixels", (3, *spec.input.shape), 60, 1), "stem"


def _branch(spec: ModelSpec, name: str) -> tuple[Weights, Array, str]:
    """Both products of one branch, with hidden values that GELU leaves or removes."""
    weights = _quiet(spec)
    images = _balanced(spec, weights)
    path = f"blocks.1.{name}"
    for dense, width in (("dense_0", 2), ("dense_1", 3)):
        kernel = f"{path}.{dense}.kernel"
        weights[kernel] = whole(kernel, weights[kernel].shape, width, -width)
    weights[f"{path}.dense_0.kernel"] *= _GELU_IS_EXACT
    for dense in ("dense_0", "dense_1"):
        bias = f"{path}.{dense}.bias"
        weights[bias] = _GELU_IS_EXACT * whole(bias, weights[bias].shape, 3, -3)
    for part in ("kernel", "bias"):
        weights[f"{path}.dense_1.{part}"] *= np.float32(_AS_LARGE)
    return weights, images, path


def _head(spec: ModelSpec) -> tuple[Weights, Array, str]:
    """The mean of a power of two many tokens, and the classifier."""
    weights = _quiet(spec)
    images = _balanced(spec, weights)
    weights["norm.scale"] = 8.0 * whole("norm.scale", weights["norm.scale"].shape, 3, 1)
    weights["norm.bias"] = whole("norm.bias", weights["norm.bias"].shape, 9, -9)
    for name in ("head.kernel", "head.bias"):
        weights[name] = whole(name, weights[name].shape, 9, -9)
    return weights, images, "logits"


def _check(trial: Trial) -> Iterator[Finding]:
    probes = {
        "stem": _stem(trial.spec),
        "token mixing": _branch(trial.spec, "token_mixing"),
        "channel mixing": _branch(trial.spec, "channel_mixing"),
        "head": _head(trial.spec),
    }
    dtype = trial.subject.precision.dtype
    for what, (weights, images, tap) in probes.items():
        if tap not in trial.subject.taps(trial.spec):
            continue
        found = trial.load(weights).forward(images.astype(dtype))
        oracle = forward(trial.spec, weights, images, [tap])[tap]
        yield of_bits(found[tap], oracle, f"whole numbers, {what}", tap)


F02 = Case(
    id="F02",
    title="Whole numbers through the stem, each branch, pool and head: exact in every bit",
    catches="patch, token and class order, transposes, bias routing, float16 sums, GELU's tails",
    level=1,
    suits=lambda model, spec: model.name == PROBE,
    check=_check,
    profiles=WIDE,
)
