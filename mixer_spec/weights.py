"""Canonical weights: initial values, validation against a spec, and a digest of the content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import WeightsError
from .layers import Constant, Initial, LecunNormal, Normal, Parameter
from .memory import ahead, little_endian
from .model import ModelSpec

Weights = Mapping[str, NDArray[Any]]
"""Canonical name to array; the names and shapes are those of ``spec.parameters()``."""

# The standard deviation of a standard normal truncated at two: divides it out again.
_TRUNCATED_STDDEV = 0.87962566103423978


def initial(
    spec: ModelSpec, *, seed: int = 0, overrides: Mapping[str, Initial] | None = None
) -> dict[str, NDArray[np.float32]]:
    """The paper's initial values in float32: LeCun-normal kernels, zero biases, a zero head.

    Every tensor has a generator of its own, seeded by the seed and its name, so that a model's
    values do not depend on the other tensors it has.

    Args:
        spec: the architecture.
        seed: any whole number.
        overrides: distributions by the end of the weight's name, as ``Variant.initial`` has them.

    Raises:
        WeightsError: if an override fits no weight.

    Source:
        arXiv:2105.01601's code, models_mixer.py: Flax's defaults, ``head`` with zeros.

    Example:
        >>> from mixer_spec import variant
        >>> weights = initial(variant("mixer_s32").spec(), seed=0)
        >>> weights["blocks.0.token_mixing.dense_0.kernel"].shape
        (256, 49)
    """
    parameters, chosen = spec.parameters(), dict(overrides or {})
    unused = [suffix for suffix in chosen if not any(n.endswith(suffix) for n in parameters)]
    if unused:
        raise WeightsError("overrides", [f"no weight ends with {suffix!r}" for suffix in unused])
    return {
        name: _draw(
            parameter, initial_distribution(name, parameter, chosen), _generator(seed, name)
        )
        for name, parameter in parameters.items()
    }


def initial_distribution(
    name: str, parameter: Parameter, overrides: Mapping[str, Initial]
) -> Initial:
    """The distribution of the weight called ``name``: its override, or its layer's."""
    for suffix, distribution in overrides.items():
        if name.endswith(suffix):
            return distribution
    return parameter.initial


def _generator(seed: int, name: str) -> np.random.Generator:
    key = hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def _draw(
    parameter: Parameter, distribution: Initial, generator: np.random.Generator
) -> NDArray[np.float32]:
    match distribution:
        case Constant(value):
            return np.full(parameter.shape, value, np.float32)
        case Normal(stddev):
            values = generator.standard_normal(parameter.shape, np.float32)
            return values * np.float32(stddev)
        case LecunNormal():
            values = _truncated_normal(parameter.shape, generator)
            fan_in = parameter.fan_in or 1
            return values * np.float32(fan_in**-0.5 / _TRUNCATED_STDDEV)


def _truncated_normal(
    shape: tuple[int, ...], generator: np.random.Generator
) -> NDArray[np.float32]:
    """Standard normals; those outside [-2, 2] are drawn again."""
    values = generator.standard_normal(shape, np.float32)
    while (outside := np.abs(values) > 2).any():
        values[outside] = generator.standard_normal(int(outside.sum()), np.float32)
    return values


def validate(spec: ModelSpec, weights: Weights, *, where: str = "weights") -> None:
    """Check names, shapes and dtypes of ``weights`` against ``spec``.

    Args:
        spec: the architecture.
        weights: canonical name to array; any floating dtype, bfloat16 included.
        where: the file or argument they came from, for the message.

    Raises:
        WeightsError: with every difference: ``-`` lines are expected, ``+`` lines were given.
    """
    expected = {name: parameter.shape for name, parameter in spec.parameters().items()}
    problems = []
    arrays = {name: array for name, array in weights.items() if isinstance(array, np.ndarray)}
    for name, shape in expected.items():
        if name not in weights:
            problems.append(f"- {name} {list(shape)} (missing)")
        elif name not in arrays:
            kind = type(weights[name]).__name__
            problems.append(f"+ {name} {kind} (not a NumPy array)")
        elif tuple(weights[name].shape) != shape:
            given = list(weights[name].shape)
            problems.append(f"- {name} {list(shape)} (expected)\n  + {name} {given} (wrong shape)")
    for name, array in arrays.items():
        if name not in expected:
            problems.append(f"+ {name} {list(array.shape)} (not in the spec)")
        elif not _is_floating(array.dtype):
            problems.append(f"+ {name} {array.dtype} (wrong dtype; expected a floating one)")
    if problems:
        raise WeightsError(where, problems)


def _is_floating(dtype: np.dtype[Any]) -> bool:
    return np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16"


def digest(weights: Weights) -> str:
    """64 hexadecimal digits over names, shapes, dtypes and bytes, the lowest byte of a value first.

    Neither the layout of a file nor the order in memory enters.

    Example:
        >>> digest({"norm.scale": np.ones(3, np.float32)})[:16]
        'f250c35c79ca83b4'
    """
    total = hashlib.sha256()
    names = sorted(weights)
    arrays = ahead(lambda name: little_endian(weights[name]), names)
    for name, array in zip(names, arrays, strict=True):
        header = f"{name}\0{array.dtype.name}\0{','.join(map(str, array.shape))}\0"
        total.update(header.encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()
