"""Proof that a trained file is what is deployed: every example, in every backend, from the file.

The canonical file is evaluated by JAX and PyTorch, and the ONNX file by ONNX Runtime. All must give
every example the same class; and every stage of every backend is judged against float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from mixer_spec.data.source import Source
from mixer_spec.errors import FileError, MissingExtraError
from mixer_spec.evaluation import Predictions, check_classes, evaluation_batches, predictions

from .predict import load_model, photo_size

BACKENDS = ("jax", "torch", "onnxruntime")
_JUDGED = 8  # examples that every stage is judged on


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Deployment:
    """What each backend made of the same examples.

    Args:
        runs: predictions by backend.
        missing: backends that are not installed, and what to do.
        verdict: of the conformance suite, as plain data.
    """

    runs: Mapping[str, Predictions]
    missing: Mapping[str, str]
    verdict: Mapping[str, Any]

    @property
    def same(self) -> bool:
        """Whether all give every example the same class."""
        first, *others = self.runs.values()
        return all(np.array_equal(first.classes, other.classes) for other in others)

    @property
    def good(self) -> bool:
        """Whether nothing speaks against it."""
        return self.same and bool(self.verdict["conformant"])

    def to_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "backends": {
                name: {
                    "examples": len(run.labels),
                    "correct": run.correct,
                    "accuracy": run.accuracy,
                }
                for name, run in self.runs.items()
            },
            "good": self.good,
            "same_predictions": self.same,
            "not_installed": dict(self.missing),
            "verdict": self.verdict,
        }


def evaluate_file(path: Path, backend: str, source: Source, *, batch: int = 256) -> Predictions:
    """What a model file says of every example.

    Args:
        path: a model of any layout, or an ``.onnx`` for a backend that reads it.
        backend: a registered name, or ``package.module:Class``.
        source: the examples.
        batch: examples in one forward pass; it changes no prediction.

    Raises:
        FileError: if the file cannot be read, or does not say how photos are preprocessed.
        InputError: if the classes do not match.
        MissingExtraError: if the backend is not installed.
    """
    loaded = load_model(path, backend)
    if loaded.preprocessing is None:
        raise FileError(
            str(path), "does not say how photos are preprocessed; expected a file that says it"
        )
    check_classes(loaded.spec.classes, source, str(path))
    batches = evaluation_batches(
        source, loaded.preprocessing, photo_size(loaded.spec), min(batch, len(source))
    )
    return predictions(lambda images: loaded.forward(images)["logits"], batches)


def prove(
    model: Path,
    onnx: Path,
    source: Source,
    *,
    progress: Callable[[str], None] = lambda activity: None,
) -> Deployment:
    """Evaluate and judge a trained model in every backend that is installed.

    Args:
        model: the canonical file.
        onnx: the file exported from it.
        source: the examples.
        progress: is told what is being done.

    Raises:
        MissingExtraError: if none of the backends is installed.
    """
    runs: dict[str, Predictions] = {}
    missing: dict[str, str] = {}
    for backend in BACKENDS:
        progress(f"evaluating with {backend}")
        try:
            path = onnx if backend == "onnxruntime" else model
            runs[backend] = evaluate_file(path, backend, source)
        except MissingExtraError as error:
            missing[backend] = error.problems[0]
    if not runs:
        raise MissingExtraError("deployment", list(missing.values()))
    return Deployment(
        runs=runs, missing=missing, verdict=_verdict(model, list(runs), source, progress)
    )


def _verdict(
    model: Path, backends: list[str], source: Source, progress: Callable[[str], None]
) -> dict[str, Any]:
    """The conformance suite's, on the trained weights and on examples."""
    from .canonical import load

    judges = list(entry_points(group="mixer_spec.judges"))
    if not judges:
        raise MissingExtraError("deployment", "needs a judge; expected the conformance suite")
    file = load(model)
    assert file.preprocessing is not None
    count = min(_JUDGED, len(source))
    batches = evaluation_batches(source, file.preprocessing, photo_size(file.spec), count)
    report = judges[0].load()(
        file.spec,
        backends,
        weights={name: np.asarray(array, np.float32) for name, array in file.weights.items()},
        inputs=next(batches)[0],
        name="the trained weights",
        progress=progress,
    )
    found: dict[str, Any] = report.to_data()
    return found
