"""Damaged and malicious files: an error of ours, no execution, bounded memory, the target untouched.

2,000 cases; ``make fuzz`` runs 100,000 (``MIXER_FUZZ_CASES``).
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixer_converters import canonical, containers, convert, load
from mixer_converters.containers import torch_pickle
from mixer_spec import families
from mixer_spec.errors import FileError, MixerSpecError

CASES = int(os.environ.get("MIXER_FUZZ_CASES", "2000"))
MOST_MEMORY = 600 * 2**20
SPEC = families.mixer(
    image_size=8, patch=4, channels=6, depth=1, token_hidden=5, channel_hidden=7, classes=3
)
KINDS = {"safetensors": "canonical", "npz": "google", "pth": "timm", "msgpack": "google"}
KINDS |= {"h5": "kecam", "onnx": "onnx"}
ZIPS = ("npz", "pth")
SHARES = {"h5": 0.08, "onnx": 0.08}  # of the cases; the others take more, as they are ours alone


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A sound file of every kind."""
    folder = tmp_path_factory.mktemp("originals")
    weights = {
        name: np.random.default_rng(0).standard_normal(p.shape).astype(np.float32)
        for name, p in SPEC.parameters().items()
    }
    canonical.save(folder / "begin.safetensors", SPEC, weights)
    for kind, layout in KINDS.items():
        convert(folder / "begin.safetensors", folder / f"a.{kind}", to=layout)
    return {kind: (folder / f"a.{kind}").read_bytes() for kind in KINDS}


def mutated(data: bytes, generator: np.random.Generator) -> bytes:
    """``data`` with one to four wounds, most of them near the ends, where headers are."""
    found = bytearray(data)
    for _ in range(generator.integers(1, 5)):
        if not found:
            break
        near = min(len(found), int(generator.choice([64, 512, len(found)])))
        at = int(generator.integers(near))
        at = at if generator.integers(2) else len(found) - 1 - at
        match int(generator.integers(7)):
            case 0:
                found[at] ^= 1 << int(generator.integers(8))
            case 1:
                found[at] = int(generator.choice([0, 1, 0x7F, 0x80, 0xFF]))
            case 2:
                del found[at:]
            case 3:
                del found[at : at + int(generator.integers(1, 16))]
            case 4:
                found[at:at] = generator.bytes(int(generator.integers(1, 16)))
            case 5:
                length = int(generator.integers(1, 64))
                source = int(generator.integers(len(found)))
                found[at : at + length] = found[source : source + length]
            case 6:
                number = int(generator.choice([2**31 - 1, 2**32 - 1, 2**63 - 1, 2**40]))
                found[at : at + 8] = struct.pack("<Q", number)
    return bytes(found)


def mutated_inside(data: bytes, generator: np.random.Generator) -> bytes:
    """A zip with wounds in one member, whose checksum is right: what only the reader can notice."""
    made = io.BytesIO()
    packing = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[generator.integers(2)]
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w", packing) as new:
        names = old.namelist()
        pickles = [name for name in names if name.endswith("data.pkl")]
        chosen = pickles if pickles and generator.integers(2) else names
        victim = chosen[generator.integers(len(chosen))]
        for name in names:
            content = old.read(name)
            new.writestr(name, mutated(content, generator) if name == victim else content)
    return made.getvalue()


def read_everything(path: Path) -> None:
    """What any command does with a file: names, shapes, every value, and the model."""
    for tensor in containers.read(path).tensors.values():
        assert tensor.read().shape == tensor.shape
    load(path, gelu="tanh")


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_an_error_of_ours_or_still_a_file(
    kind: str, originals: dict[str, bytes], tmp_path: Path
) -> None:
    share = SHARES.get(kind, (1 - sum(SHARES.values())) / (len(KINDS) - len(SHARES)))
    generator = np.random.default_rng(list(KINDS).index(kind))
    path, refused = tmp_path / f"mutated.{kind}", 0
    count = max(20, int(CASES * share))
    for case in range(count):
        inside = kind in ZIPS and case % 2
        path.write_bytes((mutated_inside if inside else mutated)(originals[kind], generator))
        try:
            read_everything(path)
        except MixerSpecError:
            refused += 1
        except BaseException as error:
            raise AssertionError(f"case {case} of {kind}: {error!r}") from error
    assert refused > count // 4  # many wounds are in values, which no format notices
    assert peak_memory() < 6 * 2**30


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@settings(
    max_examples=max(100, CASES // 10),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
    database=None,
)
@given(
    head=st.sampled_from(
        [b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x82\xa1", b"\x08\x08", b"\xde\0"]
    ),
    data=st.binary(max_size=400),
)
def test_noise_behind_a_magic_number_is_an_error_of_ours(
    head: bytes, data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "noise"
    path.write_bytes(head + data)
    with pytest.raises(MixerSpecError):
        read_everything(path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "BF16", "Q9", ""]) | JSON_VALUES,
        "shape": st.lists(st.integers(-2, 2**63), max_size=4) | JSON_VALUES,
        "data_offsets": st.lists(st.integers(-2, 2**63), min_size=2, max_size=2) | JSON_VALUES,
    }
)


