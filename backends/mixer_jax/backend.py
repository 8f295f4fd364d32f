"""The JAX backend: NumPy in, NumPy out, behind the protocol of ``mixer_spec.backend``."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mixer_spec import ModelSpec
from mixer_spec.backend import BackendInfo, Profile, check_inputs, check_profile
from mixer_spec.extras import load_or_name_extra
from mixer_spec.training import (
    CrossEntropy,
    Gradients,
    Optimiser,
    TrainState,
    check_cotangents,
    check_labels,
    check_state,
)
from mixer_spec.weights import Weights, validate

from .forward import apply_with_taps
from .params import Params, from_canonical, stack, to_canonical, unstack

_DTYPES: Mapping[Profile, type[np.floating[Any]]] = {"f32-strict": np.float32, "f64": np.float64}


@functools.partial(jax.jit, static_argnames=("spec", "taps", "dtype"))
def _run(
    spec: ModelSpec,
    params: Params,
    inputs: jax.Array,
    taps: tuple[str, ...],
    dtype: type[np.floating[Any]],
) -> dict[str, jax.Array]:
    """One compiled program for each spec, dtype, batch size and set of taps; models share it.

    Inputs are in ``dtype`` already, or ids.
    """
    params = _cast(params, dtype)
    return apply_with_taps(spec, params, inputs, taps, precision=jax.lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames=("spec", "dtype"))
def _pull_back(
    spec: ModelSpec,
    params: Params,
    inputs: jax.Array,
    cotangents: Mapping[str, jax.Array],
    dtype: type[np.floating[Any]],
) -> tuple[Params, jax.Array | None]:
    """The gradients with respect to the parameters, and to the inputs unless they are ids."""
    params, inputs, cotangents = _cast((params, inputs, cotangents), dtype)

    def taps(params: Params, inputs: jax.Array) -> dict[str, jax.Array]:
        found = apply_with_taps(
            spec, params, inputs, tuple(cotangents), precision=jax.lax.Precision.HIGHEST
        )
        return {tap: found[tap] for tap in cotangents}

    if jnp.issubdtype(inputs.dtype, jnp.floating):
        return jax.vjp(taps, params, inputs)[1](cotangents)
    return *jax.vjp(lambda params: taps(params, inputs), params)[1](cotangents), None


def _cast(tree: Any, dtype: type[np.floating[Any]]) -> Any:
    """Every floating array of ``tree`` in ``dtype``; ids stay what they are."""

    def cast(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def _native(tree: Any) -> Any:
    """Every NumPy array of ``tree`` in the machine's byte order, in which JAX reads all bytes."""
    return jax.tree.map(lambda a: a.astype(a.dtype.newbyteorder("="), copy=False), tree)


@dataclass(frozen=True, slots=True)
class JaxModel:
    """A spec with its parameters on the device, computing in ``dtype``."""

    spec: ModelSpec
    params: Params
    dtype: type[np.floating[Any]]

    def forward(self, inputs: NDArray[Any], taps: Sequence[str] = ()) -> Mapping[str, NDArray[Any]]:
        """See :meth:`mixer_spec.backend.Model.forward`."""
        check_inputs(self.spec, inputs, taps)
        wanted = tuple(tap for tap in self.spec.taps if tap in taps)
        ids = np.issubdtype(inputs.dtype, np.integer)
        inputs = inputs.astype(np.int64 if ids else self.dtype, copy=False)
        with jax.enable_x64(True):
            found = _run(self.spec, self.params, _native(inputs), wanted, self.dtype)
            return {tap: np.asarray(x) for tap, x in found.items()}

    def vjp(self, inputs: NDArray[Any], cotangents: Mapping[str, NDArray[Any]]) -> Gradients:
        """See :meth:`mixer_spec.backend.Differentiable.vjp`."""
        check_inputs(self.spec, inputs)
        check_cotangents(self.spec, len(inputs), cotangents)
        with jax.enable_x64(True):
            params, of_inputs = _pull_back(
                self.spec, self.params, _native(inputs), _native(dict(cotangents)), self.dtype
            )
            return Gradients(
                weights=to_canonical(unstack(self.spec, jax.tree.map(np.asarray, params))),
                inputs=None if of_inputs is None else np.asarray(of_inputs),
            )

    def train_step(
        self,
        state: TrainState,
        inputs: NDArray[Any],
        labels: NDArray[Any],
        *,
        loss: CrossEntropy,
        optimiser: Optimiser,
    ) -> tuple[float, TrainState]:
        """See :meth:`mixer_spec.backend.Trainable.train_step`; needs Optax.

        64-bit types are enabled here too, so that Optax computes AdamW's ``1 - beta^t`` in float64.
        Without them it is off by 1e-5 of its value in the first steps.

        Raises:
            MissingExtraError: if Optax is not installed.
        """
        check_state(self.spec, optimiser, state)
        check_inputs(self.spec, inputs)
        check_labels(self.spec, len(inputs), labels)
        training = load_or_name_extra("train_step", _training)
        with jax.enable_x64(True):
            weights, slots, inputs = _cast(
                _native((dict(state.weights), dict(state.slots), inputs)), self.dtype
            )
            value, weights, slots = training.train_step(
                self.spec,
                weights,
                slots,
                np.int32(state.step),
                inputs,
                _native(labels),
                loss=loss,
                optimiser=optimiser,
                scan="stages" in self.params,
            )
            weights, slots = jax.tree.map(np.asarray, (weights, slots))
        return float(value), TrainState(step=state.step + 1, weights=weights, slots=slots)

    def export_weights(self) -> Weights:
        """See :meth:`mixer_spec.backend.Model.export_weights`."""
        on_host = jax.tree.map(np.asarray, self.params)
        return to_canonical(unstack(self.spec, on_host))


def _training() -> ModuleType:
    from . import training  # imports Optax, which only training needs

    return training


@dataclass(frozen=True, slots=True)
class JaxBackend:
    """JAX on its default device.

    Weights keep the dtype that they come in and are converted while computing. 64-bit types are
    enabled around each call and nowhere else, so the process's configuration stays as it is.

    Args:
        scan: run the blocks of a stage as one scanned body. The numbers are the same; a forward
            pass of 32 blocks compiles in half a second either way, and stacking copies the weights.
    """

    scan: bool = False

    def info(self) -> BackendInfo:
        """See :meth:`mixer_spec.backend.Backend.info`."""
        return BackendInfo(
            name="jax",
            versions={name: version(name) for name in ("jax", "jaxlib", "flax")},
            device=jax.devices()[0].device_kind,
            profiles=tuple(_DTYPES),
        )

    def load(
        self, spec: ModelSpec, weights: Weights, *, profile: Profile = "f32-strict"
    ) -> JaxModel:
        """See :meth:`mixer_spec.backend.Backend.load`."""
        check_profile(self.info(), profile)
        validate(spec, weights)
        with jax.enable_x64(True):
            params: Params = from_canonical(weights)
            if self.scan:
                # In NumPy: stacking on the device would make quiet a bfloat16 signalling NaN.
                params = stack(spec, params)
            params = jax.tree.map(_on_device, params)
        return JaxModel(spec, params, _DTYPES[profile])


def _on_device(array: NDArray[Any]) -> jax.Array:
    """The array on the default device; a read-only one is used in place where XLA can."""
    # On a CPU `device_put` shares the memory of a writable array too, and sees its later changes;
    # `jnp.array` would copy it by a program that XLA compiles for every shape.
    return jax.device_put(array.copy() if array.flags.writeable else array)
