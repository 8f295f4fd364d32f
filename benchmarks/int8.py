"""Int8 against float32 in ONNX Runtime: throughput of a large model, accuracy of a trained one.

The forms take turns in one process, so that whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import typer
from numpy.typing import NDArray
from rich.console import Console

from measuring.machine import Tries, quietest
from measuring.targets import Results, Target
from mixer_conformance import conformance_inputs, conformance_weights
from mixer_converters.onnx_build import build_onnx
from mixer_converters.onnx_calibrate import calibrate, measure_cost
from mixer_converters.onnx_form import Form
from mixer_converters.onnx_run import OnnxRun
from mixer_jax.training.loop import run as run_training
from mixer_jax.training.mesh import placement
from mixer_spec import ModelSpec, variant
from mixer_spec.batches import Batches
from mixer_spec.commands.output import Json, console, table
from mixer_spec.data import open_source
from mixer_spec.evaluation import evaluation_batches
from mixer_spec.job import Habits
from mixer_spec.recipes import named_recipe
from mixer_spec.starting import new_weights
from mixer_spec.weights import Weights

BATCHES = (1, 8)
FASTER = 1.8
"""Int8 by float32, images a second."""

SAME = 0.99
"""Share of the held-out images that must get the same class."""

CALIBRATION = 256  # training digits


def forms(spec: ModelSpec, weights: Weights, inputs: NDArray[Any]) -> dict[str, Form]:
    """The forms that are compared, by name."""
    ranges = calibrate(spec, weights, inputs)
    return {
        "float32": Form(),
        "int8 dynamic": Form(int8="dynamic"),
        "int8 static": Form(int8="static", ranges=ranges),
    }


def sessions(spec: ModelSpec, weights: Weights, made: Mapping[str, Form]) -> dict[str, OnnxRun]:
    """One ONNX Runtime session for each form, by its name."""
    return {
        name: OnnxRun(ir.to_proto(build_onnx(spec, weights, form=form)).SerializeToString())
        for name, form in made.items()
    }


def measure_accuracy() -> dict[str, dict[str, Any]]:
    """Train by the recipe ``digits``; compare the classes of the held-out images."""
    named = named_recipe("digits")
    spec, how = named.model, named.recipe.data.evaluation
    assert isinstance(spec, ModelSpec)
    examples, held_out = open_source("digits", "train"), open_source("digits", "test")
    with tempfile.TemporaryDirectory() as folder:
        weights = run_training(
            spec,
            named.recipe,
            Batches(examples, named.recipe),
            new_weights(spec, named.recipe),
            Path(folder),
            habits=Habits(),
            data=examples.fingerprint,
            placed=placement(),
        ).weights
    seen, _, _ = next(evaluation_batches(examples, how, (8, 8), CALIBRATION))
    pixels, labels, _ = next(evaluation_batches(held_out, how, (8, 8), len(held_out)))
    made = forms(spec, weights, seen)
    found = {}
    for name, run in sessions(spec, weights, made).items():
        cost = measure_cost(spec, weights, made[name], pixels)
        classes = run(pixels, ["logits"])["logits"].argmax(axis=-1)
        worst = min(cost.sqnr, key=lambda tap: cost.sqnr[tap])
        found[name] = {
            "accuracy": float((classes == labels).mean()),
            "equal_top1": cost.equal_top1,
            # Decibels; nothing is lost where the ratio is infinite.
            "logits_sqnr": _finite(cost.sqnr["logits"]),
            "worst_sqnr": _finite(cost.sqnr[worst]),
            "worst_stage": worst,
        }
    return found


def _finite(decibels: float) -> float | None:
    return decibels if np.isfinite(decibels) else None


def one_round(
    runs: Mapping[str, OnnxRun], images: NDArray[Any], repeats: int
) -> dict[str, dict[int, float]]:
    """The shortest of several passes of each form at each batch size, in seconds."""
    best = {name: dict.fromkeys(BATCHES, np.inf) for name in runs}
    for batch in BATCHES:
        for _ in range(repeats):
            for name, run in runs.items():
                started = time.perf_counter()
                run(images[:batch], ["logits"])
                best[name][batch] = min(best[name][batch], time.perf_counter() - started)
    return best


def print_accuracy(out: Console, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one row for each form of the digits model."""
    columns = ("accuracy", "equal top-1", "SQNR at the logits, dB", "worst stage, dB")
    made = table("digits, held out", *columns, "worst stage", right=columns)
    for name, row in found.items():
        exact = row["worst_sqnr"] is None
        made.add_row(
            name,
            f"{row['accuracy']:.2%}",
            f"{row['equal_top1']:.2%}",
            "" if row["logits_sqnr"] is None else f"{row['logits_sqnr']:.1f}",
            "" if exact else f"{row['worst_sqnr']:.1f}",
            "" if exact else row["worst_stage"],
        )
    out.print(made)


def print_throughput(
    out: Console, name: str, seconds: Mapping[str, Mapping[int, float]], gains: Mapping[str, Any]
) -> None:
    """Print one row for each form of the large model."""
    columns = tuple(f"{what}, batch {n}" for n in BATCHES for what in ("images/s", "times float32"))
    made = table(name, *columns, right=columns)
    for form, own in seconds.items():
        cells = []
        for batch in BATCHES:
            cells += [f"{batch / own[batch]:.2f}", f"{gains[form][batch]:.2f}"]
        made.add_row(form, *cells)
    out.print(made)


def main(
    variant_name: Annotated[str, typer.Option("--variant", help="Which model.")] = "mixer_b16",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the median gain counts.")] = 3,
    repeats: Annotated[int, typer.Option(min=1, help="Passes of each in a round.")] = 4,
    tries: Tries = 9,
    json: Json = False,
) -> None:
    """Measure what int8 gains and what it costs."""
    load = os.getloadavg()[0]
    accuracy = measure_accuracy()
    spec = variant(variant_name).spec()
    weights, images = conformance_weights(spec), conformance_inputs(spec, max(BATCHES))
    runs = sessions(spec, weights, forms(spec, weights, images[:2]))
    one_round(runs, images, 1)  # the first pass prepares each session
    found, noise = quietest(lambda: one_round(runs, images, repeats), rounds, tries)
    seconds = {n: {b: min(each[n][b] for each in found) for b in BATCHES} for n in runs}
    gains = {
        n: {
            b: statistics.median(each["float32"][b] / each[n][b] for each in found) for b in BATCHES
        }
        for n in runs
    }
    targets = [
        Target(
            f"{variant_name}, int8 static, batch {batch}, times float32",
            f">= {FASTER}",
            f"{gains['int8 static'][batch]:.2f}",
            gains["int8 static"][batch] >= FASTER,
        )
        for batch in BATCHES
    ] + [
        Target(
            f"digits, {name}, equal top-1",
            f">= {SAME:.0%}",
            f"{row['equal_top1']:.2%}",
            row["equal_top1"] >= SAME,
        )
        for name, row in accuracy.items()
        if name != "float32"
    ]
    figures = {"accuracy": accuracy, "variant": variant_name, "seconds": seconds, "gains": gains}
    results = Results(figures, targets, load, noise)
    if json:
        results.print_json()
        return
    out = console()
    print_accuracy(out, accuracy)
    print_throughput(out, variant_name, seconds, gains)
    results.print_end(out)


if __name__ == "__main__":
    typer.run(main)
