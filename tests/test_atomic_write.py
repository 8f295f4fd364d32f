"""A crash at any moment of writing leaves the old file or the new one, and nothing beside it."""

from __future__ import annotations

import os
import platform
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixer_converters.canonical import load, save
from mixer_converters.containers import Stored, safetensors
from mixer_converters.containers.contents import in_memory
from mixer_spec import FileError, WeightsError, families
from mixer_spec.atomic import replacing
from mixer_spec.weights import initial

SPEC = families.mixer(
    image_size=8, patch=4, channels=6, depth=1, token_hidden=5, channel_hidden=7, classes=3
)

OLD, NEW = b"old content", b"new content, which is longer"


class Crash(Exception):
    """Stands for anything that may happen in the middle."""


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: Any, **more: Any) -> Any:
        raise error

    return fail


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(OLD)
    return path


def write_new(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(NEW)


# --- replacing ------------------------------------------------------------------------------


def test_the_new_file_takes_the_place_of_the_old_one(target: Path) -> None:
    write_new(target)
    assert target.read_bytes() == NEW
    assert list(target.parent.iterdir()) == [target]


def test_a_new_file_has_the_rights_that_the_user_asks_for(tmp_path: Path) -> None:
    write_new(tmp_path / "new.bin")
    (tmp_path / "plain.bin").write_bytes(NEW)
    assert (tmp_path / "new.bin").stat().st_mode == (tmp_path / "plain.bin").stat().st_mode


def test_the_file_behind_a_link_is_replaced(target: Path) -> None:
    link = target.parent / "link.bin"
    link.symlink_to(target.name)
    write_new(link)
    assert link.is_symlink()
    assert target.read_bytes() == NEW


@pytest.mark.parametrize("error", [Crash(), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_an_exception_in_the_middle_leaves_the_old_file(target: Path, error: BaseException) -> None:
    def write_and_fail() -> None:
        with replacing(target) as temporary:
            temporary.write_bytes(NEW[:5])
            raise error

    with pytest.raises(type(error)):
        write_and_fail()
    assert target.read_bytes() == OLD
    assert list(target.parent.iterdir()) == [target]


def test_an_error_of_the_writer_names_the_file_that_was_asked_for(target: Path) -> None:
    def write_what_cannot_be() -> None:
        with replacing(target) as temporary:
            raise WeightsError(str(temporary), "holds what no file can")

    with pytest.raises(WeightsError) as caught:
        write_what_cannot_be()
    assert str(caught.value) == f"{target}: holds what no file can"


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_refusal_of_the_system_leaves_the_old_file(
    target: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(os, stage, raising(OSError(28, "No space left on device")))
    with pytest.raises(FileError, match=r"file\.bin: could not be written.*No space left"):
        write_new(target)
    monkeypatch.undo()
    assert target.read_bytes() == OLD
    assert list(target.parent.iterdir()) == [target]


def test_the_bytes_and_then_the_name_are_brought_to_the_disk(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    def note_replace(source: Path, destination: Path) -> None:
        events.append("rename")
        replace(source, destination)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_new(target)
    assert events == ["file", "rename", "folder"]


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no folder"):
        write_new(tmp_path / "absent" / "file.bin")


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a folder"):
        write_new(tmp_path)


def test_a_file_that_came_meanwhile_is_replaced_only_if_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"

    def write_after_another(overwrite: bool) -> None:
        with replacing(path, overwrite=overwrite) as temporary:
            temporary.write_bytes(NEW)
            path.write_bytes(OLD)

    with pytest.raises(FileError, match="is there already"):
        write_after_another(overwrite=False)
    assert path.read_bytes() == OLD
    write_after_another(overwrite=True)
    assert path.read_bytes() == NEW
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("there", [False, True])
def test_a_disk_without_links_refuses_what_is_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(os, "link", raising(PermissionError(1, "Operation not permitted")))
    path = tmp_path / "file.bin"
    told = pytest.raises(FileError, match="is there already") if there else nullcontext()
    with told, replacing(path, overwrite=False) as temporary:
        temporary.write_bytes(NEW)
        if there:
            path.write_bytes(OLD)
    assert path.read_bytes() == (OLD if there else NEW)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_taken_away_and_what_a_living_one_writes_is_not(
    target: Path,
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        begin = f".{target.name}.{platform.node()}"
        living = target.with_name(f"{begin}.{other.pid}.1f00.tmp")
        elsewhere = target.with_name(f".{target.name}.another-host.1.1f00.tmp")
        others = target.with_name(f".other.bin.{platform.node()}.1.1f00.tmp")
        for path in (living, elsewhere, others):
            path.write_bytes(OLD)
        write_new(target)
        assert set(target.parent.iterdir()) == {target, living, elsewhere, others}
        other.communicate(b"")
    write_new(target)  # `other` has ended
    assert set(target.parent.iterdir()) == {target, elsewhere, others}


# --- saving a canonical file ----------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save(path, SPEC, initial(SPEC, seed=0), labels=["a", "b", "c"])
    return path


def assert_is_the_old_one(path: Path) -> None:
    file = load(path)
    file.check_digest()
    assert file.labels == ("a", "b", "c")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), MemoryError(), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_a_failure_of_the_writer_leaves_the_old_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(safetensors, "write", raising(error))
    with pytest.raises((FileError, MemoryError, KeyboardInterrupt)):
        save(saved, SPEC, initial(SPEC, seed=1))
    assert_is_the_old_one(saved)


def test_a_writer_that_stops_half_way_leaves_the_old_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = safetensors.write

    def write_half(path: Path, tensors: Any, metadata: Any) -> None:
        write(path, tensors, metadata)
        path.write_bytes(path.read_bytes()[:-100])

    monkeypatch.setattr(safetensors, "write", write_half)
    with pytest.raises(FileError, match="not a whole safetensors file"):
        save(saved, SPEC, initial(SPEC, seed=1))
    assert_is_the_old_one(saved)


def test_one_wrong_bit_is_found_when_reading_back(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = safetensors.write

    def write_wrong(path: Path, tensors: dict[str, Stored], metadata: Any) -> None:
        wrong = tensors["norm.bias"].read().copy()
        wrong.view(np.uint32)[2] ^= 1
        write(path, {**tensors, "norm.bias": in_memory(wrong)}, metadata)

    monkeypatch.setattr(safetensors, "write", write_wrong)
    with pytest.raises(FileError, match=r"did not read back.*\['norm\.bias'\]"):
        save(saved, SPEC, initial(SPEC, seed=1))
    assert_is_the_old_one(saved)


WRITE_FOREVER = """
import sys
from mixer_converters.canonical import save
from mixer_spec import families
from mixer_spec.weights import initial
spec = families.mixer(
    image_size=32, patch=4, channels=64, depth=2, token_hidden=32, channel_hidden=256, classes=3
)
weights = [initial(spec, seed=seed) for seed in range(2)]
turn = 0
while True:
    save(sys.argv[1], spec, weights[turn], provenance={"turn": str(turn)})
    print(turn, flush=True)
    turn = 1 - turn
"""


def test_a_process_killed_at_random_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    moments = random.Random(0)
    digests = {}
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITE_FOREVER, str(path)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            for _ in range(2):  # both contents were written once
                process.stdout.readline()
            time.sleep(moments.uniform(0.0, 0.05))
            process.send_signal(signal.SIGKILL)
        file = load(path)
        file.check_digest()
        digests[file.provenance["turn"]] = file.weights_digest
    assert set(digests) <= {"0", "1"}
    assert len(set(digests.values())) == len(digests)


WRITE_AND_DIE = """
import os, signal, sys
from mixer_spec.atomic import replacing

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

path, stage = sys.argv[1:]
if stage != "half written":
    setattr(os, stage, die)
with replacing(path) as temporary:
    temporary.write_bytes(b"new")
    if stage == "half written":
        die()
"""


@pytest.mark.parametrize("stage", ["half written", "fsync", "replace"])
def test_a_process_killed_before_the_name_changes_leaves_the_old_file(
    target: Path, stage: str
) -> None:
    process = subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(target), stage], check=False)
    assert process.returncode == -signal.SIGKILL
    assert target.read_bytes() == OLD
    write_new(target)
    assert list(target.parent.iterdir()) == [target]  # what the killed one left is gone
