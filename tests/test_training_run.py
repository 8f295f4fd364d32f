"""A run and its files: checkpoints that are damaged or of another run, logs, numbers that are none."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mixer_jax.training import checkpoint, log
from mixer_jax.training.loop import Outcome, run
from mixer_jax.training.mesh import check_batch, placement
from mixer_jax.training.state import abstract_state, initial_state
from mixer_spec import FileError, InputError, families
from mixer_spec.batches import Batches
from mixer_spec.data import ArraySource
from mixer_spec.evaluation import evaluation_batches
from mixer_spec.job import Habits
from mixer_spec.recipe import MovingAverage, Recipe, changed
from mixer_spec.recipes import recipe
from mixer_spec.starting import new_weights
from mixer_spec.weights import digest

SPEC = families.mixer(
    image_size=8, patch=4, channels=8, depth=2, token_hidden=5, channel_hidden=12, classes=3
)
RECIPE = dataclasses.replace(
    changed(
        recipe("digits"),
        {"steps": "12", "batch": "8", "schedule.warm_up": "2", "optimiser.learning_rate": "0.01"},
    ),
    average=MovingAverage(decay=0.5),
)
HABITS = Habits(log_every=1, evaluate_every=6, save_every=4)


def source(seed: int = 0) -> ArraySource:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (40, 8, 8, 3), np.uint8)
    return ArraySource(images, np.arange(40) % 3, ("a", "b", "c"), "made up")


def train(
    folder: Path, settings: Recipe = RECIPE, data: int = 0, habits: Habits = HABITS
) -> Outcome:
    examples = source(data)
    return run(
        SPEC,
        settings,
        Batches(examples, settings),
        new_weights(SPEC, settings),
        folder,
        habits=habits,
        data=examples.fingerprint,
        placed=placement(),
        held_out=lambda: evaluation_batches(examples, settings.data.evaluation, (8, 8), 16),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("run")
    return folder, train(folder)


@pytest.fixture
def folder(tmp_path: Path, finished: tuple[Path, Outcome]) -> Path:
    """A copy of the run that a test may damage."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def test_log_has_a_line_for_each_step_and_each_evaluation(finished: tuple[Path, Outcome]) -> None:
    lines = log.read(finished[0] / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if "accuracy" in line] == [6, 12]
    assert lines[-1]["accuracy"] == finished[1].score.accuracy
    assert any((finished[0] / "tensorboard").iterdir())


def test_finished_run_is_not_trained_again(folder: Path, finished: tuple[Path, Outcome]) -> None:
    before = (folder / "metrics.jsonl").read_bytes()
    again = train(folder)
    assert again.resumed == 12
    assert digest(again.weights) == digest(finished[1].weights)
    assert again.score == finished[1].score
    assert (folder / "metrics.jsonl").read_bytes() == before


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))


def flip_a_byte(path: Path) -> None:
    """In every file that holds numbers."""
    files = [file for file in path.rglob("d/*") if file.is_file()]
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)


def cut_in_half(path: Path) -> None:
    for file in path.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove_the_arrays(path: Path) -> None:
    shutil.rmtree(path / "state")


