"""The weights as a JAX pytree: canonical names nested at their dots, blocks stacked for a scan.

Plain parameters follow the canonical names: ``params["blocks"]["0"]["token_mixing"]["norm"]``.
Stacked parameters hold ``"stages"`` instead of ``"blocks"``: one subtree for each stage, whose
leaves have a leading axis for the stage's blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mixer_spec import ModelSpec
from mixer_spec.errors import WeightsError
from mixer_spec.layers import Constant, LecunNormal, Normal, Parameter
from mixer_spec.weights import initial, validate

Params = Mapping[str, Any]
"""Nested dicts with arrays for leaves."""

# The standard deviation of a standard normal truncated at two: divides it out again.
_TRUNCATED_STDDEV = 0.87962566103423978


def from_canonical(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict of canonical ``weights``; the arrays are the same objects.

    Example:
        >>> from_canonical({"norm.scale": 1, "head.bias": 2})
        {'norm': {'scale': 1}, 'head': {'bias': 2}}
    """
    params: dict[str, Any] = {}
    for name, array in weights.items():
        *parents, leaf = name.split(".")
        inner = params
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[leaf] = array
    return params


def to_canonical(params: Params) -> dict[str, Any]:
    """The inverse of :func:`from_canonical`.

    Example:
        >>> to_canonical({"norm": {"scale": 1}, "head": {"bias": 2}})
        {'norm.scale': 1, 'head.bias': 2}
    """
    return dict(_named_leaves(params, ""))


def _named_leaves(params: Params, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _named_leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def lookup(params: Params, path: str) -> Params:
    """The subtree at a dotted path; empty where no layer has parameters."""
    for name in path.split("."):
        params = params.get(name, {})
    return params


def check_params(spec: ModelSpec, params: Params) -> None:
    """Refuse parameters, plain or stacked, that do not fit ``spec``.

    Only shapes and dtypes are seen, so it is free under ``jit``.

    Raises:
        WeightsError: with every difference.
    """
    plain = jax.eval_shape(functools.partial(unstack, spec), params)
    validate(spec, to_canonical(jax.tree.map(stand_in, plain)), where="params")


def stand_in(array: jax.Array | jax.ShapeDtypeStruct) -> NDArray[Any]:
    """One zero seen as an array of the same shape, for the core's checks of NumPy arrays."""
    # The half precisions of an accelerator are as good as float32 here.
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return np.broadcast_to(np.zeros((), np.float32 if floating else array.dtype), array.shape)


# --- initial values -------------------------------------------------------------------------


def init(spec: ModelSpec, seed: int | np.integer[Any] | jax.Array) -> dict[str, Any]:
    """Initial values of the paper, in float32.

    Args:
        spec: the architecture.
        seed: a whole number, for the very values of :func:`mixer_spec.weights.initial`; or a key
            of ``jax.random``, for other values of the same distributions, inside ``jit`` too.

    Example:
        >>> from mixer_spec import variant
        >>> params = init(variant("mixer_s32").spec(), 0)
        >>> params["blocks"]["0"]["token_mixing"]["dense_0"]["kernel"].shape
        (256, 49)
    """
    if isinstance(seed, int | np.integer):
        return from_canonical(initial(spec, seed=int(seed)))
    parameters = spec.parameters()
    keys = jax.random.split(seed, len(parameters))
    drawn = {
        name: _draw(parameter, key)
        for (name, parameter), key in zip(parameters.items(), keys, strict=True)
    }
    return from_canonical(drawn)


@functools.partial(jax.jit, static_argnums=0)  # compiled once for all kernels of a shape
def _draw(parameter: Parameter, key: jax.Array) -> jax.Array:
    match parameter.initial:
        case Constant(value):
            return jnp.full(parameter.shape, value, jnp.float32)
        case Normal(stddev):
            return stddev * jax.random.normal(key, parameter.shape, jnp.float32)
        case LecunNormal():
            stddev = (parameter.fan_in or 1) ** -0.5 / _TRUNCATED_STDDEV
            return stddev * jax.random.truncated_normal(key, -2, 2, parameter.shape, jnp.float32)


# --- stacking -------------------------------------------------------------------------------


def _stage_blocks(spec: ModelSpec) -> Iterator[tuple[str, range]]:
    """The name of each stage and the indices of its blocks."""
    first = 0
    for number, stage in enumerate(spec.stages):
        yield str(number), range(first, first + stage.depth)
        first += stage.depth


def stack(spec: ModelSpec, params: Params) -> dict[str, Any]:
    """The parameters with the equal blocks of each stage stacked, ready to be scanned.

    Do it once, outside of ``jit``: it copies the blocks. NumPy arrays stay NumPy arrays.

    Raises:
        WeightsError: if the parameters do not fit the spec, or a weight has different dtypes in
            the blocks of a stage.
    """
    check_params(spec, params)
    stacked = {name: value for name, value in params.items() if name != "blocks"}
    blocks = params.get("blocks", {})
    stacked["stages"] = {
        name: jax.tree.map(_stack_leaves, *(blocks.get(str(index), {}) for index in indices))
        for name, indices in _stage_blocks(spec)
        if indices
    }
    return stacked


def _stack_leaves(*leaves: Any) -> Any:
    dtypes = sorted({leaf.dtype.name for leaf in leaves})
    if len(dtypes) > 1:
        raise WeightsError(
            "stack",
            f"blocks of different dtypes cannot be stacked; expected one dtype, got {dtypes}",
        )
    return (np if isinstance(leaves[0], np.ndarray) else jnp).stack(leaves)


def unstack(spec: ModelSpec, params: Params) -> dict[str, Any]:
    """The inverse of :func:`stack`; parameters that are not stacked stay as they are."""
    if "stages" not in params:
        return dict(params)
    plain = {name: value for name, value in params.items() if name != "stages"}
    blocks = {
        str(index): jax.tree.map(lambda leaf, at=at: leaf[at], params["stages"].get(name, {}))
        for name, indices in _stage_blocks(spec)
        for at, index in enumerate(indices)
    }
    return {**plain, "blocks": blocks} if blocks else plain
