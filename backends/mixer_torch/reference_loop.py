"""A run of a recipe in PyTorch, step by step: what the trainer in JAX is held against.

No mesh, no checkpoints, no speed: the same batches, the same draws, the same learning rates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mixer_spec import ModelSpec
from mixer_spec.errors import InputError
from mixer_spec.recipe import ClipByGlobalNorm, MovingAverage, Recipe, SigmoidCrossEntropy
from mixer_spec.schedule import learning_rate
from mixer_spec.stochastic_depth import branch_factors
from mixer_spec.weights import Weights

from .arrays import to_array
from .model import SpecModel, build
from .modules import Residual
from .training import torch_optimiser_of


class ExampleBatch(Protocol):
    """All rows of a step; see ``mixer_spec.batches.Batch``."""

    @property
    def images(self) -> NDArray[Any]:
        """``[row, height, width, rgb]``, as the model takes them, or in uint8."""
        ...

    @property
    def labels(self) -> NDArray[np.float32]:
        """``[row, class]``."""
        ...


def run(
    spec: ModelSpec, recipe: Recipe, weights: Weights, batches: Iterable[ExampleBatch]
) -> tuple[list[float], Weights]:
    """Train on ``batches``, one step each from the first on.

    Args:
        spec: the architecture.
        recipe: how it is trained; computes in float32 or float64.
        weights: before the first step, canonical name to array.
        batches: of the first steps of the recipe.

    Returns:
        The loss before each step; and the weights behind the last, or their average where the
        recipe has one.

    Raises:
        InputError: if the recipe computes in bfloat16, which is for speed and not for comparing.
    """
    if recipe.compute == "bfloat16":
        raise InputError(
            "recipe.compute",
            "the reference loop is exact; expected float32 or float64, got 'bfloat16'; "
            "do `--set compute=float32`",
        )
    dtype = getattr(torch, recipe.compute)
    model = build(spec, {name: np.array(array) for name, array in weights.items()}, dtype=dtype)
    parameters = dict(model.named_parameters())
    optimiser = torch_optimiser_of(recipe.optimiser_by_rate, parameters)
    average = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    found = []
    for step, batch in enumerate(batches):
        rate = learning_rate(
            recipe.schedule, step, steps=recipe.steps, peak=recipe.optimiser.learning_rate
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad()
        found.append(_backward(model, recipe, batch, branch_factors(spec, recipe, step)))
        if isinstance(recipe.clip, ClipByGlobalNorm):
            _clip(list(parameters.values()), recipe.clip.norm)
        optimiser.step()
        if isinstance(recipe.average, MovingAverage):
            for name, parameter in parameters.items():
                average[name].lerp_(parameter.detach(), 1 - recipe.average.decay)
    last = average if isinstance(recipe.average, MovingAverage) else parameters
    return found, {name: to_array(tensor).copy() for name, tensor in last.items()}


def _backward(
    model: SpecModel,
    recipe: Recipe,
    batch: ExampleBatch,
    factors: NDArray[np.float64] | None,
) -> float:
    """The mean loss of a batch, whose gradients are added to the parameters', part after part."""
    dtype = next(model.parameters()).dtype
    images = _pixels(recipe, batch.images, dtype).permute(0, 3, 1, 2)
    labels = torch.from_numpy(batch.labels).to(dtype)
    total = 0.0
    for part in range(recipe.accumulation):
        rows = slice(part, None, recipe.accumulation)
        with _skipping(model, None if factors is None else factors[rows], dtype):
            logits = model(images[rows])
        loss = _losses(recipe, logits, labels[rows]).sum() / recipe.batch
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def _pixels(recipe: Recipe, images: NDArray[Any], dtype: torch.dtype) -> Tensor:
    pixels = torch.from_numpy(images).to(dtype)
    if images.dtype != np.uint8:
        return pixels
    of = recipe.data.evaluation
    mean, std = (torch.tensor(values, dtype=dtype) for values in (of.mean, of.std))
    return (pixels / 255 - mean) / std


def _losses(recipe: Recipe, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each example ``[row]``."""
    if isinstance(recipe.loss, SigmoidCrossEntropy):
        each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return each.sum(dim=-1)
    smoothing = recipe.loss.label_smoothing
    return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")


def _clip(parameters: list[torch.nn.Parameter], norm: float) -> None:
    """Shorten the gradients; ``clip_grad_norm_`` adds 1e-6 to the length, which is another step."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    length = torch.sqrt(
        sum((g.square().sum() for g in gradients), torch.zeros((), dtype=gradients[0].dtype))
    )
    if length >= norm:
        for gradient in gradients:
            gradient.mul_(norm / length)


@contextmanager
def _skipping(
    model: SpecModel, factors: NDArray[np.float64] | None, dtype: torch.dtype
) -> Iterator[None]:
    """Stochastic depth for one forward pass: every residual branch times its examples' factors."""
    branches = [module for module in model.modules() if isinstance(module, Residual)]
    if factors is not None:
        given = torch.from_numpy(factors).to(dtype)
        for number, branch in enumerate(branches):
            branch.factor = given[:, number, None, None]
    try:
        yield
    finally:
        for branch in branches:
            branch.factor = None
