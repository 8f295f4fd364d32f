"""``mixer-spec fewshot``: how well a model's features tell classes apart, with nothing trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixer_spec.errors import FileError, InputError

from .options import Backend, Data, Pipeline
from .output import Json, backend_crashes, console, print_json, progress, table

if TYPE_CHECKING:
    from mixer_spec.fewshot import Accuracies, FewShot

_FEATURES = "pooled"  # the tap in front of the head


def fewshot(
    model: Annotated[Path, typer.Argument(help="Model file of any layout.")],
    data: Data,
    backend: Backend = "jax",
    shots: Annotated[str, typer.Option(help="Examples of each class.")] = "1,5,10,25",
    regularisation: Annotated[
        float | None, typer.Option(help="Default: 1024, as big_vision has it.")
    ] = None,
    train: Annotated[str, typer.Option(help="Split to choose examples from.")] = "train",
    test: Annotated[str, typer.Option(help="Split to classify.")] = "test",
    batch: Annotated[int, typer.Option(min=1, help="Images in a forward pass.")] = 64,
    preprocessing: Pipeline = None,
    json: Json = False,
) -> None:
    """Fit least squares to the features of a few examples, and classify the others with it.

    Exit codes: 0 good, 2 bad input or a missing extra, 3 the backend crashed.
    """
    from mixer_spec.backend import load_backend
    from mixer_spec.data import open_source
    from mixer_spec.fewshot import measure
    from mixer_spec.model_files import read_model
    from mixer_spec.preprocess import pipeline
    from mixer_spec.shapes import Image

    settings = _settings(shots, regularisation)
    file = read_model(model)
    if not isinstance(file.spec.input, Image):
        raise InputError(str(model), f"takes no images; expected an image, got {file.spec.input}")
    how = pipeline(preprocessing) if preprocessing else getattr(file, "preprocessing", None)
    if how is None:
        raise FileError(
            str(model),
            "does not say how its photos are preprocessed; do `--preprocessing NAME`, as in "
            "`--preprocessing big_vision`",
        )
    sources = open_source(data, train), open_source(data, test)
    size = (file.spec.input.height, file.spec.input.width)
    with backend_crashes(), progress() as tell:
        loaded = load_backend(backend).load(file.spec, file.weights)
        found = measure(
            settings,
            lambda images: loaded.forward(images, taps=(_FEATURES,))[_FEATURES],
            sources,
            how,
            size,
            batch,
            tell,
        )
    if json:
        print_json(
            {
                "model": str(model),
                "data": data,
                "backend": backend,
                "settings": settings.to_data(),
                "train_examples": found.train_examples,
                "test_examples": found.test_examples,
                "accuracy": {
                    str(count): {"mean": found.mean(count), "seeds": list(found.accuracies[count])}
                    for count in settings.shots
                },
            }
        )
    else:
        _print(settings, found)


def _settings(shots: str, regularisation: float | None) -> FewShot:
    from mixer_spec.fewshot import BIG_VISION

    try:
        counts = tuple(int(text) for text in shots.split(","))
    except ValueError:
        raise InputError(
            "--shots", f"must be numbers; expected some like 1,5,10,25, got {shots!r}"
        ) from None
    changes: dict[str, Any] = {"shots": counts}
    if regularisation is not None:
        changes["regularisation"] = regularisation
    return dataclasses.replace(BIG_VISION, **changes)


def _print(settings: FewShot, found: Accuracies) -> None:
    made = table(
        "shots", "accuracy", *(f"seed {seed}" for seed in settings.seeds), right=("shots",)
    )
    for shots in settings.shots:
        seeds = (f"{value:.2%}" for value in found.accuracies[shots])
        made.add_row(str(shots), f"[bold]{found.mean(shots):.2%}[/]", *seeds)
    out = console()
    out.print(made)
    out.print(f"\n{found.test_examples:,} test images, {found.train_examples:,} training images")
