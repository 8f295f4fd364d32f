"""Int8 against float32 in ONNX Runtime: throughput at Mixer-B/16, and accuracy on trained digits.

Run it with ``python benchmarks/int8.py``. The figures of a ratio are taken in turns in one process,
so that whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from rich.console import Console

from mixer_conformance import conformance_inputs, conformance_weights
from mixer_converters.onnx_build import build_onnx
from mixer_converters.onnx_calibrate import calibrate, measure_cost
from mixer_converters.onnx_form import Form
from mixer_converters.onnx_run import OnnxRun
from mixer_spec import ModelSpec, variant
from mixer_spec.commands.output import table
from mixer_spec.weights import Weights

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

ROUNDS = 8
BATCHES = (1, 8)
CALIBRATION = 256  # training digits


def main() -> None:
    """Print both tables."""
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    accuracy(out)
    throughput(out)


def forms(spec: ModelSpec, weights: Weights, inputs: NDArray[Any]) -> dict[str, Form]:
    """The forms that are compared, by name."""
    ranges = calibrate(spec, weights, inputs)
    return {
        "float32": Form(),
        "int8 dynamic": Form(int8="dynamic"),
        "int8 static": Form(int8="static", ranges=ranges),
    }


def accuracy(out: Console) -> None:
    """Train the digits model of the examples; compare classes on the held-out images."""
    from digits_training import SPEC, load_digits, train

    digits = load_digits()
    weights, _ = train(digits, Console(stderr=True))
    held_out = digits.held_out
    columns = ("accuracy", "equal top-1", "SQNR at the logits, dB", "worst stage, dB")
    made = table("digits, held out", *columns, "worst stage", right=columns)
    for name, form in forms(SPEC, weights, digits.train.pixels[:CALIBRATION]).items():
        cost = measure_cost(SPEC, weights, form, held_out.pixels)
        run = OnnxRun(ir.to_proto(build_onnx(SPEC, weights, form=form)).SerializeToString())
        classes = run(held_out.pixels, ["logits"])["logits"].argmax(axis=-1)
        worst = min(cost.sqnr, key=lambda tap: cost.sqnr[tap])
        made.add_row(
            name,
            f"{(classes == held_out.labels).mean():.2%}",
            f"{cost.equal_top1:.2%}",
            f"{cost.sqnr['logits']:.1f}",
            f"{cost.sqnr[worst]:.1f}",
            worst if np.isfinite(cost.sqnr[worst]) else "",
        )
    out.print(made)


def throughput(out: Console) -> None:
    """Images a second at B/16, with weights that are all different."""
    spec = variant("mixer_b16").spec()
    weights, images = conformance_weights(spec), conformance_inputs(spec, max(BATCHES))
    runs = {
        name: OnnxRun(ir.to_proto(build_onnx(spec, weights, form=form)).SerializeToString())
        for name, form in forms(spec, weights, images[:2]).items()
    }
    columns = tuple(
        f"{what}, batch {batch}" for batch in BATCHES for what in ("images/s", "times float32")
    )
    made = table("Mixer-B/16", *columns, right=columns)
    seconds = {batch: best_seconds(runs, images[:batch]) for batch in BATCHES}
    for name in runs:
        cells = []
        for batch in BATCHES:
            found = seconds[batch]
            cells += [f"{batch / found[name]:.2f}", f"{found['float32'] / found[name]:.2f}"]
        made.add_row(name, *cells)
    out.print(made)


def best_seconds(runs: Mapping[str, OnnxRun], images: NDArray[Any]) -> dict[str, float]:
    """The shortest of several runs of each, taken in turns."""
    best = dict.fromkeys(runs, np.inf)
    for _ in range(ROUNDS):
        for name, run in runs.items():
            started = time.perf_counter()
            run(images, ["logits"])
            best[name] = min(best[name], time.perf_counter() - started)
    return best


if __name__ == "__main__":
    main()
