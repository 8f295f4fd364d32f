"""Held-out loss and accuracy of the state of a run: every example once, whatever the batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mixer_spec import ModelSpec
from mixer_spec.evaluation import EvaluationBatch
from mixer_spec.recipe import Recipe

from .losses import losses
from .mesh import Placement
from .optim import Tree
from .step import forward


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How good a model is on a set of examples.

    Args:
        examples: how many.
        correct: how many of them got their class the largest logit.
        loss: the mean.
    """

    examples: int
    correct: int
    loss: float

    @property
    def accuracy(self) -> float:
        """The part that is correct."""
        return self.correct / self.examples


Evaluate = Callable[[Tree, Iterable[EvaluationBatch]], Score]


@functools.lru_cache(maxsize=8)
def make_evaluate(spec: ModelSpec, recipe: Recipe, placed: Placement) -> Evaluate:
    """The compiled evaluation of a run; all its batches must be of one size."""

    @jax.jit
    def judge(
        params: Tree, images: jax.Array, labels: jax.Array, real: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        logits = forward(spec, recipe, params, images)
        right = (logits.argmax(axis=-1) == labels) & real
        one_hot = jax.nn.one_hot(labels, spec.classes, dtype=logits.dtype)
        each = losses(recipe.loss, logits, one_hot)
        return real.sum(), right.sum(), jnp.where(real, each, 0).sum()

    def evaluate(params: Tree, batches: Iterable[EvaluationBatch]) -> Score:
        examples = correct = 0
        loss = 0.0
        for images, labels, real in batches:
            given = (_local(part, placed) for part in (images, labels, real))
            count, right, total = judge(params, *map(placed.place_rows, given))
            examples, correct, loss = (
                examples + int(count),
                correct + int(right),
                loss + float(total),
            )
        return Score(examples=examples, correct=correct, loss=loss / examples)

    return evaluate


def _local(part: NDArray[Any], placed: Placement) -> NDArray[Any]:
    """This process's rows of a global array, with zeros where the devices' parts are not equal."""
    missing = -len(part) % placed.devices
    whole = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])
    count = len(whole) // jax.process_count()
    return whole[jax.process_index() * count :][:count]
