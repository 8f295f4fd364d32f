"""Conformance weights and inputs: a counter hash onto a dyadic grid, the same bits in any language.

Initial values are no test of a model: a zero head or a scale of one hides almost every mistake.
These weights hide nothing: no tensor is zero or symmetric, and every value has at most 8
significant bits, so it is exact in float64, float32, TF32, float16 and bfloat16. The images have
24: they are exact in float32 and nothing less, so that a stem that rounds its input shows.

The recipe, on unsigned 64-bit integers that wrap around:

1. ``mix(z)``: ``z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9``, then
   ``z = (z ^ (z >> 27)) * 0x94D049BB133111EB``, then ``z ^ (z >> 31)``.
2. ``name_hash``: FNV-1a of the name in UTF-8: from ``0xCBF29CE484222325``, for each byte
   ``h = (h ^ byte) * 0x100000001B3``.
3. ``key = mix(mix(seed) ^ name_hash)``.
4. ``h[i] = mix(key + (i + 1) * 0x9E3779B97F4A7C15)`` for the flat index ``i`` in C order: the
   stream of splitmix64 that starts at ``key``.
5. The value is ``centre + (h[i] mod (2 w + 1) - w) * 2**-e``, with a grid for each kind of tensor:

   ===================  ======  ===  ==================================================
   tensor               centre  w    e
   ===================  ======  ===  ==================================================
   kernel of fan-in n   0       127  ``(bit_length(10837 n) - 1) // 2``: std near 1/sqrt(n)
   bias                 0       127  8: std 0.29
   scale                1       32   7: within 1/4 of 1
   scale of LayerScale  1/4     32   9: within 1/16 of 1/4, so that deep streams stay small
   embedding            0       127  7: std 0.58
   images, vectors      0       W    23, with W = 2**23 - 1: std 0.58, within -1 and 1
   ===================  ======  ===  ==================================================

The inputs are the tensor named ``images``, ``[batch, height, width, rgb]``, or ``vectors``,
``[batch, token, channel]``, or ``ids``, ``[batch, token]``, whose value is ``h[i] mod words``.

Source:
    splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
    The grids: 10837 is twice the variance of the whole numbers from -127 to 127, rounded down, so
    that the standard deviation is within a factor sqrt(2) of its target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_spec import ModelSpec
from mixer_spec.errors import InputError
from mixer_spec.layers import AnyLayer, LayerScale, Parameter
from mixer_spec.shapes import Image, TokenIds, Vectors

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))

# Numbers made at a time: their hashes, 256 KiB, stay in the cache.
_CHUNK = 1 << 15


@dataclass(frozen=True, slots=True)
class _Grid:
    """The values ``centre + k * 2**-exponent`` for the whole numbers ``-width <= k <= width``."""

    centre: float
    width: int
    exponent: int


_BIAS = _Grid(0.0, 127, 8)
_SCALE = _Grid(1.0, 32, 7)
_LAYER_SCALE = _Grid(0.25, 32, 9)
_EMBEDDING = _Grid(0.0, 127, 7)
_INPUTS = _Grid(0.0, 2**23 - 1, 23)

_GRIDS = {"bias": _BIAS, "scale": _SCALE, "embedding": _EMBEDDING}


def conformance_weights(spec: ModelSpec, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Weights for judging a backend: canonical name to float32 array, see the module.

    Args:
        spec: the architecture.
        seed: any whole number; taken modulo 2**64.

    Example:
        >>> from mixer_spec import variant
        >>> weights = conformance_weights(variant("mixer_s32").spec())
        >>> weights["head.bias"][:3].tolist(), weights["norm.scale"][:3].tolist()
        ([-0.08984375, -0.0859375, 0.1015625], [1.2265625, 0.9921875, 0.765625])
    """
    return {
        f"{node.path}.{name}": _tensor(
            f"{node.path}.{name}", parameter.shape, _grid(node.layer, name, parameter), seed
        )
        for node in spec.nodes()
        for name, parameter in node.own_parameters.items()
    }


