"""A run and its files: checkpoints that are damaged or of another run, logs, numbers that are none."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import resource
import shutil
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mixer_jax.training import checkpoint, display, log
from mixer_jax.training.loop import Outcome, run
from mixer_jax.training.mesh import check_batch, placement
from mixer_jax.training.state import abstract_state, initial_state
from mixer_jax.training.stopping import told_to_end
from mixer_spec import FileError, InputError, ModelSpec, families
from mixer_spec.batches import Batches
from mixer_spec.data import ArraySource
from mixer_spec.evaluation import evaluation_batches
from mixer_spec.job import Habits, Stopped
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
    folder: Path,
    settings: Recipe = RECIPE,
    data: int = 0,
    habits: Habits = HABITS,
    spec: ModelSpec = SPEC,
    at: tuple[int, Callable[[Any], object]] | None = None,
) -> Outcome:
    """A run; ``at`` a step something is done, given its batch."""
    examples = source(data)
    batches: Any = Batches(examples, settings)
    return run(
        spec,
        settings,
        Eventful(batches, *at) if at else batches,
        new_weights(spec, settings),
        folder,
        habits=habits,
        data=examples.fingerprint,
        placed=placement(),
        held_out=lambda: evaluation_batches(examples, settings.data.evaluation, (8, 8), 16),
    )


class Eventful:
    """Batches before one of which something happens."""

    def __init__(self, batches: Batches, step: int, event: Callable[[Any], object]) -> None:
        self.batches, self.step, self.event = batches, step, event

    def iterate(self, start: int) -> Iterator[Any]:
        for number, batch in enumerate(self.batches.iterate(start), start):
            if number == self.step:
                self.event(batch)
            yield batch


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


def events(folder: Path) -> list[tuple[int, str, float]]:
    """Step, name and value of what TensorBoard is given, by the format of its files."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack_from("Q", content)
            event = log.Event.FromString(content[12 : 12 + size])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            content = content[16 + size :]
    return found


def test_tensorboard_has_the_metrics(finished: tuple[Path, Outcome]) -> None:
    given = [event for event in events(finished[0]) if event[1] not in ("images_per_second", "mfu")]
    lines = log.read(finished[0] / "metrics.jsonl")
    assert given == [
        (line["step"], name, pytest.approx(value, rel=1e-6))
        for line in lines
        for name, value in line.items()
        if name != "step"
    ]


def test_picture_shows_both_losses_and_a_file_gets_a_line_now_and_then(
    finished: tuple[Path, Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    display.draw(finished[0], tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(display, "_BETWEEN_LINES", 0.0)
    with display.display(steps=12, step=4) as shown:
        shown.at(5, loss=1.25)
        shown.at(5, accuracy=0.5)
    said = capsys.readouterr().err
    assert "step 5 of 12  loss 1.250  0:00:00 left" in said
    assert "step 5 of 12  loss 1.250  held out 50.0%" in said


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


def test_other_architecture_is_refused_with_what_differs(folder: Path) -> None:
    (stage,) = SPEC.stages
    deeper = dataclasses.replace(SPEC, stages=(dataclasses.replace(stage, depth=3),))
    with pytest.raises(InputError) as caught:
        train(folder, spec=deeper)
    said = str(caught.value)
    assert "is of another run; go on as it was begun, or choose another --out" in said
    assert "- spec.stages.0.depth 2" in said
    assert "+ spec.stages.0.depth 3" in said
    assert "recipe" not in said
    assert train(folder).resumed == 12  # it is still there


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


def break_an_image(batch: Any) -> None:
    batch.images[0] = np.nan


def test_loss_that_is_no_number_stops_the_run_and_loses_nothing(
    tmp_path: Path, finished: tuple[Path, Outcome]
) -> None:
    said = r"not finite in step 7; expected numbers, got a loss of nan.*are saved.*learning_rate"
    with pytest.raises(InputError, match=said):
        train(tmp_path, at=(6, break_an_image))
    assert newest(tmp_path).name == "6"
    again = train(tmp_path)  # with good data
    assert again.resumed == 6
    assert digest(again.weights) == digest(finished[1].weights)
    mine, theirs = (path / "metrics.jsonl" for path in (tmp_path, finished[0]))
    assert mine.read_bytes() == theirs.read_bytes()


@contextlib.contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """What a full disk is to a program: the kernel refuses to write on, wherever it is tried."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# What Orbax leaves behind of a checkpoint that it could not write.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_checkpoint_that_cannot_be_written_names_the_last_good_one(
    tmp_path: Path, finished: tuple[Path, Outcome]
) -> None:
    before = set(threading.enumerate())
    with contextlib.ExitStack() as until:

        def fill(batch: Any) -> None:
            while not (tmp_path / "checkpoints" / "4").exists():  # written beside the training
                time.sleep(0.01)
            until.enter_context(files_end_at(2000))

        with pytest.raises(FileError) as caught:
            train(tmp_path, habits=dataclasses.replace(HABITS, log_every=100), at=(5, fill))
    said = str(caught.value)
    assert "a checkpoint could not be written; the last good one is of step 4; make room" in said
    assert "File too large" in said
    while set(threading.enumerate()) - before:  # Orbax's, which would end with their process
        time.sleep(0.01)
    again = train(tmp_path)
    assert again.resumed == 4
    assert digest(again.weights) == digest(finished[1].weights)


@pytest.mark.parametrize(
    ("owner", "call", "allowed"), [(log.os, "fsync", 3), (log.RecordWriter, "flush", 1)]
)
def test_metrics_that_cannot_be_written_end_the_run(
    owner: Any,
    call: str,
    allowed: int,
    tmp_path: Path,
    finished: tuple[Path, Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``allowed`` are the calls of the first checkpoint."""
    good, calls = getattr(owner, call), itertools.count()

    def refuse(*given: Any) -> Any:
        if next(calls) < allowed:
            return good(*given)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(owner, call, refuse)
    with pytest.raises(FileError, match=r"metrics could not be written: No space left.*make room"):
        train(tmp_path)
    monkeypatch.undo()
    again = train(tmp_path)
    assert again.resumed == 4
    assert digest(again.weights) == digest(finished[1].weights)
    mine, theirs = (path / "metrics.jsonl" for path in (tmp_path, finished[0]))
    assert mine.read_bytes() == theirs.read_bytes()


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"file: cannot be made; File exists; choose another --out"):
        train(tmp_path / "file")
    with pytest.raises(FileError, match=r"run: cannot be made; Not a directory"):
        train(tmp_path / "file" / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_saves_and_goes_on_with_the_same_bits(
    number: signal.Signals, tmp_path: Path, finished: tuple[Path, Outcome]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=r"told to end; saved step 6 of 12; start the same command"):
        train(tmp_path, at=(5, lambda batch: signal.raise_signal(number)))
    assert signal.getsignal(number) is before
    again = train(tmp_path)
    assert again.resumed == 6
    assert digest(again.weights) == digest(finished[1].weights)


def test_second_interrupt_does_not_wait_for_the_step() -> None:
    with told_to_end() as told:
        assert not told(1)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert told(2)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


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