@settings(
    max_examples=max(100, CASES // 10),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
    database=None,
)
@given(header=st.dictionaries(st.text(max_size=8), ENTRIES, max_size=4) | JSON_VALUES)
def test_headers_that_lie_are_an_error_of_ours(header: Any, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "lie.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    with pytest.raises(MixerSpecError):
        read_everything(path)


# --- malice by name -----------------------------------------------------------------------------


class Bomb:
    """Executes something when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_no_pickle_is_ever_executed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    bomb = Bomb(trace)
    torch.save({"a": bomb}, tmp_path / "a.pth")
    torch.save({"a": bomb}, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "c.pth").write_bytes(pickle.dumps(bomb))
    np.savez(tmp_path / "d.npz", a=np.array([bomb], dtype=object))
    for name in ("a.pth", "b.pth", "c.pth", "d.npz"):
        with pytest.raises(FileError):
            read_everything(tmp_path / name)
    assert not trace.exists()
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert trace.exists()  # the bomb was live


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.",
        b"\x80\x02cbuiltins\neval\n(X\x01\x00\x00\x001tR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",
        b"(ios\nsystem\n.",
        b"\x80\x02}(h\x05u.",
        b"\x80\x02" + b"(" * 50_000 + b".",
        b"\x80\x02]q\x00h\x00a.",
    ],
)
def test_a_pickle_that_does_more_than_tensors_is_refused(program: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(FileError):
        read_everything(path)


def test_what_a_pickle_may_be_is_what_torch_writes() -> None:
    data = io.BytesIO()
    torch.save({"a": torch.ones(2, 3), "b": [1, 2.5, None, True, "x"]}, data)
    with zipfile.ZipFile(data) as archive:
        [name] = [n for n in archive.namelist() if n.endswith("data.pkl")]
        tree = torch_pickle.load(archive.read(name), {"0": 24})
    assert tree["a"].shape == (2, 3)
    assert tree["b"] == [1, 2.5, None, True, "x"]


def npy(shape: tuple[int, ...], descr: str = "<f4", body: bytes = b"") -> bytes:
    data = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(data, header)  # type: ignore[arg-type]
    return data.getvalue() + body


def test_a_zip_bomb_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            with archive.open(f"{number}.npy", "w", force_zip64=True) as file:
                file.write(npy((2**26,)))
                for _ in range(64):
                    file.write(bytes(2**22))
    before, begin = peak_memory(), time.monotonic()
    with pytest.raises(FileError, match="inflate beyond reason"):
        read_everything(path)
    assert peak_memory() - before < MOST_MEMORY
    assert time.monotonic() - begin < 60  # it would take far longer to inflate than to refuse


def test_a_zip_whose_members_are_the_same_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "quine.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.npy", npy((4096,), body=bytes(4 * 4096)))
        for number in range(1, 3):
            again = copy.copy(archive.filelist[0])
            again.filename = f"{number}.npy"
            archive.filelist.append(again)
    with pytest.raises(FileError, match="its members overlap"):
        read_everything(path)


def orbax_folder(path: Path, key: str, shape: list[int]) -> None:
    """A checkpoint of one array without values, by hand."""
    entry = {"key_metadata": [{"key": key}], "value_metadata": {"value_type": "jax.Array"}}
    tree = {"tree_metadata": {"a": entry}, "use_ocdbt": False}
    zarr = {"zarr_format": 2, "shape": shape, "chunks": [1024] * len(shape), "dtype": "<f4"}
    zarr |= {"compressor": None, "fill_value": None, "order": "C", "filters": None}
    (path / key).mkdir(parents=True)
    (path / key / ".zarray").write_text(json.dumps(zarr))
    (path / "_METADATA").write_text(json.dumps(tree))


def test_orbax_that_declares_absurd_sizes_or_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    orbax_folder(tmp_path / "sound", "a", [4, 4])
    assert containers.read(tmp_path / "sound").tensors["a"].shape == (4, 4)
    orbax_folder(tmp_path / "absurd", "a", [2**30, 2**20])
    with pytest.raises(FileError, match="declares absurd sizes"):
        read_everything(tmp_path / "absurd")
    for key in ("..", "../sound/a", "/etc"):
        (tmp_path / "absurd" / "_METADATA").write_text(
            (tmp_path / "sound" / "_METADATA").read_text().replace('"key": "a"', f'"key": "{key}"')
        )
        with pytest.raises(FileError, match="odd keys"):
            read_everything(tmp_path / "absurd")


def test_shapes_without_values_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", npy((2**40, 2**20)))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", shape=(2**20, 2**20), dtype="f4", chunks=(1024, 1024))
    for name in ("a.npz", "a.h5"):
        with pytest.raises(FileError):
            read_everything(tmp_path / name)


def test_links_and_outside_data_in_hdf5_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(400))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = np.ones(3, np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = h5py.ExternalLink("other.h5", "/a")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("a", (100,), "f4", external=[(str(secret), 0, 400)])
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["loop"] = h5py.SoftLink("/loop")
    for name in "abc":
        with pytest.raises(FileError):
            read_everything(tmp_path / f"{name}.h5")


def test_strings_of_an_hdf5_file_are_never_searched_for(tmp_path: Path) -> None:
    """In a damaged heap of them HDF5 2.0 may search for hours."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.ones(3, np.float32)
        file.attrs["mixer_spec"] = "a string of variable length, which lies in a heap"
    path.write_bytes(path.read_bytes().replace(b"GCOL", b"LOCG"))
    with h5py.File(path, "r") as file, pytest.raises(OSError, match="heap"):
        file.attrs["mixer_spec"]
    assert list(containers.read(path).tensors) == ["a"]


def test_names_that_stand_twice_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", npy((1,), body=bytes(4)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", npy((1,), body=bytes(4)))
    text = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2
    text = text[:-1] + b"}"
    text = text.replace(b"]},{", b"]},")
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    (tmp_path / "a.msgpack").write_bytes(b"\x82\xa1a\x01\xa1a\x02")
    for name in ("a.npz", "a.safetensors", "a.msgpack"):
        with pytest.raises(FileError, match="twice"):
            read_everything(tmp_path / name)


def test_msgpack_that_declares_more_than_it_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.msgpack"
    deep = b"\x81\xa1a" * 10_000
    for data in (
        b"\xdf\xff\xff\xff\xff",
        b"\xde\xff\xff\xa1a",
        deep,
        b"\x81\xa1a\xdd\xff\xff\xff\xff",
    ):
        path.write_bytes(data)
        with pytest.raises(FileError):
            read_everything(path)
    path.write_bytes(flax.serialization.msgpack_serialize({"a": np.ones(3)})[:-1])
    with pytest.raises(FileError, match="msgpack"):
        read_everything(path)


def test_a_damaged_orbax_folder_is_an_error_of_ours(tmp_path: Path) -> None:
    weights = {n: np.ones(p.shape, np.float32) for n, p in SPEC.parameters().items()}
    canonical.save(tmp_path / "a.safetensors", SPEC, weights)
    convert(tmp_path / "a.safetensors", tmp_path / "sound", to="google")
    generator, refused = np.random.default_rng(0), 0
    files = sorted(p for p in (tmp_path / "sound").rglob("*") if p.is_file())
    cases = max(40, CASES // 50)
    for _ in range(cases):
        victim = files[int(generator.integers(len(files)))]
        sound = victim.read_bytes()
        victim.write_bytes(mutated(sound, generator) if sound else b"x")
        try:
            read_everything(tmp_path / "sound")
        except MixerSpecError:
            refused += 1
        finally:
            victim.write_bytes(sound)
    assert refused > cases // 8
    read_everything(tmp_path / "sound")


def test_a_target_stays_as_it_was_when_the_source_is_damaged(
    originals: dict[str, bytes], tmp_path: Path
) -> None:
    target = tmp_path / "target.npz"
    generator = np.random.default_rng(9)
    for kind in KINDS:
        source = tmp_path / f"source.{kind}"
        source.write_bytes(originals[kind][: len(originals[kind]) * 2 // 3])
        target.write_bytes(before := generator.bytes(100))
        with pytest.raises(MixerSpecError):
            convert(source, target, overwrite=True, gelu="tanh")
        assert target.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"target.npz", *(f"source.{k}" for k in KINDS)}
