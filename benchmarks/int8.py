"""Int8 against float32 in ONNX Runtime: throughput of a large model, accuracy of a trained one.

The forms take turns in one process, so that whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
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
from mixer_conformance.trained import TRAINED
from mixer_converters.canonical import CanonicalFile
from mixer_converters.canonical import load as load_canonical
from mixer_converters.onnx_build import build_onnx
from mixer_converters.onnx_calibrate import calibrate, measure_cost
from mixer_converters.onnx_form import Form
from mixer_converters.onnx_run import OnnxRun
from mixer_spec import ModelSpec, variant
from mixer_spec.commands.output import Json, console, table
from mixer_spec.data import open_source
from mixer_spec.evaluation import evaluation_batches
from mixer_spec.shapes import Image
from mixer_spec.weights import Weights

BATCHES = (1, 8)
FASTER = 1.8
"""Int8 by float32, images a second."""

SAME = 0.99
"""Share of the held-out images that must get the same class."""

CALIBRATION, BATCH = 256, 500  # training examples; held-out ones at once


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


def train_digits(folder: str) -> CanonicalFile:
    """The model that ``mixer-spec train digits`` makes."""
    command = ["mixer-spec", "train", "digits", "--data", "digits", "--out", folder]
    code = "from mixer_spec.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *command[1:]], check=True, stdout=sys.stderr)
    return load_canonical(Path(folder, "model.safetensors"))


def examples(
    data: str, split: str, file: CanonicalFile, batch: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """The examples of a split as pixels, and their labels, in batches; the last may be shorter."""
    assert file.preprocessing is not None
    assert isinstance(file.spec.input, Image)
    size = file.spec.input.height, file.spec.input.width
    for images, labels, real in evaluation_batches(
        open_source(data, split), file.preprocessing, size, batch
    ):
        yield images[real], labels[real]


def measure_accuracy(file: CanonicalFile, data: str) -> dict[str, dict[str, Any]]:
    """Compare the classes that the forms of a trained model give the held-out examples.

    The ratios of signal to noise are those of the first batch.
    """
    spec, weights = file.spec, file.weights
    made = forms(spec, weights, next(examples(data, "train", file, CALIBRATION))[0])
    batches = list(examples(data, "test", file, BATCH))
    labels = np.concatenate([own for _, own in batches])
    given = {
        name: np.concatenate([run(i, ["logits"])["logits"].argmax(axis=-1) for i, _ in batches])
        for name, run in sessions(spec, weights, made).items()
    }
    found = {}
    for name, classes in given.items():
        cost = measure_cost(spec, weights, made[name], batches[0][0])
        worst = min(cost.sqnr, key=lambda tap: cost.sqnr[tap])
        found[name] = {
            "accuracy": float((classes == labels).mean()),
            "equal_top1": float((classes == given["float32"]).mean()),
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


def print_accuracy(out: Console, data: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one row for each form of a trained model."""
    columns = ("accuracy", "equal top-1", "SQNR at the logits, dB", "worst stage, dB")
    made = table(f"{data}, held out", *columns, "worst stage", right=columns)
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
    fashion_mnist: Annotated[
        Path | None, typer.Option(help="Its folder; the model for it is shipped.")
    ] = None,
    tries: Tries = 9,
    json: Json = False,
) -> None:
    """Measure what int8 gains and what it costs."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        accuracy = {"digits": measure_accuracy(train_digits(folder), "digits")}
    if fashion_mnist is not None:
        trained = load_canonical(TRAINED)
        accuracy["Fashion-MNIST"] = measure_accuracy(trained, f"fashion-mnist:{fashion_mnist}")
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
            f"{data}, {name}, equal top-1",
            f">= {SAME:.0%}",
            f"{row['equal_top1']:.2%}",
            row["equal_top1"] >= SAME,
        )
        for data, rows in accuracy.items()
        for name, row in rows.items()
        if name != "float32"
    ]
    figures = {"accuracy": accuracy, "variant": variant_name, "seconds": seconds, "gains": gains}
    results = Results(figures, targets, load, noise)
    if json:
        results.print_json()
        return
    out = console()
    for data, rows in accuracy.items():
        print_accuracy(out, data, rows)
    print_throughput(out, variant_name, seconds, gains)
    results.print_end(out)


if __name__ == "__main__":
    typer.run(main)
