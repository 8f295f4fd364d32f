"""``mixer-spec train`` and ``mixer-spec finetune``: a recipe and data in, a proven file out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from mixer_spec.errors import FileError, InputError

from .options import Data
from .output import Json, console, print_json, table

if TYPE_CHECKING:
    from mixer_spec.job import Cluster, Habits, Trained
    from mixer_spec.model import ModelSpec
    from mixer_spec.recipe import Recipe
    from mixer_spec.variants import Variant

RecipeName = Annotated[str, typer.Argument(help="A recipe's name, or a recipe file (.json).")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the run; a run in it goes on.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another value in the recipe: place=value, as steps=100."),
]
HeldOut = Annotated[
    str, typer.Option("--held-out", help="Split to evaluate on; none for no evaluation.")
]
LogEvery = Annotated[int, typer.Option(min=1, help="Steps between lines of metrics.")]
EvaluateEvery = Annotated[int, typer.Option(min=1, help="Steps between evaluations.")]
SaveEvery = Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")]
Keep = Annotated[int, typer.Option(min=1, help="Checkpoints that stay.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that prepare batches; 0: threads.")]
Parameters = Annotated[
    Literal["replicated", "sharded"],
    typer.Option(help="Weights whole on every device, or spread over them."),
]
Profile = Annotated[
    str | None, typer.Option(help="FIRST:COUNT, steps to trace for XProf or TensorBoard.")
]
Together = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="auto (TPU pod, Slurm), or HOST:PORT,PROCESSES,PROCESS: train with others.",
    ),
]
Patience = Annotated[
    int, typer.Option(min=5, help="Seconds of silence before a process is given up.")
]

_TOLD_TO_END = 143  # what a shell says of a process that SIGTERM ended


def train(
    recipe: RecipeName,
    data: Data,
    out: Out,
    model: Annotated[
        str | None,
        typer.Option(help="A variant's name, or a spec file (.json). Default: the recipe's."),
    ] = None,
    change: Changes = None,
    held_out: HeldOut = "test",
    log_every: LogEvery = 10,
    evaluate_every: EvaluateEvery = 1000,
    save_every: SaveEvery = 500,
    keep: Keep = 3,
    workers: Workers = 0,
    parameters: Parameters = "replicated",
    profile: Profile = None,
    cluster: Together = None,
    patience: Patience = 100,
    json: Json = False,
) -> None:
    """Train a model by a recipe, and prove that its file computes the same in every backend.

    Exit codes: 0 good, 1 the backends disagree, 2 bad input or a missing extra, 143 told to
    end by SIGTERM or Ctrl-C: the state is saved, and the same command goes on.
    """
    from mixer_spec.data import open_source
    from mixer_spec.starting import new_weights

    settings = find_recipe(recipe, change or ())
    source = open_source(data, "train")
    spec, variant = _model(recipe, model, settings, len(source.classes))
    _finish(
        spec,
        settings,
        new_weights(spec, settings, variant.initial if variant else None),
        data,
        source,
        held_out,
        out,
        variant=variant.name if variant else None,
        provenance={"weights": f"trained from scratch by the recipe {recipe!r}", "data": data},
        habits=_habits(log_every, evaluate_every, save_every, keep, workers, parameters, profile),
        cluster=_cluster(cluster, patience),
        json=json,
    )


def finetune(
    data: Data,
    out: Out,
    init: Annotated[Path, typer.Option(help="Model file to begin with, of any layout.")],
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name, or a recipe file (.json).")
    ] = "finetune_imagenet",
    resolution: Annotated[
        str | None, typer.Option(help="Pixels of a side, or HxW. Default: the recipe's.")
    ] = None,
    change: Changes = None,
    held_out: HeldOut = "test",
    log_every: LogEvery = 10,
    evaluate_every: EvaluateEvery = 1000,
    save_every: SaveEvery = 500,
    keep: Keep = 3,
    workers: Workers = 0,
    parameters: Parameters = "replicated",
    profile: Profile = None,
    cluster: Together = None,
    patience: Patience = 100,
    json: Json = False,
) -> None:
    """Train a model on from a file, at another resolution and for other classes if need be.

    Exit codes: 0 good, 1 the backends disagree, 2 bad input or a missing extra, 143 told to
    end by SIGTERM or Ctrl-C: the state is saved, and the same command goes on.
    """
    from mixer_spec.data import open_source
    from mixer_spec.model_files import read_model
    from mixer_spec.starting import weights_from
    from mixer_spec.weights import digest

    from .architecture import parse_image_size

    settings = find_recipe(recipe, change or ())
    if resolution is not None:
        size = parse_image_size(resolution, "--resolution")
        pair = size if isinstance(size, tuple) else (size, size)
        settings = dataclasses.replace(
            settings, data=dataclasses.replace(settings.data, image_size=pair)
        )
    file = read_model(init)
    source = open_source(data, "train")
    spec, weights = weights_from(file.spec, file.weights, settings, classes=len(source.classes))
    _finish(
        spec,
        settings,
        weights,
        data,
        source,
        held_out,
        out,
        variant=None,
        provenance={
            "weights": f"fine-tuned from {init.name} by the recipe {recipe!r}",
            "fine_tuned_from": digest(file.weights),
            "data": data,
        },
        habits=_habits(log_every, evaluate_every, save_every, keep, workers, parameters, profile),
        cluster=_cluster(cluster, patience),
        json=json,
    )


def find_recipe(name: str, changes: Sequence[str] = ()) -> Recipe:
    """The recipe that ``name`` means, with other values at some places.

    Args:
        name: of a recipe, or the path of a file, which ends in ``.json``.
        changes: each ``place=value``.

    Raises:
        UnknownNameError: if there is no such recipe.
        FileError: if the file cannot be read.
        SpecError: if a rule is broken.
        InputError: if a change has no ``=``.

    Example:
        >>> find_recipe("digits", ["steps=20", "schedule.warm_up=5"]).steps
        20
    """
    from mixer_spec.recipe import Recipe, changed
    from mixer_spec.recipes import recipe

    if name.endswith(".json"):
        try:
            text = Path(name).read_bytes()
        except OSError as error:
            raise FileError(name, f"cannot be read; got: {error.strerror}") from None
        found = Recipe.from_json(text, where=name)
    else:
        found = recipe(name)
    wrong = [change for change in changes if "=" not in change]
    if wrong:
        raise InputError("--set", f"expected place=value, as steps=100; got {wrong}")
    pairs = (change.partition("=") for change in changes)
    return changed(found, {place: value for place, _, value in pairs})


def _model(
    name: str, model: str | None, recipe: Recipe, classes: int
) -> tuple[ModelSpec, Variant | None]:
    """The architecture: what was asked for, or what belongs to a named recipe."""
    from mixer_spec.model import ModelSpec
    from mixer_spec.recipes import RECIPES

    from .architecture import find_architecture

    known = RECIPES[name].model if name in RECIPES else None
    if model is None and isinstance(known, ModelSpec):
        return known, None
    chosen = model or known
    if chosen is None:
        raise InputError(
            "--model", f"the recipe {name!r} has no model of its own; do `--model mixer_b16`"
        )
    assert isinstance(chosen, str)
    if chosen.endswith(".json"):
        return find_architecture(chosen)
    height, width = recipe.data.image_size
    return find_architecture(chosen, image_size=f"{height}x{width}", classes=classes)


def _habits(
    log_every: int,
    evaluate_every: int,
    save_every: int,
    keep: int,
    workers: int,
    parameters: Literal["replicated", "sharded"],
    profile: str | None,
) -> Habits:
    from mixer_spec.job import Habits

    steps = None
    if profile is not None:
        first, _, count = profile.partition(":")
        if not (first.isdigit() and count.isdigit() and int(count)):
            raise InputError("--profile", f"expected FIRST:COUNT, as 10:5; got {profile!r}")
        steps = int(first), int(count)
    return Habits(
        log_every=log_every,
        evaluate_every=evaluate_every,
        save_every=save_every,
        keep=keep,
        workers=workers,
        parameters=parameters,
        profile=steps,
    )


def _cluster(text: str | None, patience: int) -> Cluster | None:
    from mixer_spec.job import Cluster

    if text is None:
        return None
    if text == "auto":
        return Cluster(patience=patience)
    coordinator, *numbers = text.split(",")
    if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
        raise InputError("--cluster", f"expected auto or HOST:PORT,PROCESSES,PROCESS; got {text!r}")
    processes, process = map(int, numbers)
    if process >= processes:
        raise InputError(
            "--cluster", f"expected a process of {processes}, from 0 on; got process {process}"
        )
    return Cluster(coordinator=coordinator, processes=processes, process=process, patience=patience)


def _finish(
    spec: ModelSpec,
    recipe: Recipe,
    weights: Mapping[str, Any],
    data: str,
    source: Any,
    held_out: str,
    out: Path,
    *,
    variant: str | None,
    provenance: dict[str, str],
    habits: Habits,
    cluster: Cluster | None,
    json: bool,
) -> None:
    """Run the job, tell what came of it, and exit with what that means."""
    from mixer_spec.data import open_source
    from mixer_spec.evaluation import check_classes
    from mixer_spec.job import Job, Stopped, trainer
    from mixer_spec.starting import check_image_size

    check_classes(spec.classes, source, "model")
    check_image_size(spec, recipe)
    others = None if held_out == "none" else open_source(data, held_out)
    if others is not None:
        check_classes(spec.classes, others, f"{data}, {held_out}")
    job = Job(
        spec=spec,
        recipe=recipe,
        weights=weights,
        train=source,
        held_out=others,
        folder=out,
        variant=variant,
        provenance=provenance,
        habits=habits,
        cluster=cluster,
    )
    try:
        trained = trainer()(job)
    except Stopped as stop:
        typer.echo(f"stopped: {stop}", err=True)
        raise typer.Exit(_TOLD_TO_END) from None
    if json:
        print_json(_describe(trained))
    elif trained.files:
        _print(trained)
    if trained.deployment is not None and not trained.deployment["good"]:
        raise typer.Exit(1)


def _describe(trained: Trained) -> dict[str, Any]:
    return {
        "files": {name: str(path) for name, path in trained.files.items()},
        "held_out_accuracy": trained.accuracy,
        "resumed_from_step": trained.resumed,
        "unreadable": list(trained.unreadable),
        "deployment": trained.deployment,
    }


def _print(trained: Trained) -> None:
    out = console()
    if trained.accuracy is not None:
        out.print(f"held-out accuracy {trained.accuracy:.2%}, while training")
    if trained.unreadable:
        out.print(f"{len(trained.unreadable)} images could not be read and were left out")
    found = trained.deployment
    if found is not None:
        made = table("deployed in", "right", "of", "accuracy", right=("right", "of", "accuracy"))
        for name, run in found["backends"].items():
            made.add_row(name, str(run["correct"]), str(run["examples"]), f"{run['accuracy']:.2%}")
        out.print(made)
        same = "yes" if found["same_predictions"] else "[red]no[/]"
        conformant = "yes" if found["verdict"]["conformant"] else "[red]no[/]"
        out.print(f"all predictions the same: {same}; every stage conformant: {conformant}")
        for name, reason in found["not_installed"].items():
            out.print(f"[yellow]not proven[/] in {name}: {escape(reason)}")
    for name, path in trained.files.items():
        out.print(f"{name:<11} {escape(str(path))}")
