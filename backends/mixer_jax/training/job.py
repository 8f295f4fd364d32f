"""A job from its examples to a proven file: what ``mixer-spec train`` runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from mixer_converters.canonical import save
from mixer_spec.atomic import replacing
from mixer_spec.batches import Batches
from mixer_spec.evaluation import EvaluationBatch, evaluation_batches
from mixer_spec.job import Cluster, Job, Trained

from .allocator import keep_freed_memory
from .display import draw
from .loop import Outcome, run
from .mesh import check_batch, placement
from .room import check_planned

_EVALUATED_AT_ONCE = 1024  # examples, over all devices


def train(job: Job) -> Trained:
    """Train, write the canonical file and the ONNX file, and prove that they are the same model.

    Raises:
        MixerSpecError: of one kind or another, for each thing that can be wrong; see
            :func:`mixer_jax.training.loop.run`.
    """
    keep_freed_memory()
    if job.cluster is not None:
        join(job.cluster)
    placed = placement(parameters=job.habits.parameters)
    check_batch(job.recipe.batch, job.recipe.accumulation, placed.devices)
    check_planned(job.spec, job.recipe, placed)
    batches = Batches(
        job.train,
        job.recipe,
        process=jax.process_index(),
        processes=jax.process_count(),
        workers=job.habits.workers,
    )
    outcome = run(
        job.spec,
        job.recipe,
        batches,
        job.weights,
        job.folder,
        habits=job.habits,
        data=job.train.fingerprint,
        placed=placed,
        held_out=None if job.held_out is None else lambda: _held_out(job, placed.devices),
    )
    files: dict[str, Path] = {}
    deployment = None
    if jax.process_index() == 0:
        files = _write(job, outcome)
        if job.held_out is not None and "onnx" in files:
            deployment = _prove(job, files)
    return Trained(
        files=files,
        accuracy=None if outcome.score is None else outcome.score.accuracy,
        resumed=outcome.resumed,
        unreadable=outcome.unreadable,
        deployment=deployment,
    )


def join(cluster: Cluster) -> None:
    """Become one of the processes that train together; before anything else asks for devices.

    A process that gives no sign of life ends all others, with a message, when the patience ends.
    """
    given: dict[str, Any] = {}
    if cluster.coordinator:
        given = {
            "coordinator_address": cluster.coordinator,
            "num_processes": cluster.processes,
            "process_id": cluster.process,
        }
    jax.distributed.initialize(**given, heartbeat_timeout_seconds=cluster.patience)


def _held_out(job: Job, devices: int) -> Iterator[EvaluationBatch]:
    assert job.held_out is not None
    count = min(_EVALUATED_AT_ONCE, len(job.held_out))
    return evaluation_batches(
        job.held_out,
        job.recipe.data.evaluation,
        job.recipe.data.image_size,
        -(-count // devices) * devices,
    )


def _write(job: Job, outcome: Outcome) -> dict[str, Path]:
    """The model in both forms, and the picture of the run."""
    from importlib.util import find_spec

    folder = job.folder
    files = {
        "model": folder / "model.safetensors",
        "recipe": folder / "recipe.json",
        "metrics": folder / "metrics.jsonl",
        "picture": folder / "run.png",
    }
    provenance = {
        **job.provenance,
        "recipe": job.recipe.fingerprint,
        "training_data": job.train.fingerprint,
        "steps": str(job.recipe.steps),
        "trained_with": f"jax {jax.__version__}",
    }
    if outcome.score is not None:
        provenance["held_out_accuracy"] = f"{outcome.score.accuracy:.4f}"
    about: dict[str, Any] = {
        "variant": job.variant,
        "preprocessing": job.recipe.data.evaluation,
        "labels": list(job.train.classes),
        "provenance": provenance,
    }
    save(files["model"], job.spec, outcome.weights, **about)
    with replacing(files["recipe"]) as temporary:
        temporary.write_text(job.recipe.to_json(), encoding="utf-8")
    draw(folder, files["picture"])
    if find_spec("onnx_ir") is not None:
        from mixer_converters.onnx_export import export_onnx

        files["onnx"] = folder / "model.onnx"
        export_onnx(job.spec, outcome.weights, files["onnx"], **about)
    return files


def _prove(job: Job, files: dict[str, Path]) -> dict[str, Any]:
    """Evaluate the files in every backend; the answer is written beside them."""
    from mixer_converters.deployment import prove
    from mixer_spec.commands.output import progress

    assert job.held_out is not None
    with progress() as tell:
        found = prove(files["model"], files["onnx"], job.held_out, progress=tell).to_data()
    files["deployment"] = job.folder / "deployment.json"
    with replacing(files["deployment"]) as temporary:
        temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found
