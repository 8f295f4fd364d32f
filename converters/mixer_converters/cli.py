"""The command ``mixer-spec init``, and what it shares with ``mixer-spec export``."""

from __future__ import annotations

import contextlib
import json as json_text
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

import mixer_spec
from mixer_spec.atomic import check_target, is_there
from mixer_spec.commands.architecture import find_architecture
from mixer_spec.commands.options import ImageSize, VariantName
from mixer_spec.commands.output import Json, console, print_json
from mixer_spec.errors import FileError

Labels = Annotated[
    Path | None, typer.Option(help="Names of the classes: a line each, or a JSON list.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it is there already.")]


def init(
    variant: VariantName,
    output: Annotated[Path, typer.Option("-o", "--output", help="The .safetensors to write.")],
    seed: Annotated[int, typer.Option(help="Of the initial values.")] = 0,
    image_size: ImageSize = None,
    classes: Annotated[
        int | None, typer.Option(help="Number of logits. Default: one for each label, or 1000.")
    ] = None,
    labels: Labels = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write the paper's initial weights as a canonical file."""
    from mixer_spec.preprocess import pipeline
    from mixer_spec.weights import initial

    from .canonical import save

    check_output(output, force=force)
    names = None if labels is None else read_labels(labels)
    if classes is None and names is not None and not variant.endswith(".json"):
        classes = len(names)
    spec, published = find_architecture(variant, image_size=image_size, classes=classes)
    with status(f"writing {output}"):
        digest = save(
            output,
            spec,
            initial(spec, seed=seed, overrides=published.initial if published else None),
            variant=published.name if published else None,
            preprocessing=pipeline(published.preprocessing) if published else None,
            labels=names,
            provenance={
                "weights": f"initial values, seed {seed}",
                "writer": f"mixer-spec {mixer_spec.__version__}",
            },
        )
    summary = {
        "path": str(output),
        "bytes": output.stat().st_size,
        "variant": published.name if published else None,
        "parameters": spec.parameter_count,
        "classes": spec.classes,
        "seed": seed,
        "fingerprint": spec.fingerprint,
        "weights_digest": digest,
    }
    print_summary(summary, f"mixer-spec export {output}", json=json)


def read_labels(path: Path) -> list[str]:
    """The names of the classes in a file: a JSON list (``.json``), or one on each line.

    Raises:
        FileError: if the file cannot be read, or a line is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = json_text.loads(text) if path.suffix == ".json" else text.splitlines()
    except OSError as error:
        raise FileError(str(path), f"could not be read; got: {error}") from None
    except ValueError as error:
        raise FileError(
            str(path), f"is no list of labels; expected UTF-8 text, a label a line, got: {error}"
        ) from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FileError(str(path), "must be a JSON list of strings")
    empty = [number for number, name in enumerate(names, 1) if not name.strip()]
    if empty or not names:
        raise FileError(str(path), f"every class needs a label; expected none empty, got {empty}")
    return names


def check_output(path: Path, *, force: bool) -> None:
    """Refuse a target that is there already, unless it may be replaced.

    Raises:
        FileError: saying so, or that nothing can be written there.
    """
    check_target(path)
    if path.exists() and not force:
        raise is_there(path)


@contextlib.contextmanager
def status(text: str) -> Iterator[None]:
    """A line on stderr while something is done; silent where stderr is no terminal."""
    from rich.console import Console

    with Console(stderr=True).status(escape(text)):
        yield


def print_summary(summary: dict[str, Any], following: str, *, json: bool) -> None:
    """The facts of what was written, and what may come next."""
    if json:
        print_json(summary)
        return
    answer = console()
    for key, value in summary.items():
        if value is not None:
            shown = ", ".join(value) if isinstance(value, list) else value
            shown = f"{value:,}" if isinstance(value, int) else shown
            answer.print(f"{key.replace('_', ' '):<16} {escape(str(shown))}")
    answer.print(f"\nnext: {escape(following)}")
