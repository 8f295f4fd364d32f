"""The JAX backend: NumPy in, NumPy out, behind the protocol of ``mixer_spec.backend``."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mixer_spec import ModelSpec
from mixer_spec.backend import BackendInfo, Profile, check_inputs, check_profile
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
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return apply_with_taps(spec, params, inputs, taps, precision=jax.lax.Precision.HIGHEST)


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
            found = _run(self.spec, self.params, inputs, wanted, self.dtype)
            return {tap: np.asarray(x) for tap, x in found.items()}

    def export_weights(self) -> Weights:
        """See :meth:`mixer_spec.backend.Model.export_weights`."""
        on_host = jax.tree.map(np.asarray, self.params)
        return to_canonical(unstack(self.spec, on_host))


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
    # On a CPU `device_put` shares the memory of a writable array too, and sees its later changes.
    return jnp.array(array) if array.flags.writeable else jax.device_put(array)
