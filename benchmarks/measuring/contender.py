"""What a contender is given and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixer_conformance import conformance_inputs, conformance_weights
from mixer_spec import ModelSpec, variant
from mixer_spec.weights import Weights

PRODUCT = (1568, 768, 3072)
"""The first product of B/16's channel mixing for eight images: rows, inner axis, columns."""


class Task(NamedTuple):
    """What every contender is given; ``name`` is the variant's, ``images`` are ``[batch, height, width, rgb]``."""

    name: str
    spec: ModelSpec
    weights: Weights
    images: NDArray[np.float32]
    threads: int
    folder: Path


class Contender(NamedTuple):
    """A loaded model: ``forward`` gives the logits ``[batch, class]``; ``product`` runs PRODUCT."""

    forward: Callable[[], NDArray[Any]]
    product: Callable[[], object]


def task_of(name: str, *, batch: int, threads: int, folder: Path) -> Task:
    """The task for the variant called ``name``, with conformance weights: its head is not zero."""
    spec = variant(name).spec()
    weights, images = conformance_weights(spec), conformance_inputs(spec, batch)
    return Task(name, spec, weights, images, threads, folder)
