"""The canonical file: what is written comes back bit for bit, mapped; anything else is refused."""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mixer_converters.canonical import load, save
from mixer_converters.metadata import FORMAT_VERSION
from mixer_spec import FileError, SpecError, WeightsError, families
from mixer_spec.preprocess import PIPELINES
from mixer_spec.shapes import TokenIds
from mixer_spec.weights import Weights, digest, initial

SPEC = families.mixer(
    image_size=(8, 12), patch=4, channels=6, depth=1, token_hidden=5, channel_hidden=7, classes=3
)

UNSIGNED: dict[str, type[np.unsignedinteger[Any]]] = {
    "float64": np.uint64,
    "float32": np.uint32,
    "float16": np.uint16,
    "bfloat16": np.uint16,
}
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in UNSIGNED}

# Orders of the same values in memory, all of them but the first not contiguous.
ORDERS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "row by row": lambda array: array,
    "column by column": np.asfortranarray,
    "backwards": lambda array: np.ascontiguousarray(array[::-1])[::-1],
    "every second": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
}


def normal_weights(seed: int = 0) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(seed)
    return {
        name: generator.standard_normal(parameter.shape).astype(np.float32)
        for name, parameter in SPEC.parameters().items()
    }


def bits(array: NDArray[Any]) -> bytes:
    """The values' bytes, little-endian and row by row."""
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny.safetensors"


# --- what was saved comes back --------------------------------------------------------------


def test_everything_that_was_saved_is_loaded(path: Path) -> None:
    weights = normal_weights()
    given = {
        "variant": "mixer_s32",
        "preprocessing": PIPELINES["big_vision"],
        "labels": ("cat", "dog", "Löwe \N{LION FACE}"),
        "provenance": {"trained on": "nothing", "by": "a test"},
    }
    written = save(path, SPEC, weights, **given)  # type: ignore[arg-type]
    file = load(path)
    assert file.spec == SPEC
    assert {name: getattr(file, name) for name in given} == given
    assert file.weights_digest == written == digest(weights)
    assert file.path == path
    assert list(path.parent.iterdir()) == [path]


def test_what_was_not_saved_is_absent(path: Path) -> None:
    save(path, SPEC, normal_weights())
    file = load(path)
    assert (file.variant, file.preprocessing, file.labels) == (None, None, None)
    assert file.provenance == {}


def test_the_same_weights_are_the_same_bytes_which_are_those_of_the_formats_own_library(
    tmp_path: Path,
) -> None:
    weights = normal_weights()
    weights["head.bias"] = weights["head.bias"].astype(np.float64)
    weights["stem.bias"] = weights["stem.bias"].astype(DTYPES["bfloat16"])
    save(tmp_path / "one.safetensors", SPEC, weights)
    save(tmp_path / "other.safetensors", SPEC, dict(reversed(weights.items())))
    content = (tmp_path / "one.safetensors").read_bytes()
    assert content == (tmp_path / "other.safetensors").read_bytes()
    tensors = content[8 + int.from_bytes(content[:8], "little") :]
    theirs = safetensors.numpy.save(weights)
    assert tensors == theirs[8 + int.from_bytes(theirs[:8], "little") :]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtypes=st.lists(st.sampled_from(sorted(DTYPES)), min_size=1, max_size=6),
    orders=st.lists(st.sampled_from(sorted(ORDERS)), min_size=1, max_size=5),
    special=st.sampled_from(["any", "zeros", "infinities", "signalling", "subnormal"]),
)
def test_every_bit_of_every_dtype_and_memory_order_survives(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    dtypes: list[str],
    orders: list[str],
    special: str,
) -> None:
    generator = np.random.default_rng(seed)
    weights = {}
    for index, (name, parameter) in enumerate(SPEC.parameters().items()):
        dtype = dtypes[index % len(dtypes)]
        order = orders[index % len(orders)]
        if dtype == "bfloat16" and order == "big-endian":
            order = "row by row"  # NumPy has no swapped bfloat16
        pattern = special_bits(generator, dtype, special, parameter.shape)
        weights[name] = ORDERS[order](pattern.view(DTYPES[dtype]))
    path = tmp_path_factory.mktemp("bits") / "any.safetensors"
    save(path, SPEC, weights)
    file = load(path)
    for name, array in weights.items():
        assert file.weights[name].dtype.name == array.dtype.name
        assert bits(file.weights[name]) == bits(array), name
    file.check_digest()


