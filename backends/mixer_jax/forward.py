"""The forward pass: pure functions of a spec, nested parameters and inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from mixer_spec import ModelSpec, Stage
from mixer_spec.backend import check_inputs
from mixer_spec.graph import Node, Step
from mixer_spec.layers import Residual

from .layers import COMPUTE, Run
from .params import Params, check_params, lookup, stand_in

Precision = jax.lax.PrecisionLike
Index = int | jax.Array
"""The number of a residual branch, counted through the whole model; traced where it is scanned."""


def _unchanged(output: jax.Array, branch: Index) -> jax.Array:
    return output


@dataclass(frozen=True, slots=True)
class Training:
    """What training does inside of the model, and the spec knows nothing of.

    Args:
        branch: what becomes of the output of a residual branch before it is added: a function of
            the output ``[batch, token, channel]`` and of the branch's number.
        rematerialise: compute a block again in the backward pass, not to keep what is inside;
            only where blocks are scanned.
    """

    branch: Callable[[jax.Array, Index], jax.Array] = _unchanged
    rematerialise: bool = False


_INFERENCE = Training()


def apply(
    spec: ModelSpec,
    params: Params,
    inputs: jax.Array,
    *,
    precision: Precision = None,
    training: Training = _INFERENCE,
) -> jax.Array:
    """The logits ``[batch, class]`` of images ``[batch, height, width, rgb]``, or of sequences.

    Pure: works under ``jit`` (with ``spec`` closed over or static), ``grad``, ``vmap`` and with
    sharded arrays. Parameters from :func:`~mixer_jax.params.stack` are scanned, so that compile
    time does not grow with depth. The dtypes of parameters and inputs promote as in ``jax.numpy``.

    Args:
        spec: the architecture.
        params: nested by the canonical names, or stacked.
        inputs: preprocessed images, or sequences.
        precision: of matrix products; ``None`` is the device's default (bfloat16 on TPU, TF32 on
            GPU), ``"highest"`` is float32 throughout.
        training: what happens inside of the model while it is trained; nothing by default.

    Raises:
        InputError: if the inputs do not fit the spec.
        WeightsError: if the parameters do not fit the spec.

    Example:
        >>> import jax.numpy as jnp
        >>> from mixer_jax import init
        >>> from mixer_spec import families
        >>> spec = families.mixer(image_size=8, patch=4, channels=6, depth=1, token_hidden=5,
        ...                       channel_hidden=7, classes=3)
        >>> apply(spec, init(spec, 0), jnp.ones((2, 8, 8, 3))).tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    taps = apply_with_taps(spec, params, inputs, (), precision=precision, training=training)
    return taps["logits"]


def apply_with_taps(
    spec: ModelSpec,
    params: Params,
    inputs: jax.Array,
    taps: Sequence[str],
    *,
    precision: Precision = None,
    training: Training = _INFERENCE,
) -> dict[str, jax.Array]:
    """As :func:`apply`, with the intermediates called ``taps`` beside ``"logits"``.

    Args:
        spec: the architecture.
        params: nested by the canonical names, or stacked.
        inputs: preprocessed images ``[batch, height, width, rgb]``, or sequences.
        taps: names out of ``spec.taps``.
        precision: of matrix products.
        training: as for :func:`apply`.

    Raises:
        InputError: if the inputs or taps do not fit the spec.
        WeightsError: if the parameters do not fit the spec.
    """
    check_params(spec, params)
    check_inputs(spec, stand_in(inputs), taps)
    wanted = {*taps, "logits"}
    if "stages" in params:
        walk = _walk_scanned(spec, params, inputs, wanted, precision, training)
    else:
        walk = _walk(spec, params, inputs, precision, training)
    return {tap: x for tap, x in walk if tap in wanted}


def _walk(
    spec: ModelSpec, params: Params, x: jax.Array, precision: Precision, training: Training
) -> Iterator[tuple[str, jax.Array]]:
    """Every tap with its value, block after block."""
    branches = itertools.count()
    for step in spec.steps:
        # the steps without a residual are those in front of the blocks and behind them
        run = _Runs(precision, training, next(branches) if _is_branch(step) else -1)
        yield step.tap, (x := run.nodes(step.nodes, params, x))


def _is_branch(step: Step) -> bool:
    return step.nodes[-1].path.startswith("blocks.")


def _walk_scanned(
    spec: ModelSpec,
    params: Params,
    x: jax.Array,
    wanted: Collection[str],
    precision: Precision,
    training: Training,
) -> Iterator[tuple[str, jax.Array]]:
    """As :func:`_walk`, with one compiled body for all blocks of a stage."""
    outside = _Runs(precision, training, -1)
    steps = iter(spec.steps)
    stem = next(steps)
    x = outside.nodes(stem.nodes, params, x)
    yield stem.tap, x
    first = 0
    for number, stage in enumerate(spec.stages):
        residuals = list(itertools.islice(steps, stage.depth * len(stage.block)))
        if not residuals:
            continue
        *transition, _ = residuals[0].nodes
        x = outside.nodes(transition, params, x)
        blocks = lookup(params, f"stages.{number}")
        x, found = _scan(stage, residuals, blocks, x, first, wanted, precision, training)
        for position, step in enumerate(residuals):
            if step.tap in wanted:
                yield step.tap, found[step.nodes[-1].name][position // len(stage.block)]
        first += len(residuals)
    for step in steps:
        x = outside.nodes(step.nodes, params, x)
        yield step.tap, x


def _scan(
    stage: Stage,
    residuals: Sequence[Step],
    blocks: Mapping[str, Any],
    x: jax.Array,
    first: int,
    wanted: Collection[str],
    precision: Precision,
    training: Training,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Run a stage; the second result has, for each residual wanted, ``[block, ...]``."""
    kept = {step.nodes[-1].name for step in residuals if step.tap in wanted}
    block = [step.nodes[-1] for step in residuals[: len(stage.block)]]

    def run_block(
        x: jax.Array, scanned: tuple[jax.Array, Mapping[str, Any]]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        branch, own = scanned
        found = {}
        for position, node in enumerate(block):
            run = _Runs(precision, training, branch + position)
            x = run.node(node, own.get(node.name, {}), x)
            if node.name in kept:
                found[node.name] = x
        return x, found

    if training.rematerialise:
        run_block = jax.checkpoint(run_block, prevent_cse=False)  # a scan has no common parts
    branches = first + len(block) * jnp.arange(stage.depth)
    return jax.lax.scan(run_block, x, (branches, blocks), length=stage.depth)


@dataclass(frozen=True, slots=True)
class _Runs:
    """Runs layers inside of one residual branch, or outside of all (-1)."""

    precision: Precision
    training: Training
    branch: Index

    def nodes(self, nodes: Iterable[Node], params: Params, x: jax.Array) -> jax.Array:
        for node in nodes:
            x = self.node(node, lookup(params, node.path), x)
        return x

    def node(self, node: Node, own: Mapping[str, Any], x: jax.Array) -> jax.Array:
        def nested(x: jax.Array) -> jax.Array:
            for child in node.children:
                x = self.node(child, own.get(child.name, {}), x)
            return x

        def branch(x: jax.Array) -> jax.Array:
            return self.training.branch(nested(x), self.branch)

        inside = branch if isinstance(node.layer, Residual) else nested
        return COMPUTE[type(node.layer)](
            node.layer, own, x, Run(self.precision, node.incoming, inside)
        )
