"""The trainer's step: how long it takes to compile, and how fast it is beside a plain Flax loop."""

from __future__ import annotations

import dataclasses
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer

from measuring.contest import Timings, as_fast, speedups
from measuring.machine import Tries, quietest
from measuring.plain_flax import PlainMixer
from measuring.plain_flax import params as plain_params
from measuring.sizes import sizes_of
from measuring.targets import Results, Target
from mixer_jax.training.mesh import placement
from mixer_jax.training.state import abstract_state, initial_state
from mixer_jax.training.step import Moment, Rows, make_step
from mixer_spec import ModelSpec, variant
from mixer_spec.commands.output import Json, console, table
from mixer_spec.recipe import NoStochasticDepth, Recipe, changed
from mixer_spec.recipes import recipe
from mixer_spec.weights import initial

MOST_COMPILE = 1.5  # times a model of two blocks
MOST_LOSS_DIFFERENCE = 1e-4


def settings(batch: int) -> Recipe:
    """The paper's recipe in float32, without what a plain loop does not have."""
    row = dataclasses.replace(recipe("mixer_b_i1k"), stochastic_depth=NoStochasticDepth())
    # A constant rate keeps the state of both loops alike from the first step.
    return changed(
        row, {"batch": str(batch), "compute": "float32", "schedule.warm_up": "0", "steps": "1000"}
    )


def shallow(spec: ModelSpec, depth: int) -> ModelSpec:
    """The same widths with another number of blocks."""
    (stage,) = spec.stages
    return dataclasses.replace(spec, stages=(dataclasses.replace(stage, depth=depth),))


def compile_seconds(spec: ModelSpec, batch: int) -> float:
    """CPU time of tracing and compiling the step; nothing is allocated."""
    using, placed = settings(batch), placement()
    height, width = using.data.image_size
    images: Any = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32)
    labels: Any = jax.ShapeDtypeStruct((batch, spec.classes), jnp.float32)
    rows = Rows(images=images, labels=labels, factors=None)
    now = Moment(jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32))
    step: Any = make_step(spec, using, placed)
    state = abstract_state(spec, using, placed)
    started = time.process_time()
    step.lower(state, rows, now).compile()
    return time.process_time() - started


def plain_step(spec: ModelSpec, using: Recipe) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A loop as people write it: the paper's listing, Optax, one jitted function."""
    model = PlainMixer(sizes_of(spec))
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            using.optimiser.learning_rate,
            weight_decay=0.1,
            mask=lambda tree: jax.tree.map_with_path(lambda at, _: at[-1].key == "kernel", tree),
        ),
    )

    def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = model.apply({"params": params}, images)
        found: jax.Array = optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1).mean()
        return found

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, images: jax.Array, labels: jax.Array) -> Any:
        value, gradients = jax.value_and_grad(loss)(params, images, labels)
        updates, state = optimiser.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    return step, optimiser.init


def contest(spec: ModelSpec, batch: int, steps: int) -> dict[str, Any]:
    """Both loops in turn, a step each, from the same weights on the same batch."""
    using = settings(batch)
    height, width = using.data.image_size
    generator = np.random.default_rng(0)
    images = generator.standard_normal((batch, height, width, 3), np.float32)
    labels = np.eye(spec.classes, dtype=np.float32)[generator.integers(0, spec.classes, batch)]
    weights = initial(spec)
    ours: Any = make_step(spec, using, placement())
    state = initial_state(spec, using, weights, placement())
    theirs, begin = plain_step(spec, using)
    params = plain_params(weights, spec.depth)
    plain = begin(params)
    rows = Rows(jnp.asarray(images), jnp.asarray(labels), None)
    rate = np.float32(using.optimiser.learning_rate)
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for number in range(steps + 1):  # the first compiles
        started = time.perf_counter()
        state, metrics = ours(state, rows, Moment(np.int32(number), rate))
        jax.block_until_ready(state)
        between = time.perf_counter()
        params, plain, value = theirs(params, plain, rows.images, rows.labels)
        jax.block_until_ready(params)
        ended = time.perf_counter()
        if abs(float(metrics.loss) / float(value) - 1) > MOST_LOSS_DIFFERENCE:
            raise RuntimeError(f"other losses in step {number}: {metrics.loss} and {value}")
        if number:
            times["ours"].append(between - started)
            times["plain"].append(ended - between)
    return times


def main(
    compiled: Annotated[str, typer.Option(help="Which model is compiled.")] = "mixer_h14",
    trained: Annotated[str, typer.Option(help="Which model is trained.")] = "mixer_s32",
    batch: Annotated[int, typer.Option(min=1, help="Images in a step.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Of each loop in a round.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="The fastest step of each counts too.")] = 3,
    tries: Tries = 9,
    json: Json = False,
) -> None:
    """Measure the train step: compiling it, and its speed beside a plain Flax and Optax loop."""
    load = os.getloadavg()[0]
    deep, small = variant(compiled).spec(), variant(trained).spec()
    seconds = {depth: compile_seconds(shallow(deep, depth), batch) for depth in (2, deep.depth)}
    times, noise = quietest(lambda: contest(small, batch, steps), rounds, tries)
    gflop = 6 * small.multiply_adds * batch / 1e9
    ours, plain = (Timings(gflop, [found[name] for found in times]) for name in ("ours", "plain"))
    found = speedups(ours, plain)
    ratio = seconds[deep.depth] / seconds[2]
    targets = [
        Target(
            f"compile the train step of {compiled}, beside 2 blocks",
            f"<= {MOST_COMPILE} x",
            f"{ratio:.2f} x ({seconds[deep.depth]:.1f} s and {seconds[2]:.1f} s of CPU time)",
            ratio <= MOST_COMPILE,
        ),
        as_fast(f"train step of {trained}, batch {batch}", "plain Flax and Optax", found),
    ]
    figures = {
        "compile_cpu_seconds": {str(depth): value for depth, value in seconds.items()},
        "batch": batch,
        "ours": ours.to_data(),
        "plain": plain.to_data(),
        "speedups": found,
    }
    results = Results(figures, targets, load, noise)
    if json:
        results.print_json()
        return
    out = console()
    made = table("train step", "images/s", "GFLOP/s", right=("images/s", "GFLOP/s"))
    for name, timed in (("mixer_jax.training", ours), ("plain Flax and Optax", plain)):
        median = statistics.median(timed.medians)
        made.add_row(name, f"{batch / median:.1f}", f"{gflop / median:.0f}")
    out.print(made)
    results.print_end(out)


if __name__ == "__main__":
    typer.run(main)
