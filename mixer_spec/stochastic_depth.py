"""Stochastic depth: which residual branches each example skips, the same for every backend.

A draw depends on the recipe's seed, the step, the row in the global batch and the branch, and on
nothing else: not on the number of devices or processes, nor on how a step is cut into parts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .model import ModelSpec
from .recipe import NoStochasticDepth, Recipe, StochasticDepth

_STREAM = 0x5D  # tells these draws from others that are made with the recipe's seed


def drop_rates(spec: ModelSpec, depth: StochasticDepth) -> list[float]:
    """The probability of each residual branch to be left out, in the order of computation.

    Example:
        >>> from mixer_spec import families
        >>> spec = families.mixer(image_size=8, patch=4, channels=6, depth=3, token_hidden=5,
        ...                       channel_hidden=7)
        >>> drop_rates(spec, StochasticDepth(rate=0.5, grows="per_branch", rescale="none"))
        [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
        >>> drop_rates(spec, StochasticDepth(rate=0.5, grows="per_block", rescale="none"))
        [0.0, 0.0, 0.25, 0.25, 0.5, 0.5]
    """
    blocks = list(_block_of_branch(spec))
    if depth.grows == "constant":
        return [depth.rate] * len(blocks)
    places = list(range(len(blocks))) if depth.grows == "per_branch" else blocks
    last = max(places, default=0) or 1
    return [depth.rate * place / last for place in places]


def _block_of_branch(spec: ModelSpec) -> Iterator[int]:
    block = 0
    for stage in spec.stages:
        for _ in range(stage.depth):
            yield from (block for _ in stage.block)
            block += 1


def branch_factors(spec: ModelSpec, recipe: Recipe, step: int) -> NDArray[np.float64] | None:
    """What the output of each branch is multiplied with, for each example of a step.

    Args:
        spec: the architecture.
        recipe: how it is trained.
        step: from 0.

    Returns:
        ``[row, branch]``, rows of the global batch: 0 where the branch is left out, else 1 or the
        recipe's rescaling. ``None`` where the recipe leaves nothing out.
    """
    depth = recipe.stochastic_depth
    if isinstance(depth, NoStochasticDepth):
        return None
    rates = np.array(drop_rates(spec, depth))
    philox = np.random.Philox(key=[recipe.seed, _STREAM], counter=[0, 0, 0, step])
    kept = np.random.Generator(philox).random((recipe.batch, len(rates))) >= rates
    return kept / (1.0 - rates) if depth.rescale == "kept" else kept.astype(np.float64)