# Reading a damaged file leaves tasks behind in Orbax's event loop, which end after it is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [flip_a_byte, cut_in_half, remove_the_arrays])
def test_damaged_checkpoint_is_told_and_the_last_good_one_taken(
    damage: Any, folder: Path, finished: tuple[Path, Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(newest(folder))
    again = train(folder)
    assert again.resumed == 8
    said = " ".join(capsys.readouterr().err.split())
    assert "checkpoint 12 is damaged and now called 12.damaged; going back to step 8" in said
    assert digest(again.weights) == digest(finished[1].weights)
    mine, theirs = (path / "metrics.jsonl" for path in (folder, finished[0]))
    assert mine.read_bytes() == theirs.read_bytes()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_a_good_checkpoint_the_run_begins_again(
    folder: Path, finished: tuple[Path, Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (folder / "checkpoints").iterdir():
        cut_in_half(path)
    again = train(folder)
    assert again.resumed == 0
    assert "going from the beginning" in " ".join(capsys.readouterr().err.split())
    assert digest(again.weights) == digest(finished[1].weights)


def test_array_that_was_changed_and_is_readable_is_noticed(finished: tuple[Path, Outcome]) -> None:
    state = initial_state(SPEC, RECIPE, new_weights(SPEC, RECIPE), placement())
    one = checkpoint.checksum(state)
    kernel = state.params["head"]["kernel"]
    swapped = kernel.at[0, 0].set(1.0)
    other = state._replace(
        params={**state.params, "head": {**state.params["head"], "kernel": swapped}}
    )
    assert checkpoint.checksum(other) != one
    moved = swapped.at[0, 0].set(0.0).at[0, 1].set(1.0)  # the same numbers at other places
    third = state._replace(
        params={**state.params, "head": {**state.params["head"], "kernel": moved}}
    )
    assert checkpoint.checksum(third) not in (one, checkpoint.checksum(other))


def test_other_recipe_is_refused_with_what_differs(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        train(folder, changed(RECIPE, {"optimiser.weight_decay": "0.2", "seed": "5"}))
    said = str(caught.value)
    assert "is of another run" in said
    assert "- recipe.optimiser.weight_decay 0.1" in said
    assert "+ recipe.optimiser.weight_decay 0.2" in said
    assert "+ recipe.seed 5" in said
    assert "weights" in said  # other initial values


def test_other_data_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"is of another run[\s\S]*- data '.*'[\s\S]*\+ data"):
        train(folder, data=1)


def test_other_versions_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mixer_jax.training.loop.version", lambda name: "0.0")
    assert train(folder).resumed == 12
    said = capsys.readouterr().err
    assert "other versions than before; bits may differ" in said
    assert "+ jax '0.0'" in said


def test_killed_line_and_later_lines_are_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 0.5}) for step in (1, 2, 3)]
    path.write_text("\n".join(lines) + '\n{"step": 4, "lo')
    log.cut_back(path, 2)
    assert [line["step"] for line in log.read(path)] == [1, 2]
    assert path.read_text().endswith("}\n")


def test_line_can_be_read_as_soon_as_it_is_written(tmp_path: Path) -> None:
    written = log.Log(tmp_path, 0)
    written.metrics(1, {"loss": 0.5})
    assert log.read(tmp_path / log.METRICS) == [{"step": 1, "loss": 0.5}]
    written.close()


class NotFinite:
    """Batches of which one is broken."""

    def __init__(self, batches: Batches, at: int) -> None:
        self.batches, self.at = batches, at

    def iterate(self, start: int) -> Iterator[Any]:
        for number, batch in enumerate(self.batches.iterate(start), start):
            if number == self.at:
                batch.images[0] = np.nan
            yield batch


def test_loss_that_is_no_number_stops_the_run_and_keeps_the_state(tmp_path: Path) -> None:
    examples = source()
    with pytest.raises(InputError, match=r"not finite in step 6: loss nan.*learning_rate"):
        run(
            SPEC,
            RECIPE,
            NotFinite(Batches(examples, RECIPE), 6),
            new_weights(SPEC, RECIPE),
            tmp_path,
            habits=HABITS,
            data=examples.fingerprint,
            placed=placement(),
        )
    assert [line["step"] for line in log.read(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert newest(tmp_path).name == "4"
    assert train(tmp_path).resumed == 4  # and with good data it goes on


def test_full_disk_names_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import orbax.checkpoint as ocp

    good = ocp.CheckpointManager.save

    def full(self: Any, step: int, **given: Any) -> Any:
        if step == 8:
            raise OSError(28, "No space left on device")
        return good(self, step, **given)

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.raises(FileError, match=r"last good one is of step 4; make room.*No space left"):
        train(tmp_path)
    monkeypatch.undo()
    assert train(tmp_path).resumed == 4


def test_batch_that_does_not_divide_names_one_that_does() -> None:
    with pytest.raises(InputError, match=r"8 devices.*multiple of 16, got 40.*32 or 48"):
        check_batch(40, 2, 8)
    check_batch(48, 2, 8)


def test_large_arrays_are_sharded_along_an_axis_that_is_not_scanned() -> None:
    sharded = placement(parameters="sharded", least=1)
    state = abstract_state(SPEC, changed(RECIPE, {"rematerialise": "blocks"}), sharded)
    kernel = state.params["stages"]["0"]["channel_mixing"]["dense_0"]["kernel"]
    assert kernel.sharding.spec == jax.P(None, None, "data")
    assert state.optimiser[1].first["head"]["kernel"].sharding.spec == jax.P("data")
    assert state.step.sharding.spec == jax.P()
    whole = abstract_state(SPEC, RECIPE, placement(parameters="sharded"))
    assert {leaf.sharding.spec for leaf in jax.tree.leaves(whole)} == {jax.P()}
