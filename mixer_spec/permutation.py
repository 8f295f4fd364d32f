"""The paper's experiment on shuffled inputs: a Mixer does not know how an image was laid out.

Shuffle the patches of every image by one order, and the pixels within every patch by another. The
same two orders applied to the weights give a model that computes the same, and that learns the
same, step by step. No such weights exist where all pixels of an image change places.

Source:
    arXiv:2105.01601v4, section 4.3, "Invariance to input permutations".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .backend import Backend, Trainable
from .errors import InputError, SpecError
from .layers import ClassToken, DepthwiseConv, PatchEmbed, TakeToken
from .model import ModelSpec
from .shapes import Image, Table
from .surgery.walk import Array, rebuild
from .training import CrossEntropy, Optimiser, initial_state
from .weights import Weights, validate

_WHERE = "permutation"

Examples = tuple[NDArray[Any], NDArray[Any]]
"""Images ``[batch, height, width, rgb]`` and labels ``[batch]``."""


@dataclass(frozen=True, slots=True, eq=False)
class InputPermutation:
    """One order for the patches of every image, and one for the pixels of every patch.

    Args:
        grid: rows and columns of patches.
        patch: height and width of a patch in pixels.
        patches: ``[token]``: which patch of the old image stands at each place of the new one.
        pixels: ``[pixel]``: the same within a patch; its colours stay together.

    Example:
        >>> swap = InputPermutation((1, 2), (1, 1), np.array([1, 0]), np.array([0]))
        >>> swap.of_images(np.array([[[[7.0], [8.0]]]])).ravel().tolist()
        [8.0, 7.0]
    """

    grid: tuple[int, int]
    patch: tuple[int, int]
    patches: NDArray[np.intp]
    pixels: NDArray[np.intp]

    def of_images(self, images: NDArray[Any]) -> NDArray[Any]:
        """The shuffled images; both are ``[batch, height, width, rgb]``."""
        (rows, columns), (height, width) = self.grid, self.patch
        cut = images.reshape(len(images), rows, height, columns, width, -1).swapaxes(2, 3)
        flat = cut.reshape(len(images), rows * columns, height * width, -1)
        mixed = flat[:, self.patches][:, :, self.pixels]
        return mixed.reshape(cut.shape).swapaxes(2, 3).reshape(images.shape)


def draw_permutation(spec: ModelSpec, seed: int) -> InputPermutation:
    """Two random orders for the images of ``spec``.

    Raises:
        SpecError: if the model does not begin with patches of an image.
    """
    if not isinstance(spec.input, Image) or not isinstance(spec.stem, PatchEmbed):
        raise SpecError(_WHERE, f"is of images in patches; expected an image, got {spec.input}")
    grid = spec.stem.outgoing(spec.input).grid
    assert grid is not None
    generator = np.random.default_rng(seed)
    height, width = spec.stem.patch
    patches, pixels = (generator.permutation(n) for n in (grid[0] * grid[1], height * width))
    return InputPermutation(grid, (height, width), patches, pixels)


def permute_weights(
    spec: ModelSpec, weights: Weights, permutation: InputPermutation
) -> dict[str, Array]:
    """The weights that do with shuffled images what ``weights`` do with images.

    Rows of the stem follow the pixels. Columns of kernels that tokens enter, rows of kernels and
    biases that tokens leave, and positions, follow the patches. Hidden units keep their places.

    Raises:
        SpecError: if a layer knows which patches are neighbours, or takes the token of one patch.
        WeightsError: if the weights do not fit the spec.
    """
    validate(spec, weights)
    problems = [
        f"{node.path}: a depthwise_conv knows the neighbours of a patch; there are no such weights"
        for node in spec.nodes()
        if isinstance(node.layer, DepthwiseConv)
    ]
    prefix = sum(isinstance(layer, ClassToken) for layer in spec.embeddings)
    if isinstance(spec.pool, TakeToken) and spec.pool.index >= prefix:
        problems.append("the pool takes the token of one patch; there are no such weights")
    if problems:
        raise SpecError(_WHERE, problems)

    def of_image(table: Table) -> _Reordered:
        first = np.arange(table.prefix)
        return _Reordered(np.concatenate([first, table.prefix + permutation.patches]))

    assert isinstance(spec.input, Image)
    _, found = rebuild(
        spec, weights, spec.input, of_image, lambda tokens: _Reordered(np.arange(tokens))
    )
    kernel = weights["stem.kernel"]
    rows = kernel.reshape(-1, *kernel.shape[2:])[permutation.pixels]
    return found | {"stem.kernel": rows.reshape(kernel.shape)}


@dataclass(frozen=True, slots=True, eq=False)
class _Reordered:
    """A token axis in another order; see :class:`mixer_spec.surgery.walk.Axis`.

    Args:
        order: ``[token]``: the old place of each token.
    """

    order: NDArray[np.intp]

    @property
    def tokens(self) -> int:
        return self.order.size

    def stacked(self, count: int) -> Self:
        return type(self)(np.concatenate([self.order + n * self.tokens for n in range(count)]))

    def part(self, count: int) -> Self | None:
        tokens, rest = divmod(self.tokens, count)
        first = type(self)(self.order[:tokens])
        return first if not rest and self.same(first.stacked(count)) else None

    def same(self, other: Self) -> bool:
        return np.array_equal(self.order, other.order)

    def kernel(self, kernel: Array, entering: Self) -> Array:
        return kernel[..., self.order[:, None], entering.order]

    def spread(self, values: Array) -> Array:
        return values[..., self.order]

    def positions(self, embedding: Array) -> Array:
        return embedding[self.order]


# --- the controls ---------------------------------------------------------------------------


def shuffle_all_pixels(images: NDArray[Any], seed: int) -> NDArray[Any]:
    """All pixels of an image in one random order, the same for every image.

    Args:
        images: ``[batch, height, width, rgb]``; the colours of a pixel stay together.
        seed: of the order.
    """
    flat = images.reshape(len(images), -1, images.shape[-1])
    order = np.random.default_rng(seed).permutation(flat.shape[1])
    return flat[:, order].reshape(images.shape)


def shuffle_each_image(images: NDArray[Any], seed: int) -> NDArray[Any]:
    """As :func:`shuffle_all_pixels`, in another order for every image: nothing is left to learn."""
    return np.concatenate(
        [shuffle_all_pixels(images[n : n + 1], seed + n) for n in range(len(images))]
    )


# --- the experiment -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectories:
    """The loss at each step of four trainings that differ in nothing but what is said here.

    Args:
        plain: images and weights as they are.
        permuted: both shuffled.
        unadapted: shuffled images, weights as they are.
        all_pixels: all pixels of the images in one order, with the weights of ``permuted``.
        each_image: every image in an order of its own, weights as they are.
    """

    plain: tuple[float, ...]
    permuted: tuple[float, ...]
    unadapted: tuple[float, ...]
    all_pixels: tuple[float, ...]
    each_image: tuple[float, ...]

    def distance(self, other: str) -> float:
        """The greatest difference of a loss from ``plain``, relative to it."""
        plain, losses = np.array(self.plain), np.array(getattr(self, other))
        return float(np.max(np.abs(losses - plain) / np.abs(plain)))


Train = Callable[[Weights, Sequence[Examples]], Sequence[float]]
"""From initial weights and batches to the loss at each batch."""


def training_invariance(
    spec: ModelSpec,
    weights: Weights,
    batches: Sequence[Examples],
    train: Train,
    *,
    seed: int = 0,
) -> Trajectories:
    """Train on shuffled images from shuffled weights, and on three controls.

    The loss of every step is the same up to the order of sums, since gradients, moments, decay by
    name and the global norm change places with their weights.

    Args:
        spec: the architecture.
        weights: where training begins; a head of zeros tells nothing in the first step.
        batches: one for each step.
        train: of any framework; :func:`training_by` makes one.
        seed: of the orders.

    Raises:
        SpecError: as :func:`permute_weights`.
    """
    permutation = draw_permutation(spec, seed)
    adapted = permute_weights(spec, weights, permutation)

    def run(start: Weights, change: Callable[[NDArray[Any], int], NDArray[Any]]) -> Any:
        changed = [(change(images, n), labels) for n, (images, labels) in enumerate(batches)]
        return tuple(float(loss) for loss in train(start, changed))

    return Trajectories(
        plain=run(weights, lambda images, n: images),
        permuted=run(adapted, lambda images, n: permutation.of_images(images)),
        unadapted=run(weights, lambda images, n: permutation.of_images(images)),
        all_pixels=run(adapted, lambda images, n: shuffle_all_pixels(images, seed)),
        each_image=run(
            weights, lambda images, n: shuffle_each_image(images, seed + 1 + n * len(images))
        ),
    )


def training_by(
    backend: Backend, spec: ModelSpec, optimiser: Optimiser, loss: CrossEntropy
) -> Train:
    """Training by a backend that can, in float64.

    Raises:
        InputError: when called, if the backend's models cannot be trained.
        UnknownNameError: when called, if the backend does not compute in float64.
    """

    def train(weights: Weights, batches: Sequence[Examples]) -> list[float]:
        doubles = {name: array.astype(np.float64) for name, array in weights.items()}
        model = backend.load(spec, doubles, profile="f64")
        if not isinstance(model, Trainable):
            raise InputError("backend", "cannot train; expected a model with train_step")
        state, losses = initial_state(optimiser, doubles), []
        for images, labels in batches:
            value, state = model.train_step(state, images, labels, loss=loss, optimiser=optimiser)
            losses.append(value)
        return losses

    return train
