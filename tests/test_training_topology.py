"""Devices, processes and sharding change no example and no draw, and the loss by rounding only."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixer_spec.recipe import MovingAverage, StochasticDepth, changed
from mixer_spec.recipe_parts import Mixup, RandAugment
from mixer_spec.recipes import recipe

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("topology")]

STEPS = 20
RECIPE = replace(
    changed(recipe("digits"), {"steps": str(STEPS), "batch": "32", "schedule.warm_up": "4"}),
    augment=RandAugment(layers=1, magnitude=3, flavour="google"),
    mixup=Mixup(strength=0.5, share="larger", partner="previous"),
    stochastic_depth=StochasticDepth(rate=0.3, grows="per_branch", rescale="kept"),
    average=MovingAverage(decay=0.9),
    rematerialise="blocks",
)

# One process of a run. Small arrays are sharded too, or there would be nothing to test.
RUN = """
import json, os, signal, sys, time
from pathlib import Path
import jax
given = json.loads(sys.argv[1])
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", given["devices"])
from mixer_jax.training.job import join
from mixer_jax.training.loop import run
from mixer_jax.training.mesh import placement
from mixer_spec import families
from mixer_spec.batches import Batches
from mixer_spec.data import open_source
from mixer_spec.evaluation import evaluation_batches
from mixer_spec.job import Cluster, Habits, Stopped
from mixer_spec.recipe import Recipe
from mixer_spec.starting import new_weights

if given["cluster"]:
    join(Cluster(**given["cluster"]))
spec = families.mixer(image_size=8, patch=2, channels=16, depth=2, token_hidden=8,
                      channel_hidden=32, classes=10)
train, test = open_source("digits", "train"), open_source("digits", "test")

class Interrupted:
    def __init__(self, batches, at, how, saved):
        self.batches, self.at, self.how, self.saved = batches, at, how, saved
    def iterate(self, start):
        for number, batch in enumerate(self.batches.iterate(start), start):
            if number == self.at and start == 0:
                while self.how == "die" and not self.saved.exists():
                    time.sleep(0.01)  # written beside the training
                os._exit(9) if self.how == "die" else os.kill(os.getpid(), signal.SIGTERM)
            yield batch

for case in given["cases"]:
    recipe = Recipe.from_json(case["recipe"])
    batches = Batches(train, recipe, process=jax.process_index(), processes=jax.process_count())
    try:
        saved = Path(case["folder"], "checkpoints", "5")
        run(spec, recipe, Interrupted(batches, case.get("at"), case.get("how"), saved),
            new_weights(spec, recipe), Path(case["folder"]),
            habits=Habits(log_every=1, evaluate_every=10, save_every=5), data=train.fingerprint,
            placed=placement(devices=jax.devices()[: case["devices"]],
                             parameters=case["parameters"], least=1),
            held_out=lambda: evaluation_batches(test, recipe.data.evaluation, (8, 8), 100))
    except Stopped as stop:
        print(stop)
"""


def start(
    cases: list[dict[str, Any]], *, devices: int, cluster: dict[str, Any] | None = None
) -> subprocess.Popen[str]:
    given = json.dumps({"cases": cases, "devices": devices, "cluster": cluster})
    return subprocess.Popen(
        [sys.executable, "-c", RUN, given],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], *, code: int = 0) -> str:
    said, _ = process.communicate()
    assert process.returncode == code, said
    return said


def case(folder: Path, name: str, devices: int, parameters: str, **changes: str) -> dict[str, Any]:
    return {
        "folder": str(folder / name),
        "recipe": changed(RECIPE, changes).to_json(),
        "devices": devices,
        "parameters": parameters,
    }


def together(
    cases: list[dict[str, Any]], last: list[dict[str, Any]]
) -> list[subprocess.Popen[str]]:
    """Two processes of two devices each; ``last`` are the cases of the second."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    return [
        start(
            own,
            devices=2,
            cluster={
                "coordinator": coordinator,
                "processes": 2,
                "process": process,
                "patience": 10,
            },
        )
        for process, own in enumerate((cases, last))
    ]


def losses(folder: Path, name: str) -> np.ndarray[Any, Any]:
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return np.array([line["loss"] for line in found if "loss" in line])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on one and on eight devices, and one that moves from eight to two."""
    found = tmp_path_factory.mktemp("topology")
    cases = [
        case(found, "one", 1, "replicated"),
        case(found, "eight", 8, "replicated"),
        case(found, "sharded", 8, "sharded"),
        {**case(found, "moved", 8, "sharded"), "at": 7, "how": "stop"},
        case(found, "moved", 2, "replicated"),
        case(found, "parts", 2, "replicated", accumulation="4"),
        case(found, "one64", 1, "replicated", compute="float64"),
        case(found, "eight64", 8, "replicated", compute="float64"),
        case(found, "sharded64", 8, "sharded", compute="float64"),
    ]
    said = finish(start(cases, devices=8))
    assert "saved step 8 of 20" in said
    return found


@pytest.mark.parametrize(
    ("name", "than", "atol"),
    [
        ("eight", "one", 1e-5),
        ("sharded", "one", 1e-5),
        ("moved", "one", 1e-5),
        ("parts", "one", 1e-5),
        ("eight64", "one64", 1e-12),
        ("sharded64", "one64", 1e-12),
    ],
)
def test_losses_differ_by_rounding_only(folder: Path, name: str, than: str, atol: float) -> None:
    found, expected = losses(folder, name), losses(folder, than)
    assert len(found) == STEPS
    assert np.abs(np.diff(expected)).max() > 0.01  # it does train
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def test_two_processes_train_as_one(folder: Path) -> None:
    both = [case(folder, "processes", 4, "sharded")]
    for process in together(both, both):
        finish(process)
    np.testing.assert_allclose(
        losses(folder, "processes"), losses(folder, "one"), rtol=0, atol=1e-5
    )


def test_dead_process_ends_the_other_in_time_and_nothing_is_lost(folder: Path) -> None:
    both = [case(folder, "dead", 4, "replicated")]
    dies = [{**both[0], "at": 8, "how": "die"}]
    first, second = together(both, dies)
    finish(second, code=9)
    died = time.monotonic()
    said, _ = first.communicate(timeout=120)
    assert first.returncode not in (0, None)
    assert time.monotonic() - died < 60
    assert any(word in said.lower() for word in ("heartbeat", "unhealthy", "closed", "connection"))
    for process in together(both, both):
        assert "going on from step" in finish(process)
    np.testing.assert_allclose(losses(folder, "dead"), losses(folder, "one"), rtol=0, atol=1e-5)


def test_terminated_processes_save_the_same_step(folder: Path) -> None:
    both = [case(folder, "told", 4, "replicated")]
    stops = [{**both[0], "at": 6, "how": "stop"}]
    for process in together(both, stops):
        assert "saved step" in finish(process)
    assert len(losses(folder, "told")) < STEPS
    for process in together(both, both):
        finish(process)
    np.testing.assert_allclose(losses(folder, "told"), losses(folder, "one"), rtol=0, atol=1e-5)
