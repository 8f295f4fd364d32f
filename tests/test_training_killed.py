"""A run killed at any moment ends with the bits of one that never was."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from mixer_spec.data import open_source
from mixer_spec.recipe import MovingAverage, StochasticDepth, changed
from mixer_spec.recipe_parts import InceptionCrop, Mixup, RandAugment
from mixer_spec.recipes import recipe

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("killed")]

KILLS = 20

# One core, since XLA's sums on a CPU depend on how many it sees.
RUN = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pathlib import Path
from mixer_jax.training.loop import run
from mixer_jax.training.mesh import placement
from mixer_spec import families
from mixer_spec.batches import Batches
from mixer_spec.data import open_source
from mixer_spec.evaluation import evaluation_batches
from mixer_spec.job import Habits, Stopped
from mixer_spec.recipe import Recipe
from mixer_spec.starting import new_weights
from mixer_spec.weights import digest

recipe = Recipe.from_json(Path(sys.argv[1]).read_text())
folder, workers = Path(sys.argv[2]), int(sys.argv[3])
spec = families.mixer(image_size=8, patch=2, channels=16, depth=2, token_hidden=8,
                      channel_hidden=32, classes=10)
train, test = open_source(sys.argv[4], "train"), open_source(sys.argv[4], "test")
try:
    outcome = run(
        spec, recipe, Batches(train, recipe, workers=workers), new_weights(spec, recipe), folder,
        habits=Habits(log_every=1, evaluate_every=20, save_every=2, keep=2),
        data=train.fingerprint, placed=placement(),
        held_out=lambda: evaluation_batches(test, recipe.data.evaluation, (8, 8), 120),
    )
except Stopped:
    sys.exit(143)
Path(folder, "digest").write_text(digest(outcome.weights))
"""


def all_augmentations() -> str:
    """A recipe in which everything that is drawn is drawn."""

    digits = changed(
        recipe("digits"),
        {"steps": "100", "schedule.warm_up": "10", "batch": "32", "accumulation": "2"},
    )
    return replace(
        digits,
        data=replace(
            digits.data,
            crop=InceptionCrop(area=(0.5, 1.0), antialias="off"),
            flip="left_right",
        ),
        augment=RandAugment(layers=2, magnitude=5, flavour="google"),
        mixup=Mixup(strength=0.5, share="larger", partner="previous"),
        stochastic_depth=StochasticDepth(rate=0.3, grows="per_branch", rescale="kept"),
        average=MovingAverage(decay=0.95),
    ).to_json()


@dataclass(frozen=True)
class Runs:
    """Runs of one recipe in processes of their own.

    Args:
        shared: the recipe and the data, and compiled programs, so that a run begins again soon.
    """

    shared: Path

    def start(self, folder: Path, workers: int = 0) -> subprocess.Popen[bytes]:
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(self.shared / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        arguments = [self.shared / "recipe.json", folder, workers, self.shared]
        with (folder / "stderr").open("ab") as stderr:
            return subprocess.Popen(
                [sys.executable, "-c", RUN, *map(str, arguments)],
                env={**os.environ, **cache},
                stderr=stderr,
            )

    def finish(self, folder: Path) -> None:
        assert self.start(folder).wait() == 0, (folder / "stderr").read_text()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    shared = tmp_path_factory.mktemp("shared")
    (shared / "recipe.json").write_text(all_augmentations())
    for split in ("train", "test"):  # as files, which open sooner than scikit-learn
        digits = open_source("digits", split)
        examples = [digits[number] for number in range(len(digits))]
        np.savez(
            shared / f"{split}.npz",
            images=np.stack([example.image for example in examples]),
            labels=np.array([example.label for example in examples]),
        )
    return Runs(shared)


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory, runs: Runs) -> Path:
    folder = tmp_path_factory.mktemp("never")
    runs.finish(folder)
    return folder


def lines(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def half_saved(folder: Path) -> bool:
    """Whether a checkpoint is being written."""
    found = folder / "checkpoints"
    return found.exists() and any("tmp" in path.name for path in found.iterdir())


def same(one: Path, other: Path) -> None:
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    assert (one / "digest").read_text() == (other / "digest").read_text()
    assert checksum(one) == checksum(other)  # the optimiser's memory and the average too


def checksum(folder: Path) -> int:
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))
    return int(json.loads((newest / "about" / "metadata").read_text())["checksum"])


def test_killed_twenty_times_ends_with_the_same_bits(
    tmp_path: Path, runs: Runs, never_killed: Path
) -> None:
    chance = random.Random(0)
    kills = in_save = 0
    while kills < KILLS:
        process = runs.start(tmp_path)
        enough = lines(tmp_path) + chance.randrange(1, 6)
        waits_for_save = kills % 2 == 0
        while process.poll() is None:
            if lines(tmp_path) >= enough and (half_saved(tmp_path) or not waits_for_save):
                in_save += half_saved(tmp_path)
                process.kill()
                break
            time.sleep(0.001)
        assert process.wait() == -signal.SIGKILL, "the run ended before it was killed often enough"
        kills += 1
    assert in_save >= 5
    runs.finish(tmp_path)
    same(tmp_path, never_killed)


def test_killed_data_worker_changes_nothing(tmp_path: Path, runs: Runs, never_killed: Path) -> None:
    process = runs.start(tmp_path, workers=1)
    while process.poll() is None and lines(tmp_path) < 10:
        time.sleep(0.01)
    workers = [int(pid) for pid in children(process.pid)]
    assert workers
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    assert process.wait() == 0
    same(tmp_path, never_killed)


def children(pid: int) -> list[str]:
    """The processes of a run that prepare batches."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def test_told_to_end_saves_at_once_and_goes_on_from_there(
    tmp_path: Path, runs: Runs, never_killed: Path
) -> None:
    process = runs.start(tmp_path)
    while process.poll() is None and lines(tmp_path) < 7:
        time.sleep(0.005)
    process.terminate()
    assert process.wait() == 143
    done = lines(tmp_path)
    newest = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert newest == done
    runs.finish(tmp_path)
    same(tmp_path, never_killed)
