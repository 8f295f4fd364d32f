"""A full disk, two writers, a killed process: the target is as it was, and nothing lies beside it."""

from __future__ import annotations

import gc
import itertools
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixer_converters import convert, load, save
from mixer_spec import families, variant
from mixer_spec.errors import FileError
from mixer_spec.weights import initial

SPEC = families.mixer(
    image_size=16, patch=4, channels=32, depth=2, token_hidden=32, channel_hidden=64, classes=3
)
SMALLER_THAN_ANY = 20_000  # bytes; the weights have 50,000
TARGETS = {
    "a.safetensors": "timm",
    "a.npz": "google",
    "a.pth": "timm",
    "a.msgpack": "google",
    "a.h5": "kecam",
    "a.onnx": "onnx",
    "orbax": "google",
}


@contextmanager
def disk_with_room_for(size: int) -> Iterator[None]:
    """The system refuses to make any file larger than ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder and of those in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model, outside the folder that is written to."""
    path = tmp_path / "source.safetensors"
    save(path, SPEC, initial(SPEC))
    (tmp_path / "folder").mkdir()
    return path


# Orbax leaves its failed tasks behind, each of which is told when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_a_full_disk_is_told_and_leaves_the_old_target(source: Path, name: str) -> None:
    target = source.with_name("folder") / name
    convert(source, target, to=TARGETS[name])
    before = content(target.parent)
    with disk_with_room_for(SMALLER_THAN_ANY), pytest.raises(FileError) as caught:
        convert(source, target, to=TARGETS[name], overwrite=True)
    assert f"{target}: could not be written" in str(caught.value)
    assert "untouched" in str(caught.value)
    assert content(target.parent) == before
    convert(source, target, to=TARGETS[name], overwrite=True)  # once there is room
    del caught
    gc.collect()  # so that no other test is told


def test_a_full_disk_leaves_the_old_hugging_face_folder(tmp_path: Path) -> None:
    spec = variant("gmlp_ti16").spec(classes=2)
    save(tmp_path / "a.safetensors", spec, initial(spec), variant="gmlp_ti16")
    target = tmp_path / "folder" / "hub"
    target.parent.mkdir()
    convert(tmp_path / "a.safetensors", target, to="timm")
    before = content(target.parent)
    refused = pytest.raises(FileError, match="hub: could not be written; what was there is")
    with disk_with_room_for(SMALLER_THAN_ANY), refused:
        convert(tmp_path / "a.safetensors", target, to="timm", overwrite=True)
    assert content(target.parent) == before


WRITE = """
import sys
from mixer_converters import convert
from mixer_spec.errors import FileError
source, target, turns, overwrite = sys.argv[1:]
print("ready", flush=True)
input()
for _ in range(int(turns)):
    try:
        convert(source, target, to=None if target.endswith("onnx") else "google",
                overwrite=overwrite == "overwrite")
        print("written")
    except FileError as error:
        print(error)
"""


def write_at_once(
    sources: list[Path], target: Path, turns: int, overwrite: bool
) -> list[subprocess.Popen[str]]:
    """Processes that all write to ``target``, started together."""
    started = []
    for source in sources:
        arguments = [str(source), str(target), str(turns), "overwrite" if overwrite else "not"]
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", WRITE, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return started


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Two models of the same layout with other weights."""
    (tmp_path / "folder").mkdir()
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(2)]
    for seed, path in enumerate(paths):
        save(path, SPEC, initial(SPEC, seed=seed))
    return paths


@pytest.mark.parametrize("name", ["a.npz", "a.onnx", "orbax"])
def test_of_two_writers_one_is_refused(two: list[Path], name: str) -> None:
    target = two[0].with_name("folder") / name
    writers = write_at_once(two, target, 1, overwrite=False)
    said = [writer.communicate()[0].strip() for writer in writers]
    assert sorted(text.partition(";")[0] for text in said) == [
        f"{target}: is there already",
        "written",
    ]
    winner = two[said.index("written")]
    assert load(target).weights_digest == load(winner).weights_digest
    assert list(target.parent.iterdir()) == [target]


def test_two_writers_that_may_replace_always_leave_one_whole_file(two: list[Path]) -> None:
    target = two[0].with_name("folder") / "a.npz"
    digests = {load(path).weights_digest for path in two}
    convert(two[0], target)
    seen, writers = set(), write_at_once(two, target, 20, overwrite=True)
    while any(writer.poll() is None for writer in writers):
        seen.add(load(target).weights_digest)  # which compares it with the digest that it states
    assert [writer.communicate()[0] for writer in writers] == ["written\n" * 20] * 2
    assert seen <= digests
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("opening", [1, 2, 3])
@pytest.mark.parametrize("name", [name for name in TARGETS if "." in name])
def test_a_file_that_is_replaced_while_it_is_opened_is_the_old_or_the_new_one(
    name: str, opening: int, two: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, other = (two[0].with_name("folder") / each for each in (name, f"other.{name}"))
    for source, path in zip(two, (target, other), strict=True):
        convert(source, path, to=TARGETS[name])
    opened, times = Path.open, itertools.count(1)

    def open_and_replace(path: Path, *arguments: Any, **named: Any) -> Any:
        found = opened(path, *arguments, **named)
        if path == target and next(times) == opening:
            other.replace(target)
        return found

    monkeypatch.setattr(Path, "open", open_and_replace)
    assert load(target).weights_digest in {load(source).weights_digest for source in two}


DIE_IN_THE_MIDDLE = """
import os, signal, sys
from mixer_converters import convert
written = 0
def die_late(count):
    global written
    written += count
    if written > 20_000:
        os.kill(os.getpid(), signal.SIGKILL)
source, target, layout = sys.argv[1:]
convert(source, target, to=layout, overwrite=True, progress=die_late)
"""


@pytest.mark.parametrize("name", ["a.npz", "a.pth", "orbax"])
def test_a_killed_writer_leaves_the_old_target_and_the_next_one_takes_its_litter(
    source: Path, name: str
) -> None:
    target = source.with_name("folder") / name
    convert(source, target, to=TARGETS[name])
    before = content(target) if target.is_dir() else target.read_bytes()
    arguments = [str(source), str(target), TARGETS[name]]
    died = subprocess.run([sys.executable, "-c", DIE_IN_THE_MIDDLE, *arguments], check=False)
    assert died.returncode == -signal.SIGKILL
    assert (content(target) if target.is_dir() else target.read_bytes()) == before
    (left,) = (path for path in target.parent.iterdir() if path != target)
    assert left.suffix == ".tmp"
    convert(source, target, to=TARGETS[name], overwrite=True)
    assert list(target.parent.iterdir()) == [target]
    for weight, array in load(source).weights.items():
        np.testing.assert_array_equal(load(target).weights[weight], array)


INTERRUPT = """
import os, signal, sys
from rich.progress import Progress
from mixer_spec.cli import main
Progress.advance = lambda *_: os.kill(os.getpid(), signal.SIGINT)  # in the middle of reading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
main()
"""


@pytest.mark.parametrize("command", ["convert a.npz", "convert orbax", "digest", "diff"])
def test_ctrl_c_in_the_middle_is_told_by_the_exit_code_alone(source: Path, command: str) -> None:
    folder = source.with_name("folder")
    arguments = [command, str(source)]
    if command == "diff":
        arguments.append(str(source))
    if command.startswith("convert"):
        command, name = command.split()
        convert(source, folder / name, to=TARGETS[name])
        arguments = [command, str(source), str(folder / name), "--to", TARGETS[name], "--force"]
    before = content(folder)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPT, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert content(folder) == before