def conformance_inputs(spec: ModelSpec, batch: int, seed: int = 0) -> NDArray[Any]:
    """Inputs for judging a backend, all different: images, vectors, or ids of words.

    The first inputs of a larger batch are those of a smaller one.

    Args:
        spec: the architecture.
        batch: how many.
        seed: any whole number; taken modulo 2**64.

    Returns:
        Float32 ``[batch, height, width, rgb]`` or ``[batch, token, channel]``, or int64
        ``[batch, token]``.

    Raises:
        InputError: if the batch is empty.
    """
    if batch < 1:
        raise InputError("batch", f"must hold an input; expected at least 1, got {batch}")
    shape = (batch, *spec.input.shape)
    match spec.input:
        case Image():
            return _tensor("images", shape, _INPUTS, seed)
        case Vectors():
            return _tensor("vectors", shape, _INPUTS, seed)
        case TokenIds(vocabulary=vocabulary):
            hashes = splitmix64(_key(seed, "ids"), math.prod(shape))
            words = [chunk % np.uint64(vocabulary) for chunk in hashes]
            return np.concatenate(words).astype(np.int64).reshape(shape)


def _grid(layer: AnyLayer, name: str, parameter: Parameter) -> _Grid:
    if parameter.fan_in is not None:
        return _Grid(0.0, 127, ((10837 * parameter.fan_in).bit_length() - 1) // 2)
    if isinstance(layer, LayerScale):
        return _LAYER_SCALE
    return _GRIDS[name.rpartition(".")[2]]


def _tensor(name: str, shape: tuple[int, ...], grid: _Grid, seed: int) -> NDArray[np.float32]:
    """The grid's values at the hashes of ``(seed, name, flat index)``."""
    values = np.empty(math.prod(shape), np.float32)
    start = 0
    for hashes in splitmix64(_key(seed, name), values.size):
        chunk = values[start : start + hashes.size]
        # `hashes % modulus`, whose NumPy loop is half as fast.
        modulus = np.uint64(2 * grid.width + 1)
        steps = hashes - hashes // modulus * modulus
        # The cast is from int64, which processors have; every value below is exact in float32.
        np.copyto(chunk, steps.view(np.int64), casting="unsafe")
        chunk -= np.float32(grid.width)
        chunk *= np.float32(2.0**-grid.exponent)
        chunk += np.float32(grid.centre)
        start += hashes.size
    return values.reshape(shape)


def splitmix64(key: int, count: int) -> Iterator[NDArray[np.uint64]]:
    """The first ``count`` numbers of splitmix64 from the state ``key``, in chunks of one buffer.

    Each chunk is overwritten by the next.

    Example:
        >>> [int(h) for h in next(splitmix64(1234567, 2))]
        [6457827717110365317, 3203168211198807973]
    """
    counters = np.arange(1, min(count, _CHUNK) + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    whole = np.empty_like(counters)
    shifted = np.empty_like(counters)
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        hashes, shift = whole[:size], shifted[:size]
        np.add(counters[:size], np.uint64((key + start * _GOLDEN) & _MASK), out=hashes)
        for bits, factor in _ROUNDS:
            np.right_shift(hashes, np.uint64(bits), out=shift)
            np.bitwise_xor(hashes, shift, out=hashes)
            np.multiply(hashes, np.uint64(factor), out=hashes)
        np.right_shift(hashes, np.uint64(31), out=shift)
        np.bitwise_xor(hashes, shift, out=hashes)
        yield hashes


def _key(seed: int, name: str) -> int:
    name_hash = 0xCBF29CE484222325
    for byte in name.encode():
        name_hash = ((name_hash ^ byte) * 0x100000001B3) & _MASK
    return _mix(_mix(seed & _MASK) ^ name_hash)


def _mix(z: int) -> int:
    for bits, factor in _ROUNDS:
        z = ((z ^ (z >> bits)) * factor) & _MASK
    return z ^ (z >> 31)
