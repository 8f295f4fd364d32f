"""Checkpoints of a run: written beside the training, checked when they are read. Only Orbax user.

A checkpoint holds the state, and beside it what the run is: its recipe, architecture, data and
versions. It is written to a folder of another name first, so that there is never half of one; and
it carries a checksum of the state that does not depend on where the arrays lie.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from mixer_spec import ModelSpec
from mixer_spec.errors import FileError, InputError
from mixer_spec.recipe import Recipe

from .state import State

_STATE, _ABOUT = "state", "about"


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What a run is. Only a run that is the same may go on from a checkpoint.

    Args:
        spec: the architecture.
        recipe: how it is trained.
        data: the fingerprint of the training data.
        weights: the digest of the weights before the first step.
        versions: of the packages that compute; others are allowed, and told, since bits may differ.
    """

    spec: ModelSpec
    recipe: Recipe
    data: str
    weights: str
    versions: Mapping[str, str]

    def to_data(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {
            "spec": self.spec.to_data(),
            "recipe": self.recipe.to_data(),
            "data": self.data,
            "weights": self.weights,
            "versions": dict(self.versions),
        }


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: is made if there is none.
        identity: of the run.
        keep: how many are kept; the oldest goes first.
        tell: is told of every checkpoint that cannot be used, and of other versions.
    """

    def __init__(
        self, folder: Path, identity: Identity, *, keep: int, tell: Callable[[str], None]
    ) -> None:
        self._folder = folder.resolve()
        self._identity = identity
        self._tell = tell
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, cleanup_tmp_directories=True
            ),
        )

    def save(self, state: State) -> None:
        """Begin to write a checkpoint; returns when the state may change again.

        Raises:
            FileError: if this one or the one before could not be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        about = {**self._identity.to_data(), "checksum": checksum(state)}
        parts = {_STATE: ocp.args.StandardSave(_named(state)), _ABOUT: ocp.args.JsonSave(about)}
        self._guarded(lambda: self._manager.save(step, args=ocp.args.Composite(**parts)))

    def wait(self) -> None:
        """Return when everything is on the disk.

        Raises:
            FileError: if a checkpoint could not be written.
        """
        self._guarded(self._manager.wait_until_finished)

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
            self._manager.check_for_errors()
        except Exception as error:
            # Not as the manager counts, to whom what it began to write is there.
            whole = [int(path.name) for path in self._folder.iterdir() if path.name.isdigit()]
            good = f"the last good one is of step {max(whole)}" if whole else "there is none yet"
            raise FileError(
                str(self._folder),
                f"a checkpoint could not be written; {good}; make room, and start the same command "
                f"again; got: {error}",
            ) from error

    def restore(self, like: State) -> State | None:
        """The newest good state, on the devices that ``like`` says; ``None`` without any.

        A checkpoint that cannot be read, or whose state is not the one that was saved, is moved
        aside and told.

        Args:
            like: shapes, dtypes and shardings, see :func:`~mixer_jax.training.state.abstract_state`.

        Raises:
            InputError: if the checkpoint is of another recipe, architecture or data.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state = self._read(step, like)
            except InputError:
                raise
            except Exception as error:  # noqa: BLE001 - a damaged file raises whatever it likes
                self._set_aside(step, error)
            else:
                return state
        return None

    def _read(self, step: int, like: State) -> State:
        about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))
        about = about[_ABOUT]
        self._check_identity(step, about)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_named(like)))
        arrays = self._manager.restore(step, args=args)[_STATE]
        ordered = [arrays[name] for name in _named(like)]
        state: State = jax.tree.unflatten(jax.tree.structure(like), ordered)
        found, expected = checksum(state), about["checksum"]
        if found != expected:
            raise FileError(
                str(self._folder / str(step)),
                f"is not what was saved; expected checksum {expected}, got {found}",
            )
        return state

    def _check_identity(self, step: int, about: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(self._identity.to_data()))
        before, after = flat(about["versions"]), flat(now["versions"])
        if before != after:
            lines = "".join(f"\n  {line}" for line in differences(before, after))
            self._tell(f"other versions than before; bits may differ from here on{lines}")
        keys = ("spec", "recipe", "data", "weights")
        before = flat({key: about[key] for key in keys})
        after = flat({key: now[key] for key in keys})
        if before != after:
            lines = "".join(f"\n  {line}" for line in differences(before, after))
            raise InputError(
                str(self._folder / str(step)),
                f"is of another run; go on as it was begun, or choose another --out{lines}",
            )

    def _set_aside(self, step: int, error: Exception) -> None:
        damaged = self._folder / str(step)
        aside = damaged.with_name(f"{step}.damaged")
        number = 1
        while aside.exists():
            number += 1
            aside = damaged.with_name(f"{step}.damaged-{number}")
        reason = str(error).partition("\n")[0][:300] or type(error).__name__
        if jax.process_index() == 0:
            damaged.rename(aside)
        multihost_utils.sync_global_devices(f"checkpoint {step} set aside")
        self._manager.reload()
        others = self._manager.latest_step()
        back = "from the beginning" if others is None else f"back to step {others}"
        self._tell(
            f"checkpoint {step} is damaged and now called {aside.name}; going {back}: {reason}"
        )

    def close(self) -> None:
        """Finish all writing."""
        self.wait()
        self._manager.close()


def _named(state: Any) -> dict[str, Any]:
    """The arrays of a state by their path."""
    leaves = jax.tree.leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def flat(data: Any, place: str = "") -> dict[str, Any]:
    """Nested data with one entry for each leaf.

    Example:
        >>> flat({"recipe": {"steps": 3, "batch": [1, 2]}})
        {'recipe.steps': 3, 'recipe.batch.0': 1, 'recipe.batch.1': 2}
    """
    if not isinstance(data, dict | list):
        return {place: data}
    items = data.items() if isinstance(data, dict) else enumerate(data)
    dot = f"{place}." if place else ""
    return {k: v for key, value in items for k, v in flat(value, f"{dot}{key}").items()}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What changed, as ``-`` and ``+`` lines.

    Example:
        >>> differences({"steps": 3, "seed": 0}, {"steps": 4, "seed": 0})
        ['- steps 3', '+ steps 4']
    """
    places = [place for place in {**before, **after} if before.get(place) != after.get(place)]
    return [
        f"{sign} {place} {side[place]!r}"
        for place in places
        for sign, side in (("-", before), ("+", after))
        if place in side
    ]


# --- checksum -------------------------------------------------------------------------------


def checksum(state: State) -> int:
    """32 bits over every bit of a state and its place, whichever devices hold it."""
    return int(_checksum(state))


@jax.jit
def _checksum(state: State) -> jax.Array:
    total = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(state):
        words = jax.lax.bitcast_convert_type(leaf, jnp.uint32)
        # Sums of whole numbers do not depend on their order. An odd factor loses no bit, and
        # another at each place notices what was exchanged.
        factor = jnp.ones((), jnp.uint32)
        for axis in range(words.ndim):
            place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
            factor = factor + place * np.uint32(2 * (7919 + 104_729 * axis))
        total = total * np.uint32(2_654_435_761) + (words * factor).sum(dtype=jnp.uint32)
    return total
