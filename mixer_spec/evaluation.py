"""Every example of a set once, in batches of one size; and how good a model is on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data.source import Source
from .errors import InputError
from .preprocess import Preprocessing, preprocess

EvaluationBatch = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]
"""Images ``[row, height, width, rgb]``, labels ``[row]``, and which rows are examples: the last
batch is filled up with others, so that all have one size and none is left out."""


def evaluation_batches(
    source: Source, preprocessing: Preprocessing, image_size: tuple[int, int], batch: int
) -> Iterator[EvaluationBatch]:
    """The whole of ``source`` in order, as a model takes it.

    Args:
        source: the examples.
        preprocessing: how a photo becomes pixels.
        image_size: the model's height and width.
        batch: rows of each batch.

    Raises:
        FileError, InputError: if an image cannot be read; an evaluation without it is another.

    Example:
        >>> from mixer_spec.data import open_source
        >>> from mixer_spec.recipes import recipe
        >>> how = recipe("digits").data.evaluation
        >>> sizes = [real.sum() for _, _, real in
        ...          evaluation_batches(open_source("digits", "test"), how, (8, 8), 100)]
        >>> [int(size) for size in sizes]
        [100, 100, 100, 60]
    """
    for first in range(0, len(source), batch):
        numbers = np.arange(first, min(first + batch, len(source)))
        images = np.zeros((batch, *image_size, 3), np.float32)
        labels, real = np.zeros(batch, np.int64), np.zeros(batch, np.bool_)
        for row, number in enumerate(numbers):
            example = source[int(number)]
            images[row] = preprocess(example.image, preprocessing, image_size)
            labels[row], real[row] = example.label, True
        yield images, labels, real


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Predictions:
    """What a model says of every example of a set.

    Args:
        classes: ``[example]``, that of the largest logit.
        labels: ``[example]``, the true ones.
    """

    classes: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def correct(self) -> int:
        """How many are right."""
        return int((self.classes == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """The part that is right."""
        return self.correct / len(self.labels)


def predictions(
    forward: Callable[[NDArray[Any]], NDArray[Any]], batches: Iterator[EvaluationBatch]
) -> Predictions:
    """What a model says of every example.

    Args:
        forward: from images ``[row, height, width, rgb]`` to logits ``[row, class]``.
        batches: of :func:`evaluation_batches`.

    Raises:
        InputError: if a logit is not a number, or there is no example.
    """
    classes, truth = [], []
    for images, labels, real in batches:
        logits = forward(images)[real]
        if not np.isfinite(logits).all():
            raise InputError("logits", "are not finite; expected numbers, got inf or nan")
        classes.append(logits.argmax(axis=-1))
        truth.append(labels[real])
    if not classes:
        raise InputError("evaluation", "there are no examples; expected at least one")
    return Predictions(classes=np.concatenate(classes), labels=np.concatenate(truth))


def check_classes(classes: int, source: Source, where: str) -> None:
    """Refuse examples of other classes than a model has.

    Raises:
        InputError: with both numbers.
    """
    if classes != len(source.classes):
        names = ", ".join(list(source.classes)[:5])
        raise InputError(
            where,
            f"class count does not match the data; expected {len(source.classes)} ({names} ...), "
            f"got a model of {classes}; do another --model, or a recipe with a new head",
        )
