"""A training job: everything a trainer is given, and the trainer itself, found by its entry point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .data.source import Source
from .errors import MissingExtraError, MixerSpecError
from .extras import load_or_name_extra
from .model import ModelSpec
from .recipe import Recipe
from .weights import Weights

GROUP = "mixer_spec.trainers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """The processes that train together.

    Args:
        coordinator: ``host:port`` of the first one; empty where the machines know (TPU pods, Slurm).
        processes: how many; 0 where the machines know.
        process: the number of this one.
        patience: seconds without a sign of life after which the others give a process up.
    """

    coordinator: str = ""
    processes: int = 0
    process: int = 0
    patience: int = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Habits:
    """What a job does beside its recipe; nothing here changes a weight.

    Args:
        log_every: steps between lines of metrics.
        evaluate_every: steps between evaluations.
        save_every: steps between checkpoints.
        keep: how many checkpoints stay.
        workers: processes that prepare batches; 0 for threads.
        parameters: whole on every device, or sharded over them.
        profile: the first step and the number of steps that are traced; ``None`` for none.
    """

    log_every: int = 10
    evaluate_every: int = 1000
    save_every: int = 500
    keep: int = 3
    workers: int = 0
    parameters: Literal["replicated", "sharded"] = "replicated"
    profile: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Job:
    """One training.

    Args:
        spec: the architecture.
        recipe: how it is trained.
        weights: before the first step, canonical name to array.
        train: the examples to learn from.
        held_out: the examples to evaluate on; ``None`` for none.
        folder: for everything that is written.
        variant: the published name of the architecture.
        provenance: where model and data come from, for the trained file.
        habits: what is written, and when.
        cluster: ``None`` for a process that trains alone.
    """

    spec: ModelSpec
    recipe: Recipe
    weights: Weights
    train: Source
    held_out: Source | None
    folder: Path
    variant: str | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    habits: Habits = Habits()
    cluster: Cluster | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trained:
    """What a job ends with.

    Args:
        files: what was written, by what it is: ``model``, ``onnx``, ``picture`` ...
        accuracy: on the held-out examples; ``None`` without any.
        resumed: the step that it went on from.
        unreadable: images that were left out, and why.
        deployment: the proof that the file computes the same everywhere, as plain data; ``None``
            without held-out examples.
    """

    files: Mapping[str, Path]
    accuracy: float | None
    resumed: int
    unreadable: tuple[str, ...]
    deployment: Mapping[str, Any] | None


class Stopped(MixerSpecError):
    """A job was told to end before its last step, by SIGTERM or Ctrl-C; its state is saved."""


def trainer() -> Callable[[Job], Trained]:
    """The installed trainer.

    Raises:
        MissingExtraError: if there is none, or its packages are not installed.
    """
    from importlib.metadata import entry_points  # a fifth of the time of `import mixer_spec`

    for entry in sorted(entry_points(group=GROUP)):
        found: Callable[[Job], Trained] = load_or_name_extra("train", entry.load)
        return found
    raise MissingExtraError("train", f"needs a trainer; expected one in {GROUP}")
