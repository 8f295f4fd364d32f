"""The data and the training loop of ``examples/digits.py``: a small Mixer on real digits, in JAX."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mixer_spec import families
from mixer_spec.preprocess import AsIs, Preprocessing, preprocess
from mixer_spec.weights import Weights

Array = NDArray[Any]

SEED = 0
STEPS, WARM_UP, BATCH = 1000, 50, 64
PEAK_LEARNING_RATE, WEIGHT_DECAY, MIXUP = 3e-3, 0.1, 0.5
HELD_OUT = 360  # of 1797 images

SPEC = families.mixer(
    image_size=8, patch=2, channels=64, depth=2, token_hidden=32, channel_hidden=256, classes=10
)
PREPROCESSING = Preprocessing(
    orientation="stored",
    geometry=AsIs(),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    source="mixer_spec: examples/digits.py",
)


@dataclass(frozen=True)
class Examples:
    """Images with their labels.

    Args:
        images: ``[example, height, width, rgb]`` in uint8.
        pixels: the same, preprocessed.
        labels: ``[example]``, from 0 to 9.
    """

    images: Array
    pixels: Array
    labels: Array


@dataclass(frozen=True)
class Digits:
    """The data set in two parts that share no image."""

    train: Examples
    held_out: Examples


def load_digits() -> Digits:
    """scikit-learn's digits: grey values from 0 to 16, made RGB of 8 bits, split by class."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    data = datasets.load_digits()
    grey = np.rint(data.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    train, held_out = train_test_split(
        np.arange(len(images)), test_size=HELD_OUT, stratify=data.target, random_state=SEED
    )
    pixels = np.stack([preprocess(image, PREPROCESSING, 8) for image in images])
    parts = (Examples(images[part], pixels[part], data.target[part]) for part in (train, held_out))
    return Digits(*parts)


def batches(examples: Examples) -> Iterator[tuple[Array, Array]]:
    """Pixels and targets ``[batch, class]`` without end, each image mixed with another (mixup).

    Source:
        arXiv:1710.09412, with one share for a batch.
    """
    generator = np.random.default_rng(SEED)
    targets = np.eye(10, dtype=np.float32)[examples.labels]
    while True:
        order = generator.permutation(len(targets))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            share = np.float32(generator.beta(MIXUP, MIXUP))
            yield _mix(examples.pixels[chosen], share), _mix(targets[chosen], share)


def _mix(array: Array, share: np.float32) -> Array:
    """Each row mixed with the one that lies opposite."""
    mixed: Array = share * array + (1 - share) * array[::-1]
    return mixed


# --- training, in JAX -----------------------------------------------------------------------


def train(digits: Digits, out: Console) -> tuple[Weights, float]:
    """The trained weights by their canonical names, and the held-out accuracy in JAX."""
    import jax
    import optax

    from mixer_jax import apply, init, to_canonical

    rate = optax.warmup_cosine_decay_schedule(0.0, PEAK_LEARNING_RATE, WARM_UP, STEPS)
    optimiser = optax.adamw(rate, weight_decay=WEIGHT_DECAY)

    def loss(params: Any, pixels: jax.Array, targets: jax.Array) -> jax.Array:
        losses: jax.Array = optax.softmax_cross_entropy(apply(SPEC, params, pixels), targets)
        return losses.mean()

    @jax.jit
    def step(
        params: Any, state: Any, pixels: jax.Array, targets: jax.Array
    ) -> tuple[Any, Any, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(params, pixels, targets)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    @jax.jit
    def classify(params: Any, pixels: jax.Array) -> jax.Array:
        return apply(SPEC, params, pixels).argmax(axis=-1)

    params = init(SPEC, SEED)
    state = optimiser.init(params)
    accuracy = 0.0
    with _progress(out) as progress:
        task = progress.add_task("Training in JAX", total=STEPS, loss=0.0, accuracy=0.0)
        for number, (pixels, targets) in enumerate(
            itertools.islice(batches(digits.train), STEPS), 1
        ):
            params, state, value = step(params, state, pixels, targets)
            progress.advance(task)
            if number % 50 == 0:
                found = classify(params, digits.held_out.pixels)
                accuracy = float((found == digits.held_out.labels).mean())
                progress.update(task, loss=float(value), accuracy=accuracy)
    out.print()
    return {name: np.asarray(array) for name, array in to_canonical(params).items()}, accuracy


def _progress(out: Console) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}[/]"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  held-out accuracy {task.fields[accuracy]:.1%}"),
        TimeElapsedColumn(),
        console=out,
    )
