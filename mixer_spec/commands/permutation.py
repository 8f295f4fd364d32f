"""``mixer-spec permutation``: does a model learn the same from shuffled patches and pixels?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixer_spec.errors import InputError

from .options import Backend, Data
from .output import Json, backend_crashes, console, print_json, progress, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixer_spec.data import Source
    from mixer_spec.permutation import Examples, Trajectories
    from mixer_spec.preprocess import Preprocessing

_TOLERANCE, _SEEN = 1e-9, 1e-3  # relative, on every loss; of what must agree, and of what must not
_SAID = {
    "permuted": "patches and pixels in another order, weights too: must be the same",
    "unadapted": "patches and pixels in another order, weights as they were: must differ",
    "all_pixels": "all pixels in one other order: must differ",
    "each_image": "all pixels, in another order for each image: must differ",
}


def permutation(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model file or a spec file (.json). Default: the digits' small Mixer."
        ),
    ] = None,
    data: Data = "digits",
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 20,
    batch: Annotated[int, typer.Option(min=1, help="Examples in a step.")] = 16,
    backend: Backend = "reference",
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.")] = 3e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of the orders and the weights.")] = 0,
    json: Json = False,
) -> None:
    """Train on shuffled images, and on controls, in float64; compare the loss of every step.

    Exit codes: 0 the invariance holds and the controls see a difference, 1 not, 2 bad input, 3 the
    backend crashed.
    """
    import numpy as np

    from mixer_spec.backend import load_backend
    from mixer_spec.data import open_source
    from mixer_spec.permutation import training_by, training_invariance
    from mixer_spec.recipes import recipe
    from mixer_spec.training import CrossEntropy

    spec, weights, how = _model(model, seed)
    source = open_source(data, "train")
    if len(source.classes) != spec.classes:
        raise InputError(
            "--data",
            f"class count does not match the model; expected {spec.classes}, got "
            f"{len(source.classes)}",
        )
    # A head of zeros hides every difference in the first step.
    generator = np.random.default_rng(seed)
    head = weights["head.kernel"]
    if not np.any(head):
        weights = {**weights, "head.kernel": generator.standard_normal(head.shape) * 0.1}
    optimiser = dataclasses.replace(recipe("digits").optimiser, learning_rate=learning_rate)
    train = training_by(load_backend(backend), spec, optimiser, CrossEntropy(label_smoothing=0.0))
    with backend_crashes(), progress() as tell:
        tell("training five times")
        found = training_invariance(
            spec, weights, _batches(source, spec, how, steps, batch), train, seed=seed
        )
    distances = {name: found.distance(name) for name in _SAID}
    holds = distances["permuted"] <= _TOLERANCE
    seen = all(distances[name] >= _SEEN for name in _SAID if name != "permuted")
    if json:
        print_json(
            {
                "model": model,
                "data": data,
                "backend": backend,
                "steps": steps,
                "tolerance": _TOLERANCE,
                "losses": {name: list(getattr(found, name)) for name in ("plain", *_SAID)},
                "distances": distances,
                "invariant": holds,
                "controls_differ": seen,
            }
        )
    else:
        _print(found, distances, holds=holds, seen=seen)
    if not (holds and seen):
        raise typer.Exit(1)


def _model(name: str | None, seed: int) -> tuple[Any, Any, Preprocessing]:
    """The spec, its weights, and how an image becomes pixels."""
    from mixer_spec.model_files import read_model
    from mixer_spec.preprocess import pipeline
    from mixer_spec.recipes import RECIPES
    from mixer_spec.weights import initial

    from .architecture import find_architecture

    squash = pipeline("vit_jax")
    if name is None:
        spec = RECIPES["digits"].model
        return spec, initial(spec, seed=seed), squash  # type: ignore[arg-type]
    if name.endswith(".json"):
        spec, _ = find_architecture(name)
        return spec, initial(spec, seed=seed), squash
    file = read_model(Path(name))
    return file.spec, file.weights, getattr(file, "preprocessing", None) or squash


def _batches(
    source: Source, spec: Any, how: Preprocessing, steps: int, batch: int
) -> Sequence[Examples]:
    import numpy as np

    from mixer_spec.preprocess import preprocess
    from mixer_spec.shapes import Image

    if not isinstance(spec.input, Image):
        raise InputError("model", f"takes no images; expected an image, got {spec.input}")
    size = (spec.input.height, spec.input.width)
    order = np.random.default_rng(0).permutation(len(source))
    made = []
    for step in range(steps):
        numbers = order[np.arange(step * batch, (step + 1) * batch) % len(source)]
        examples = [source[int(number)] for number in numbers]
        images = np.stack([preprocess(example.image, how, size) for example in examples])
        made.append((images.astype(np.float64), np.array([e.label for e in examples])))
    return made


def _print(found: Trajectories, distances: dict[str, float], *, holds: bool, seen: bool) -> None:
    made = table("training", "first loss", "last loss", "difference", "what", folding=("what",))
    made.add_row("plain", f"{found.plain[0]:.6f}", f"{found.plain[-1]:.6f}", "", "as it is")
    for name, said in _SAID.items():
        losses = getattr(found, name)
        first, last = f"{losses[0]:.6f}", f"{losses[-1]:.6f}"
        made.add_row(name, first, last, f"{distances[name]:.0e}", said)
    out = console()
    out.print(made)
    within = f"every loss within {_TOLERANCE:g} of the plain one"
    if holds:
        out.print(f"\n[green]invariant[/]: {within}")
    else:
        out.print(
            f"\n[bold red]not invariant[/]: expected {within}, got {distances['permuted']:.0e}"
        )
    if not seen:
        out.print("[bold red]a control sees no difference, so this proves nothing[/]")
