"""Few-shot classification of frozen features: regularised least squares, in float64.

What it says about a model costs one forward pass of each image, and nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ._fields import Checked, Count, Index, PositiveFloat
from .data.source import Source
from .errors import InputError
from .preprocess import Preprocessing, preprocess

_Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class FewShot(Checked):
    """The settings; those of :data:`BIG_VISION` are what papers report.

    Args:
        shots: examples of each class that a classifier is fitted to, one classifier for each.
        seeds: of the choice of examples; results are means over them.
        regularisation: what the squared length of the weights costs beside the squared error.
        constant: the feature that is the same everywhere, and large, so that the weight on it, a
            bias, hardly costs anything.
        epsilon: added to the standard deviation that each feature is divided by.
    """

    kind: ClassVar[str] = "few_shot"
    shots: tuple[Count, ...]
    seeds: tuple[Index, ...]
    regularisation: PositiveFloat
    constant: PositiveFloat
    epsilon: PositiveFloat

    def broken_rules(self) -> Iterator[str]:
        """There is something to fit."""
        for name in ("shots", "seeds"):
            if not getattr(self, name):
                yield f"{name} must not be empty"


BIG_VISION = FewShot(
    shots=(1, 5, 10, 25), seeds=(0, 1, 2), regularisation=2.0**10, constant=100.0, epsilon=1e-5
)
"""The settings of google-research/big_vision, evaluators/fewshot_lsr.py, which computes in float32."""


def choose(labels: NDArray[Any], classes: int, shots: int, seed: int) -> NDArray[np.intp]:
    """Numbers of ``shots`` examples of each class, class after class; fewer shots are the first.

    Raises:
        InputError: naming the classes that have fewer examples.

    Example:
        >>> choose(np.array([0, 1, 0, 1, 0]), classes=2, shots=2, seed=0).tolist()
        [4, 0, 3, 1]
    """
    counts = np.bincount(labels, minlength=classes)
    few = [f"class {label} has {counts[label]}" for label in np.flatnonzero(counts < shots)]
    if few:
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        raise InputError(
            "few-shot",
            f"too few examples; expected {shots} of each class, got {', '.join(few[:5])}{more}; "
            "do fewer --shots",
        )
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(np.flatnonzero(labels == label)) for label in range(classes)]
    return np.concatenate([order[:shots] for order in orders])


def least_squares(features: _Array, targets: _Array, regularisation: float) -> _Array:
    """The ``w`` with the least ``|X w - y|^2 + regularisation |w|^2``.

    Args:
        features: X, ``[example, feature]``.
        targets: y, ``[example, class]``.
        regularisation: above 0.

    Returns:
        ``[feature, class]``, from a system of the smaller of both sizes.

    Example:
        >>> least_squares(np.array([[2.0]]), np.array([[3.0]]), 2.0).item()  # 6 / (4 + 2)
        1.0
    """
    examples, width = features.shape
    if examples < width:
        gram = features @ features.T + regularisation * np.eye(examples)
        return np.asarray(features.T @ np.linalg.solve(gram, targets), np.float64)
    gram = features.T @ features + regularisation * np.eye(width)
    return np.asarray(np.linalg.solve(gram, features.T @ targets), np.float64)


def classify(
    settings: FewShot, train: NDArray[Any], labels: NDArray[Any], test: NDArray[Any], classes: int
) -> NDArray[np.intp]:
    """The class of each of ``test``, by a classifier fitted to ``train``.

    Features are whitened by the mean and the standard deviation of ``train``; the target is 1 for
    the class and -1 for the others.

    Args:
        settings: of the fit.
        train: ``[example, feature]``.
        labels: ``[example]`` of ``train``.
        test: ``[example, feature]``.
        classes: how many there are.
    """
    train, test = train.astype(np.float64), test.astype(np.float64)
    mean, scale = train.mean(0), train.std(0) + settings.epsilon

    def prepared(features: _Array) -> _Array:
        constant = np.full((len(features), 1), settings.constant)
        return np.concatenate([(features - mean) / scale, constant], axis=1)

    targets = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    weights = least_squares(prepared(train), targets, settings.regularisation)
    return np.asarray(np.argmax(prepared(test) @ weights, axis=1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracies:
    """What came out.

    Args:
        accuracies: of the test examples, for each number of shots one for each seed.
        train_examples: how many different ones a classifier was fitted to.
        test_examples: how many were classified.
    """

    accuracies: Mapping[int, tuple[float, ...]]
    train_examples: int
    test_examples: int

    def mean(self, shots: int) -> float:
        """The mean accuracy over the seeds."""
        return float(np.mean(self.accuracies[shots]))


def few_shot(
    settings: FewShot,
    train_labels: NDArray[Any],
    test_labels: NDArray[Any],
    classes: int,
    train_features: Callable[[NDArray[np.intp]], NDArray[Any]],
    test_features: NDArray[Any],
) -> Accuracies:
    """Fit and test a classifier for every number of shots and every seed.

    Args:
        settings: shots, seeds, regularisation.
        train_labels: ``[example]``, of all that examples are chosen from.
        test_labels: ``[example]``.
        classes: how many there are.
        train_features: from the numbers of the chosen examples to ``[example, feature]``; asked
            once, so that no feature is computed that is not needed.
        test_features: ``[example, feature]``.

    Raises:
        InputError: if a class has too few examples.
    """
    chosen = {
        (shots, seed): choose(train_labels, classes, shots, seed)
        for shots in settings.shots
        for seed in settings.seeds
    }
    needed = np.unique(np.concatenate([*chosen.values()]))
    features = train_features(needed)

    def accuracy(numbers: NDArray[np.intp]) -> float:
        rows = np.searchsorted(needed, numbers)
        found = classify(settings, features[rows], train_labels[numbers], test_features, classes)
        return float((found == test_labels).mean())

    return Accuracies(
        accuracies={
            shots: tuple(accuracy(chosen[shots, seed]) for seed in settings.seeds)
            for shots in settings.shots
        },
        train_examples=len(needed),
        test_examples=len(test_labels),
    )


def measure(
    settings: FewShot,
    forward: Callable[[NDArray[Any]], NDArray[Any]],
    sources: tuple[Source, Source],
    preprocessing: Preprocessing,
    image_size: tuple[int, int],
    batch: int,
    tell: Callable[[str], None] = lambda activity: None,
) -> Accuracies:
    """Few-shot accuracy of the features that ``forward`` makes, on two sources.

    Args:
        settings: shots, seeds, regularisation.
        forward: from images ``[row, height, width, rgb]`` to features ``[row, feature]``.
        sources: of the examples to fit to, and of those to classify.
        preprocessing: how a photo becomes pixels.
        image_size: the model's height and width.
        batch: images in a forward pass.
        tell: what is being done.

    Raises:
        FileError, InputError: if an image cannot be read, a feature is not a finite number, or a
            class has too few examples.
    """
    train, test = sources
    if tuple(train.classes) != tuple(test.classes):
        raise InputError(
            "few-shot",
            f"the splits differ in their classes; expected {len(train.classes)} of the same "
            f"names, got {len(test.classes)}",
        )

    def features(source: Source, numbers: Sequence[int]) -> NDArray[Any]:
        found = []
        for first in range(0, len(numbers), batch):
            tell(f"images: {first} of {len(numbers)}")
            examples = [source[number] for number in numbers[first : first + batch]]
            images = [preprocess(e.image, preprocessing, image_size) for e in examples]
            found.append(forward(np.stack(images)))
            if not np.isfinite(found[-1]).all():
                raise InputError("features", "are not finite; expected numbers, got inf or nan")
        return np.concatenate(found)

    tell("labels")
    train_labels, test_labels = (
        np.array([source.label(number) for number in range(len(source))]) for source in sources
    )
    return few_shot(
        settings,
        train_labels,
        test_labels,
        len(train.classes),
        lambda numbers: features(train, numbers.tolist()),
        features(test, range(len(test))),
    )
