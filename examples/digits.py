"""The main job: train a Mixer in JAX on real digits, run it in PyTorch and ONNX Runtime, compare.

Run it with ``python examples/digits.py [FOLDER]``. It writes the trained model as a canonical file
and as ONNX, a picture of its answers, and some digits as PNG files to try ``mixer-spec predict``
on. Exits with 1 if the held-out accuracy is below 97% or the frameworks disagree.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from digits_picture import draw_answers, save_samples
from digits_training import HELD_OUT, PREPROCESSING, SEED, SPEC, STEPS, load_digits, train
from mixer_spec import load_backend, reference
from mixer_spec.commands.output import table
from mixer_spec.weights import Weights

Array = NDArray[Any]

LEAST_ACCURACY = 0.97
LABELS = tuple("0123456789")


def main(folder: Path) -> int:
    """Everything, in order; the exit code."""
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)

    digits = load_digits()
    out.print(
        f"[bold]Data[/]   {len(digits.train.labels)} handwritten digits of 8 x 8 pixels to train "
        f"on, {len(digits.held_out.labels)} held out (scikit-learn's copy of UCI's test set)"
    )
    out.print(f"[bold]Model[/]  MLP-Mixer of {SPEC.parameter_count:,} weights\n")
    weights, accuracy = train(digits, out)
    save(weights, accuracy, folder)
    logits = run_everywhere(folder, digits.held_out.pixels)
    problems = compare(logits, digits.held_out.labels, out)
    problems += prove(weights, digits.held_out.pixels[:64], out)
    draw_answers(digits.held_out, logits["ONNX Runtime"], folder / "answers.png")
    samples = save_samples(digits.held_out, folder / "samples")

    out.print(f"[bold]Look at[/]  {folder / 'answers.png'}")
    out.print(
        f"[bold]Try[/]      mixer-spec predict {samples}/*.png --model {folder}/digits.onnx --top 2"
    )
    out.print(f"\nDone in {time.perf_counter() - started:.0f} s.")
    for problem in problems:
        out.print(f"[bold red]FAILED[/]  {problem}")
    return 1 if problems else 0


def save(weights: Weights, accuracy: float, folder: Path) -> None:
    """Write ``digits.safetensors``, and ``digits.onnx`` from what it holds."""
    import jax

    from mixer_converters.canonical import load as load_canonical
    from mixer_converters.canonical import save as save_canonical
    from mixer_converters.onnx_export import export_onnx

    provenance = {
        "data": f"scikit-learn load_digits, {HELD_OUT} of 1797 images held out, seed {SEED}",
        "training": f"examples/digits.py, {STEPS} steps, jax {jax.__version__}",
        "held_out_accuracy": f"{accuracy:.4f}",
    }
    path = folder / "digits.safetensors"
    save_canonical(
        path, SPEC, weights, preprocessing=PREPROCESSING, labels=LABELS, provenance=provenance
    )
    file = load_canonical(path)
    export_onnx(
        file.spec,
        file.weights,
        folder / "digits.onnx",
        preprocessing=file.preprocessing,
        labels=file.labels,
        provenance=file.provenance,
    )


def run_everywhere(folder: Path, pixels: Array) -> dict[str, Array]:
    """The logits ``[example, class]`` of the files in ``folder`` by framework."""
    from mixer_converters.canonical import load as load_canonical
    from mixer_onnxruntime import load_onnx

    file = load_canonical(folder / "digits.safetensors")
    exact = reference.forward(file.spec, file.weights, pixels)
    by_jax = load_backend("jax").load(file.spec, file.weights).forward(pixels)
    by_torch = load_backend("torch").load(file.spec, file.weights).forward(pixels)
    by_onnx = load_onnx(folder / "digits.onnx").forward(pixels)
    return {
        "NumPy in float64": exact["logits"],
        "JAX": by_jax["logits"],
        "PyTorch": by_torch["logits"],
        "ONNX Runtime": by_onnx["logits"],
    }


def compare(logits: Mapping[str, Array], labels: Array, out: Console) -> list[str]:
    """Print how well each framework does and how far it is from float64; what is wrong."""
    exact = logits["NumPy in float64"]
    columns = ("held-out accuracy", "same class as float64", "largest difference of a logit")
    made = table("framework", *columns, right=columns)
    problems = []
    for name, found in logits.items():
        accuracy = float((found.argmax(axis=-1) == labels).mean())
        same = int((found.argmax(axis=-1) == exact.argmax(axis=-1)).sum())
        made.add_row(
            name,
            f"{accuracy:.2%}",
            f"{same} of {len(labels)}",
            f"{np.abs(found - exact).max():.1e}",
        )
        if accuracy < LEAST_ACCURACY:
            problems.append(f"{name}: accuracy {accuracy:.1%}; expected {LEAST_ACCURACY:.0%}")
        if same < len(labels):
            problems.append(f"{name}: {len(labels) - same} predictions are not those of float64")
    out.print("[bold]The trained model in every framework[/]")
    out.print(made)
    return problems


def prove(weights: Weights, images: Array, out: Console) -> list[str]:
    """Judge every stage in every framework against float64; what is wrong.

    Twice: with the trained weights, and with weights that are made to let no mistake through.
    """
    from mixer_conformance import verify
    from mixer_conformance.render import print_legend, print_report

    frameworks = ["jax", "torch", "onnxruntime"]
    reports = [
        verify(
            SPEC, frameworks, weights=weights, inputs=images, name="Every stage, trained weights"
        ),
        verify(SPEC, frameworks, name="Every stage, conformance weights"),
    ]
    for report in reports:
        out.print()
        print_report(out, report, every_tap=False)
    print_legend(out)
    out.print()
    return [
        f"{report.name}: {backend.name} is not conformant"
        for report in reports
        for backend in report.backends
        if not backend.conformant
    ]


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:2] or ["out/demo"])))
