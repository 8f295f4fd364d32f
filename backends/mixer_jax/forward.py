"""The forward pass: pure functions of a spec, nested parameters and inputs."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax

from mixer_spec import ModelSpec, Stage
from mixer_spec.backend import check_inputs
from mixer_spec.graph import Node, Step

from .layers import COMPUTE, Run
from .params import Params, check_params, lookup, stand_in

Precision = jax.lax.PrecisionLike


def apply(
    spec: ModelSpec,
    params: Params,
    inputs: jax.Array,
    *,
    precision: Precision = None,
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
    return apply_with_taps(spec, params, inputs, (), precision=precision)["logits"]


def apply_with_taps(
    spec: ModelSpec,
    params: Params,
    inputs: jax.Array,
    taps: Sequence[str],
    *,
    precision: Precision = None,
) -> dict[str, jax.Array]:
    """As :func:`apply`, with the intermediates called ``taps`` beside ``"logits"``.

    Args:
        spec: the architecture.
        params: nested by the canonical names, or stacked.
        inputs: preprocessed images ``[batch, height, width, rgb]``, or sequences.
        taps: names out of ``spec.taps``.
        precision: of matrix products.

    Raises:
        InputError: if the inputs or taps do not fit the spec.
        WeightsError: if the parameters do not fit the spec.
    """
    check_params(spec, params)
    check_inputs(spec, stand_in(inputs), taps)
    wanted = {*taps, "logits"}
    if "stages" in params:
        walk = _walk_scanned(spec, params, inputs, wanted, precision)
    else:
        walk = _walk(spec, params, inputs, precision)
    return {tap: x for tap, x in walk if tap in wanted}


def _walk(
    spec: ModelSpec, params: Params, x: jax.Array, precision: Precision
) -> Iterator[tuple[str, jax.Array]]:
    """Every tap with its value, block after block."""
    for step in spec.steps:
        x = _run_nodes(step.nodes, params, x, precision)
        yield step.tap, x


def _walk_scanned(
    spec: ModelSpec, params: Params, x: jax.Array, wanted: Collection[str], precision: Precision
) -> Iterator[tuple[str, jax.Array]]:
    """As :func:`_walk`, with one compiled body for all blocks of a stage."""
    steps = iter(spec.steps)
    stem = next(steps)
    x = _run_nodes(stem.nodes, params, x, precision)
    yield stem.tap, x
    for number, stage in enumerate(spec.stages):
        residuals = list(itertools.islice(steps, stage.depth * len(stage.block)))
        if not residuals:
            continue
        *transition, _ = residuals[0].nodes
        x = _run_nodes(transition, params, x, precision)
        blocks = lookup(params, f"stages.{number}")
        x, found = _scan(stage, residuals, blocks, x, wanted, precision)
        for position, step in enumerate(residuals):
            if step.tap in wanted:
                yield step.tap, found[step.nodes[-1].name][position // len(stage.block)]
    for step in steps:
        x = _run_nodes(step.nodes, params, x, precision)
        yield step.tap, x


def _scan(
    stage: Stage,
    residuals: Sequence[Step],
    blocks: Mapping[str, Any],
    x: jax.Array,
    wanted: Collection[str],
    precision: Precision,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Run a stage; the second result has, for each residual wanted, ``[block, ...]``."""
    kept = {step.nodes[-1].name for step in residuals if step.tap in wanted}
    first_block = [step.nodes[-1] for step in residuals[: len(stage.block)]]

    def run_block(x: jax.Array, own: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        found = {}
        for node in first_block:
            x = _run_node(node, own.get(node.name, {}), x, precision)
            if node.name in kept:
                found[node.name] = x
        return x, found

    return jax.lax.scan(run_block, x, blocks, length=stage.depth)


def _run_nodes(
    nodes: Iterable[Node], params: Params, x: jax.Array, precision: Precision
) -> jax.Array:
    for node in nodes:
        x = _run_node(node, lookup(params, node.path), x, precision)
    return x


def _run_node(node: Node, own: Mapping[str, Any], x: jax.Array, precision: Precision) -> jax.Array:
    def nested(x: jax.Array) -> jax.Array:
        for child in node.children:
            x = _run_node(child, own.get(child.name, {}), x, precision)
        return x

    return COMPUTE[type(node.layer)](node.layer, own, x, Run(precision, node.incoming, nested))