def special_bits(
    generator: np.random.Generator, dtype: str, special: str, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Random bits, or bits of one special sort with either sign."""
    unsigned = UNSIGNED[dtype]
    width = 8 * np.dtype(unsigned).itemsize
    mantissa = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}[dtype]
    found = generator.integers(0, 2**width, shape, np.uint64, endpoint=False)
    sign = found & np.uint64(1 << (width - 1))
    fraction = found & np.uint64((1 << mantissa) - 1)
    exponent = np.uint64(((1 << (width - 1)) - 1) >> mantissa << mantissa)
    chosen = {
        "any": found,
        "zeros": sign,
        "infinities": sign | exponent,
        "signalling": sign | exponent | np.uint64(1) | (fraction >> np.uint64(1)),
        "subnormal": sign | fraction,
    }[special]
    return chosen.astype(unsigned)


def test_the_comparison_of_bits_sees_a_kernel_that_was_written_transposed(path: Path) -> None:
    """The negative control of the test above: its comparison sees what safetensors 0.8.0 does."""
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3).T
    safetensors.numpy.save_file({"kernel": kernel}, path)
    raw = safetensors.numpy.load_file(path)["kernel"]
    fixed = safetensors.__version__ != "0.8.0"
    assert (bits(raw) == bits(kernel)) == fixed


def test_the_library_of_the_format_reads_the_same_bits(path: Path) -> None:
    weights = {
        name: special_bits(np.random.default_rng(0), "float32", "any", parameter.shape)
        for name, parameter in SPEC.parameters().items()
    }
    save(path, SPEC, {name: array.view(np.float32) for name, array in weights.items()})
    found = safetensors.numpy.load_file(path)
    assert {name: bits(array) for name, array in found.items()} == {
        name: array.tobytes() for name, array in weights.items()
    }


def test_others_may_read_the_file_as_the_user_s_umask_says(path: Path) -> None:
    save(path, SPEC, normal_weights())
    path.with_suffix(".txt").touch()
    assert path.stat().st_mode == path.with_suffix(".txt").stat().st_mode


# --- mapped, not read -----------------------------------------------------------------------


def test_weights_are_views_of_the_mapped_file(path: Path) -> None:
    save(path, SPEC, normal_weights())
    for array in load(path).weights.values():
        assert isinstance(array.base, mmap.mmap)
        assert array.flags.aligned
        assert array.flags.writeable
        assert array.flags.c_contiguous


def test_writing_to_a_loaded_weight_changes_neither_the_file_nor_another_load(path: Path) -> None:
    save(path, SPEC, normal_weights())
    before = path.read_bytes()
    first, second = load(path), load(path)
    first.weights["stem.kernel"][:] = 7
    assert path.read_bytes() == before
    assert bits(second.weights["stem.kernel"]) == bits(normal_weights()["stem.kernel"])
    with pytest.raises(FileError, match="are not those it was written with"):
        first.check_digest()


def test_torch_takes_a_loaded_weight_without_a_copy_or_a_warning(path: Path) -> None:
    save(path, SPEC, normal_weights())
    kernel = load(path).weights["stem.kernel"]
    assert torch.from_numpy(kernel).data_ptr() == kernel.ctypes.data


def test_loaded_weights_outlive_the_name_of_their_file(path: Path) -> None:
    save(path, SPEC, normal_weights())
    file = load(path)
    save(path, SPEC, normal_weights(seed=1))
    path.unlink()
    file.check_digest()
    assert bits(file.weights["head.bias"]) == bits(normal_weights()["head.bias"])


def test_a_file_whose_tensors_are_not_aligned_is_copied(path: Path) -> None:
    save(path, SPEC, normal_weights())
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    # One space more behind the header: a file that another writer may make.
    path.write_bytes(
        struct.pack("<Q", length + 1) + content[8 : 8 + length] + b" " + content[8 + length :]
    )
    file = load(path)
    assert all(array.flags.aligned for array in file.weights.values())
    file.check_digest()


# --- refused --------------------------------------------------------------------------------


def header_of(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header


def rewrite(path: Path, weights: Weights, **changes: str | None) -> None:
    """Write the file again with other metadata; ``None`` takes a key away."""
    metadata = header_of(path)["__metadata__"]
    for key, value in changes.items():
        del metadata[f"mixer_spec.{key}"]
        if value is not None:
            metadata[f"mixer_spec.{key}"] = value
    safetensors.numpy.save_file(dict(weights), path, metadata)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(path: Path, kept: float) -> None:
    save(path, SPEC, normal_weights())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    message = "is not a whole safetensors file" if kept else "is empty"
    with pytest.raises(FileError, match=message):
        load(path)


def test_a_file_with_bytes_behind_its_end_is_refused(path: Path) -> None:
    save(path, SPEC, normal_weights())
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(FileError, match="is not a whole safetensors file"):
        load(path)


def test_a_file_of_another_format_is_refused(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 this is a zip file, or says so")
    with pytest.raises(FileError, match=r"tiny\.safetensors: is not a whole safetensors file"):
        load(path)


def test_a_missing_file_and_a_folder_are_refused(path: Path) -> None:
    with pytest.raises(FileError, match="there is no such file"):
        load(path)
    with pytest.raises(FileError, match="could not be read"):
        load(path.parent)


def test_a_safetensors_file_of_others_is_refused_with_advice(path: Path) -> None:
    safetensors.numpy.save_file(
        {"fc.weight": np.zeros((2, 2), np.float32), "steps": np.zeros(1, np.int64)},
        path,
        {"format": "pt"},
    )
    with pytest.raises(FileError, match=r"no metadata of mixer_spec.*\['format'\].*save\(path"):
        load(path)


def test_metadata_of_others_beside_ours_is_passed_over(path: Path) -> None:
    weights = normal_weights()
    save(path, SPEC, weights)
    metadata = header_of(path)["__metadata__"] | {"format": "pt"}
    safetensors.numpy.save_file(weights, path, metadata)
    load(path).check_digest()


def test_a_newer_format_is_refused(path: Path) -> None:
    save(path, SPEC, normal_weights())
    rewrite(path, normal_weights(), format_version=str(FORMAT_VERSION + 1))
    with pytest.raises(FileError, match="expected version 1, got '2'; upgrade mixer-spec"):
        load(path)


def test_a_spec_of_a_newer_version_is_refused(path: Path) -> None:
    save(path, SPEC, normal_weights())
    text = SPEC.to_json().replace('"spec_version":1', '"spec_version":2')
    rewrite(path, normal_weights(), spec=text)
    with pytest.raises(SpecError, match="newer than this mixer_spec"):
        load(path)


def test_a_spec_that_was_edited_is_refused(path: Path) -> None:
    save(path, SPEC, normal_weights())
    rewrite(path, normal_weights(), spec=SPEC.to_json().replace('"tanh"', '"none"'))
    with pytest.raises(FileError, match="its spec is not the one it was written with"):
        load(path)


def test_all_missing_metadata_is_named_at_once(path: Path) -> None:
    save(path, SPEC, normal_weights())
    rewrite(path, normal_weights(), spec=None, weights_digest=None)
    with pytest.raises(FileError, match=r"mixer_spec\.spec' is missing(.|\n)*weights_digest"):
        load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": '["cat"'}, r"'mixer_spec\.labels' must be JSON"),
        ({"labels": '["cat", "dog"]'}, "expected 3 labels, got 2"),
        ({"labels": '["cat", "dog", 3]'}, "labels must be a list of strings, got 3"),
        ({"provenance": '{"by": 1}'}, "provenance must be a mapping of strings"),
        ({"provenance": "[" * 100_000}, r"'mixer_spec\.provenance' must be JSON"),
        ({"preprocessing": '{"kind": "magic"}'}, "unknown kind"),
    ],
)
def test_damaged_metadata_is_refused(path: Path, changes: dict[str, str], message: str) -> None:
    save(
        path,
        SPEC,
        normal_weights(),
        labels=["a", "b", "c"],
        preprocessing=PIPELINES["deit_resmlp"],
    )
    rewrite(path, normal_weights(), **changes)
    with pytest.raises((FileError, SpecError), match=message) as caught:
        load(path)
    assert caught.value.where.startswith(str(path))


def test_tensors_that_do_not_fit_the_spec_are_all_named(path: Path) -> None:
    weights = normal_weights()
    save(path, SPEC, weights)
    del weights["norm.scale"]
    weights["norm.shift"] = np.zeros(6, np.float32)
    weights["head.bias"] = np.zeros(4, np.float32)
    rewrite(path, weights)
    with pytest.raises(WeightsError) as caught:
        load(path)
    assert len(caught.value.problems) == 3
    for text in ("- norm.scale [6] (missing)", "+ norm.shift", "- head.bias [3]", str(path)):
        assert text in str(caught.value)


def test_a_tensor_of_whole_numbers_is_refused(path: Path) -> None:
    weights = normal_weights()
    save(path, SPEC, weights)
    rewrite(path, weights | {"head.bias": np.zeros(3, np.int64)})
    with pytest.raises(
        WeightsError, match=r"\+ head\.bias int64 \(wrong dtype; expected a floating one"
    ):
        load(path)


def test_a_byte_that_changed_is_found_by_the_digest(path: Path) -> None:
    save(path, SPEC, normal_weights())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    file = load(path)  # opening reads no weights
    with pytest.raises(FileError, match="its weights are not those it was written with"):
        file.check_digest()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": ["cat"]}, "expected 3 labels, got 1"),
        ({"labels": "cat"}, "labels must be a list of strings, got 'cat'"),
        ({"labels": ["a", "b", 3]}, "got 3 among them"),
        ({"provenance": {"by": 1}}, "provenance must be a mapping of strings to strings"),
        ({"variant": 16}, "variant must be a string"),
        ({"preprocessing": "big_vision"}, "preprocessing must be a Preprocessing"),
    ],
)
def test_wrong_metadata_is_refused_before_anything_is_written(
    path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        save(path, SPEC, normal_weights(), **arguments)
    assert not list(path.parent.iterdir())


def test_a_sequence_has_no_preprocessing_of_photos(path: Path) -> None:
    spec = families.sequence_mixer(
        input=TokenIds(tokens=6, vocabulary=11),
        channels=8,
        depth=1,
        token_hidden=5,
        channel_hidden=7,
        classes=3,
    )
    weights = initial(spec)
    with pytest.raises(SpecError, match=r"is for photos; expected none beside \[token 6\] of 11"):
        save(path, spec, weights, preprocessing=PIPELINES["big_vision"])
    assert not list(path.parent.iterdir())
    save(path, spec, weights, labels=["a", "b", "c"])
    file = load(path)
    assert (file.spec, file.preprocessing, file.labels) == (spec, None, ("a", "b", "c"))
    file.check_digest()


def test_wrong_weights_are_refused_before_anything_is_written(path: Path) -> None:
    weights = normal_weights() | {"head.bias": np.zeros(3, np.int32)}
    with pytest.raises(WeightsError, match="wrong dtype"):
        save(path, SPEC, weights)
    weights = normal_weights() | {"head.bias": np.zeros(3, np.longdouble)}
    with pytest.raises(WeightsError, match=r"head\.bias cannot be stored.*got float128"):
        save(path, SPEC, weights)
    assert not list(path.parent.iterdir())
