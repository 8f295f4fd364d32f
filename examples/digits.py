"""The main job: train a Mixer in JAX on real digits, run it in PyTorch and ONNX Runtime, compare.

Run it with ``python examples/digits.py [FOLDER]``; it is ``mixer-spec train digits --data digits``
with a story. It writes the trained model as a canonical file and as ONNX, the curves of the
training, a picture of its answers, and some digits as PNG files to try ``mixer-spec predict`` on.
Exits with 1 if the held-out accuracy is below 97% or the frameworks disagree.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from digits_picture import draw_answers, save_samples
from mixer_spec import ModelSpec
from mixer_spec.commands.output import table
from mixer_spec.data import open_source
from mixer_spec.job import Habits, Job, Trained, trainer
from mixer_spec.recipes import named_recipe
from mixer_spec.starting import new_weights

LEAST_ACCURACY = 0.97
FRAMEWORKS = {"jax": "JAX", "torch": "PyTorch", "onnxruntime": "ONNX Runtime"}


def main(folder: Path) -> int:
    """Everything, in order; the exit code."""
    started = time.perf_counter()
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    trained = train(folder, out)
    assert trained.deployment is not None
    problems = compare(trained.deployment, out)
    problems += prove(out)

    held_out = open_source("digits", "test")
    draw_answers(held_out, trained.files["onnx"], folder / "answers.png")
    samples = save_samples(held_out, folder / "samples")
    out.print(f"[bold]Look at[/]  {folder / 'answers.png'} and {trained.files['picture']}")
    out.print(
        f"[bold]Try[/]      mixer-spec predict {samples}/*.png --model {trained.files['onnx']} "
        "--top 2"
    )
    out.print(f"\nDone in {time.perf_counter() - started:.0f} s.")
    for problem in problems:
        out.print(f"[bold red]FAILED[/]  {problem}")
    return 1 if problems else 0


def train(folder: Path, out: Console) -> Trained:
    """Train by the recipe ``digits``, from the beginning."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    named = named_recipe("digits")
    examples, held_out = open_source("digits", "train"), open_source("digits", "test")
    assert isinstance(named.model, ModelSpec)
    out.print(
        f"[bold]Data[/]   {len(examples)} handwritten digits of 8 x 8 pixels to train on, "
        f"{len(held_out)} held out (scikit-learn's copy of UCI's test set)"
    )
    out.print(f"[bold]Model[/]  MLP-Mixer of {named.model.parameter_count:,} weights")
    out.print(f"[bold]Train[/]  {named.recipe.steps} steps in JAX, checkpoints in {folder}\n")
    job = Job(
        spec=named.model,
        recipe=named.recipe,
        weights=new_weights(named.model, named.recipe),
        train=examples,
        held_out=held_out,
        folder=folder,
        provenance={"data": "scikit-learn load_digits, 360 of 1797 images held out"},
        habits=Habits(evaluate_every=250),
    )
    return trainer()(job)


def compare(deployment: Mapping[str, Any], out: Console) -> list[str]:
    """Print what each framework makes of the held-out digits; what is wrong."""
    made = table("framework", "held-out accuracy", "right", right=("held-out accuracy", "right"))
    problems = []
    for backend, run in deployment["backends"].items():
        made.add_row(
            FRAMEWORKS[backend], f"{run['accuracy']:.2%}", f"{run['correct']} of {run['examples']}"
        )
        if run["accuracy"] < LEAST_ACCURACY:
            problems.append(
                f"{FRAMEWORKS[backend]}: accuracy {run['accuracy']:.1%}; "
                f"expected {LEAST_ACCURACY:.0%}"
            )
    out.print("[bold]The trained file in every framework[/]")
    out.print(made)
    for backend, reason in deployment["not_installed"].items():
        problems.append(f"{FRAMEWORKS[backend]}: {reason}")
    if deployment["same_predictions"]:
        out.print("all predictions are the same")
    else:
        problems.append("the frameworks give some digits different classes")
    for found in deployment["verdict"]["backends"]:
        verdict = "conformant at every stage" if found["conformant"] else "not conformant"
        out.print(f"{FRAMEWORKS[found['name']]} with the trained weights: {verdict}")
        if not found["conformant"]:
            problems.append(f"{FRAMEWORKS[found['name']]}: is not conformant")
    return problems


def prove(out: Console) -> list[str]:
    """Judge every stage again, with weights that let no mistake through; what is wrong."""
    from mixer_conformance import verify
    from mixer_conformance.render import print_legend, print_report

    spec = named_recipe("digits").model
    assert isinstance(spec, ModelSpec)
    report = verify(spec, list(FRAMEWORKS), name="Every stage, conformance weights")
    out.print()
    print_report(out, report, every_tap=False)
    print_legend(out)
    out.print()
    return [
        f"{report.name}: {backend.name} is not conformant"
        for backend in report.backends
        if not backend.conformant
    ]


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:2] or ["out/demo"])))
