"""A program that knows nothing but the exported cases: it answers them with a backend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from mixer_conformance.files.tensors import read_tensors
from mixer_spec import Backend, ModelSpec
from mixer_spec.training import AdamW, CrossEntropy, Momentum, Sgd, TrainState, initial_state

Array = np.ndarray[Any, Any]
OPTIMISERS = {kind.kind: kind for kind in (Sgd, Momentum, AdamW)}


def answer(folder: Path, backend: Backend) -> None:
    """Answer every request with a backend, from the files alone."""
    info = backend.info()
    told = {"name": info.name, "versions": dict(info.versions), "device": info.device}
    (folder / "backend.json").write_text(json.dumps({**told, "taps": info.taps}))
    for listed in json.loads((folder / "cases.json").read_text())["requests"]:
        request = json.loads((folder / listed["folder"] / "request.json").read_text())
        weights = tensors(folder / request["weights"])
        given = tensors(folder / request["inputs"]) if request["inputs"] else {}
        spec = ModelSpec.from_json(json.dumps(request["spec"]))
        kind = request["kind"]
        model: Any = backend.load(spec, weights, profile=request["profile"])
        if not hasattr(model, kind):
            told = {"request": request["digest"], "unsupported": f"the model has no {kind}"}
            (folder / request["refusal"]).write_text(json.dumps(told))
            continue
        with np.errstate(all="ignore"):
            found = ANSWERS[kind](folder, request, model, weights, given)
        write(folder / request["outputs"], found, request["digest"])


def tensors(path: Path) -> dict[str, Array]:
    return read_tensors(path, path.name)[0]


def write(path: Path, found: dict[str, Array], digest: str) -> None:
    whole = {name: np.asarray(array, order="C") for name, array in found.items()}
    path.write_bytes(safetensors.numpy.save(whole, {"request": digest}))


def _forward(folder: Path, request: Any, model: Any, weights: Any, given: Any) -> dict[str, Array]:
    return dict(model.forward(given["inputs"], request["taps"]))


def _export(folder: Path, request: Any, model: Any, weights: Any, given: Any) -> dict[str, Array]:
    return dict(model.export_weights())


def _vjp(folder: Path, request: Any, model: Any, weights: Any, given: Any) -> dict[str, Array]:
    cotangents = {n.removeprefix("cotangents."): a for n, a in given.items() if n != "inputs"}
    found = model.vjp(given["inputs"], cotangents)
    answers = {f"weights.{name}": array for name, array in found.weights.items()}
    return answers if found.inputs is None else {**answers, "inputs": found.inputs}


def _train_step(folder: Path, request: Any, model: Any, weights: Any, given: Any) -> Any:
    fields = dict(request["optimiser"])
    optimiser: Any = OPTIMISERS[fields.pop("kind")](**fields)
    loss = CrossEntropy(label_smoothing=request["loss"]["label_smoothing"])
    if request["after"] is None:
        dtype = given["inputs"].dtype
        state = initial_state(optimiser, {n: w.astype(dtype) for n, w in weights.items()})
    else:
        before = tensors(folder / request["after"])
        parts = {
            part: {name: before[f"{part}.{name}"] for name in weights}
            for part in ("weights", *request["slots"])
        }
        state = TrainState(step=request["step"] - 1, weights=parts.pop("weights"), slots=parts)
    value, state = model.train_step(
        state, given["inputs"], given["labels"], loss=loss, optimiser=optimiser
    )
    return {
        "loss": np.array(value, state.weights["head.bias"].dtype),
        **{f"weights.{name}": array for name, array in state.weights.items()},
        **{f"{slot}.{n}": a for slot, arrays in state.slots.items() for n, a in arrays.items()},
    }


ANSWERS: dict[str, Callable[..., dict[str, Array]]] = {
    "forward": _forward,
    "export_weights": _export,
    "vjp": _vjp,
    "train_step": _train_step,
}
