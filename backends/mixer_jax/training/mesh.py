"""Where arrays lie: a mesh of one axis, batches cut along it, and parameters whole or cut too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray

from mixer_spec.errors import InputError

AXIS = "data"
Parameters = Literal["replicated", "sharded"]

_WORTH_SHARDING = 4 * 2**20
"""Bytes; what is smaller is on every device, since gathering it would cost more than it saves."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How a run's arrays are spread over the devices of all processes.

    Args:
        mesh: of one axis, ``"data"``.
        parameters: ``"replicated"`` on every device, or ``"sharded"`` over them, with the
            optimiser's memory and the average (FSDP).
        least: bytes from which on an array is sharded.
    """

    mesh: Mesh
    parameters: Parameters = "replicated"
    least: int = _WORTH_SHARDING

    @property
    def devices(self) -> int:
        """How many."""
        return int(self.mesh.size)

    def whole(self) -> NamedSharding:
        """Every device has all of it."""
        return NamedSharding(self.mesh, P())

    def rows(self) -> NamedSharding:
        """Every device has an equal part of the first axis."""
        return NamedSharding(self.mesh, P(AXIS))

    def of(self, tree: Any) -> Any:
        """The sharding of every array of a state; of parameters alone, and of all like them."""
        return jax.tree.map_with_path(self._of_leaf, tree)

    def _of_leaf(self, path: Sequence[Any], leaf: Any) -> NamedSharding:
        size = int(np.prod(leaf.shape)) * leaf.dtype.itemsize
        if self.parameters == "replicated" or size < self.least:
            return self.whole()
        # The first axis of stacked blocks is the one that is scanned: every device needs all of it.
        scanned = any(getattr(key, "key", None) == "stages" for key in path)
        able = [
            axis
            for axis in range(int(scanned), len(leaf.shape))
            if leaf.shape[axis] % self.devices == 0
        ]
        if not able:
            return self.whole()
        longest = max(able, key=lambda axis: leaf.shape[axis])
        return NamedSharding(self.mesh, P(*[None] * longest, AXIS))

    def place_rows(self, local: NDArray[Any]) -> jax.Array:
        """This process's rows ``[row, ...]`` as its part of the global array."""
        return jax.make_array_from_process_local_data(self.rows(), local)


def placement(
    *,
    devices: Sequence[jax.Device] | None = None,
    parameters: Parameters = "replicated",
    least: int = _WORTH_SHARDING,
) -> Placement:
    """The placement over ``devices``, by default all of all processes.

    Example:
        >>> placement().parameters
        'replicated'
    """
    found = list(jax.devices() if devices is None else devices)
    # jax.make_mesh makes explicit axes unless told: those refuse a plain program.
    mesh = jax.make_mesh((len(found),), (AXIS,), (AxisType.Auto,), devices=found)
    return Placement(mesh, parameters, least)


def check_batch(batch: int, accumulation: int, devices: int) -> None:
    """Refuse a batch that devices and parts of a step do not share evenly.

    Raises:
        InputError: saying which batches do.
    """
    unit = accumulation * devices
    if batch % unit:
        lower, upper = batch // unit * unit, -(-batch // unit) * unit
        near = " or ".join(str(size) for size in (lower, upper) if size)
        raise InputError(
            "recipe.batch",
            f"does not divide over {devices} devices and {accumulation} parts of a step; expected "
            f"a multiple of {unit}, got {batch}; do `--set batch={near.split()[0]}` ({near})",
        )
