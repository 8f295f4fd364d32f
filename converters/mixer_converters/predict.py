"""``mixer-spec predict``: photos in, the most probable classes out, by any backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
import typer
from numpy.typing import NDArray
from rich.markup import escape

from mixer_spec import FileError, InputError, MixerSpecError, ModelSpec, WeightsError, load_backend
from mixer_spec.commands.options import Backend, Pipeline
from mixer_spec.commands.output import Json, backend_crashes, console, print_json, table
from mixer_spec.preprocess import Preprocessing, pipeline, preprocess
from mixer_spec.preprocess.decode import decode
from mixer_spec.shapes import Image

_BATCH = 32  # images in one forward pass, so that a folder of photos does not fill the memory


class Loaded(Protocol):
    """A model from a file, with what the file says about its images and classes."""

    @property
    def spec(self) -> ModelSpec:
        """The architecture."""
        ...

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How a photo becomes pixels."""
        ...

    @property
    def labels(self) -> Sequence[str] | None:
        """The name of each class, in the order of the logits."""
        ...

    def forward(self, images: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """See :meth:`mixer_spec.backend.Model.forward`."""
        ...


@runtime_checkable
class TakesPhotos(Protocol):
    """A loaded file whose graph may preprocess by itself."""

    @property
    def takes_photos(self) -> bool:
        """Whether ``forward`` takes uint8 photos ``[batch, height, width, rgb]`` of any size."""
        ...


@runtime_checkable
class LoadsFiles(Protocol):
    """A backend that runs a file of its own format, as ONNX Runtime does."""

    def load_file(self, path: Path) -> Loaded:
        """Open the file.

        Raises:
            FileError: if it is damaged or was not exported by mixer_spec.
        """
        ...


@dataclass(frozen=True, slots=True)
class Guess:
    """One class that a photo may belong to.

    Args:
        index: of the logit.
        label: the class's name, or its index in digits where the file has no labels.
        probability: the softmax of the logits at that index.
    """

    index: int
    label: str
    probability: float


def predict(
    images: Annotated[list[Path], typer.Argument(help="Photos, in any format that Pillow reads.")],
    model: Annotated[
        Path, typer.Option(help="A file or folder of weights, of any layout, or an .onnx.")
    ],
    backend: Backend = "onnxruntime",
    top: Annotated[int, typer.Option(min=1, help="Number of classes for each photo.")] = 5,
    preprocessing: Pipeline = None,
    json: Json = False,
) -> None:
    """Classify photos with a model file; prints the most probable classes of each.

    Exit codes: 0 good, 2 bad input or a missing extra, 3 the backend crashed.
    """
    chosen = None if preprocessing is None else pipeline(preprocessing)
    with backend_crashes():
        loaded = load_model(model, backend)
        photo_size(loaded.spec)  # what takes no photos needs no preprocessing either
        if isinstance(loaded, TakesPhotos) and loaded.takes_photos and chosen is not None:
            raise InputError(
                str(model),
                "preprocesses in its graph; expected no other preprocessing, got "
                f"{preprocessing!r}; leave `--preprocessing` out",
            )
        found = classify(images, loaded, chosen or _own_preprocessing(loaded, model), top=top)
    if json:
        print_json(_describe(model, backend, images, found))
    else:
        _print(images, found)


def load_model(path: Path, backend: str) -> Loaded:
    """The model in a file, ready to run.

    Args:
        path: an ``.onnx`` file, which its own runtime runs, or a model of any layout.
        backend: a registered name, or ``package.module:Class``.

    Raises:
        FileError: if the backend does not read such a file, or the file is damaged.
        SpecError: if the file does not say which function it is.
    """
    engine = load_backend(backend)
    if path.suffix != ".onnx":
        from .model_file import read_model_file

        file = read_model_file(path)
        model = engine.load(file.spec, file.weights)
        return _WithFile(file.spec, file.preprocessing, file.labels, model.forward)
    if not isinstance(engine, LoadsFiles):
        raise FileError(
            str(path),
            f"the backend {backend!r} does not read .onnx files; expected a file of weights, "
            "or do `--backend onnxruntime`",
        )
    return engine.load_file(path)


@dataclass(frozen=True, slots=True)
class _WithFile:
    """A model, and what its file says."""

    spec: ModelSpec
    preprocessing: Preprocessing | None
    labels: Sequence[str] | None
    forward: Callable[[NDArray[Any]], Mapping[str, NDArray[Any]]]


def _own_preprocessing(loaded: Loaded, path: Path) -> Preprocessing:
    if loaded.preprocessing is None:
        raise FileError(
            str(path),
            "does not say how its photos are preprocessed, which changes every logit; "
            "do `--preprocessing NAME`, as in `--preprocessing big_vision`",
        )
    return loaded.preprocessing


def classify(
    images: Sequence[Path], loaded: Loaded, preprocessing: Preprocessing, *, top: int
) -> list[list[Guess]]:
    """The ``top`` most probable classes of each image, best first.

    Args:
        images: files.
        loaded: the model.
        preprocessing: how a photo becomes pixels.
        top: number of classes, or all where there are fewer.

    Raises:
        FileError, InputError: naming every image that cannot be used; or that the model takes
            no photos.
        WeightsError: if the logits are not finite.
    """
    size = photo_size(loaded.spec)
    whole = isinstance(loaded, TakesPhotos) and loaded.takes_photos

    def prepared(image: Path) -> NDArray[Any]:
        if whole:
            return np.asarray(decode(image, preprocessing.orientation))
        return preprocess(image, preprocessing, size)

    found: list[list[Guess]] = []
    problems: list[MixerSpecError] = []
    batch = 1 if whole else _BATCH  # photos of several sizes make no batch
    for start in range(0, len(images), batch):
        pixels = list(_readable(images[start : start + batch], prepared, problems))
        if not problems:
            logits = loaded.forward(np.stack(pixels))["logits"]
            found += [_guesses(row, loaded.labels, top) for row in logits]
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise InputError("images", [str(problem) for problem in problems])
    return found


def photo_size(spec: ModelSpec) -> tuple[int, int]:
    """Height and width of the photos that a model takes.

    Raises:
        InputError: if it takes sequences, or images of other than three channels.
    """
    given = spec.input
    if not isinstance(given, Image):
        raise InputError(
            "model",
            f"takes sequences, and predict is for photos; expected an image, got {given}; run it "
            "from Python: mixer_spec.load_backend(NAME).load(spec, weights).forward(inputs)",
        )
    if given.channels != 3:
        raise InputError(
            "model", f"must take RGB images; expected 3 channels, got {given.channels}"
        )
    return given.height, given.width


def _readable(
    images: Sequence[Path],
    prepared: Callable[[Path], NDArray[Any]],
    problems: list[MixerSpecError],
) -> Iterator[NDArray[Any]]:
    """The pixels of every image that can be used; what is wrong with the others."""
    for image in images:
        try:
            yield prepared(image)
        except (FileError, InputError) as error:
            problems.append(error)


def _guesses(logits: NDArray[Any], labels: Sequence[str] | None, top: int) -> list[Guess]:
    """The ``top`` largest of one image's logits ``[class]``."""
    if not np.isfinite(logits).all():
        raise WeightsError("model", "its logits are not finite; expected numbers, got inf or nan")
    powers = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = powers / powers.sum()
    best = np.argsort(-probabilities, kind="stable")[:top]
    return [
        Guess(int(index), labels[index] if labels else str(index), float(probabilities[index]))
        for index in best
    ]


def _describe(
    model: Path, backend: str, images: Sequence[Path], found: Sequence[Sequence[Guess]]
) -> dict[str, Any]:
    """Everything that ``mixer-spec predict --json`` prints."""
    return {
        "model": str(model),
        "backend": backend,
        "predictions": [
            {
                "image": str(image),
                "top": [
                    {"class": g.index, "label": g.label, "probability": g.probability}
                    for g in guesses
                ],
            }
            for image, guesses in zip(images, found, strict=True)
        ],
    }


def _print(images: Sequence[Path], found: Sequence[Sequence[Guess]]) -> None:
    made = table(
        "image", "class", "probability", right=("probability",), folding=("image", "class")
    )
    for image, guesses in zip(images, found, strict=True):
        for rank, guess in enumerate(guesses):
            name = escape(str(image)) if rank == 0 else ""
            made.add_row(name, escape(guess.label), f"{guess.probability:.1%}")
        made.add_section()
    console().print(made)
