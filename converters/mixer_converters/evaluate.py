"""``mixer-spec evaluate``: how often a model file is right, on every example, in any backend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from mixer_spec import InputError
from mixer_spec.commands.options import Data
from mixer_spec.commands.output import Json, backend_crashes, console, print_json, progress, table


def evaluate(
    model: Annotated[
        Path, typer.Argument(help="A file or folder of weights, of any layout, or an .onnx.")
    ],
    data: Data,
    split: Annotated[str, typer.Option(help="Which examples of it.")] = "test",
    backends: Annotated[
        str, typer.Option(help="Names separated by commas, or package.module:Class.")
    ] = "onnxruntime",
    batch: Annotated[int, typer.Option(min=1, help="Examples in one forward pass.")] = 256,
    json: Json = False,
) -> None:
    """Evaluate a model file on every example; with several backends, also whether they agree.

    Exit codes: 0 good, 1 the backends disagree, 2 bad input or a missing extra, 3 one crashed.
    """
    from mixer_spec.data import open_source

    from .deployment import evaluate_file

    names = [name.strip() for name in backends.split(",") if name.strip()]
    if not names:
        raise InputError("--backends", "nothing to run; expected at least one backend, got none")
    source = open_source(data, split)
    runs = {}
    with backend_crashes(), progress() as tell:
        for name in names:
            tell(f"evaluating with {name}")
            runs[name] = evaluate_file(model, name, source, batch=batch)
    first = next(iter(runs.values()))
    differing = {
        name: int((run.classes != first.classes).sum())
        for name, run in runs.items()
        if not np.array_equal(run.classes, first.classes)
    }
    if json:
        print_json(
            {
                "model": str(model),
                "data": data,
                "split": split,
                "fingerprint": source.fingerprint,
                "examples": len(source),
                "backends": {
                    name: {"correct": run.correct, "accuracy": run.accuracy}
                    for name, run in runs.items()
                },
                "same_predictions": not differing,
            }
        )
    else:
        made = table("backend", "right", "of", "accuracy", right=("right", "of", "accuracy"))
        for name, run in runs.items():
            made.add_row(name, str(run.correct), str(len(run.labels)), f"{run.accuracy:.2%}")
        console().print(made)
        for name, count in differing.items():
            console().print(f"[red]{name} gives {count} examples another class than {names[0]}[/]")
    if differing:
        raise typer.Exit(1)
