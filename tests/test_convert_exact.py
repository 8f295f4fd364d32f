"""Every pair of layouts, bit for bit: -0, subnormals, NaN payloads, and every dtype."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from mixer_converters import canonical, convert, diff, load
from mixer_converters.layouts import LAYOUTS, Layout
from mixer_converters.match import holds
from mixer_spec import ModelSpec, families, variant
from mixer_spec.errors import FileError
from mixer_spec.weights import digest

SIZES: dict[str, Any] = {"image_size": 12, "patch": 4, "channels": 8, "depth": 2, "classes": 5}
SPECS: dict[str, ModelSpec] = {
    "mixer": families.mixer(**SIZES, token_hidden=6, channel_hidden=10),
    "mixer_erf": families.mixer(**SIZES, token_hidden=6, channel_hidden=10, gelu="none"),
    "resmlp": families.resmlp(**SIZES),
    "gmlp": families.gmlp(**SIZES),
    "gmixer": families.gmixer(**SIZES, token_hidden=6, channel_hidden=12),
    "vit": families.vit(**SIZES, heads=2, channel_hidden=10),
    "vit_mean": families.vit(**SIZES, heads=2, channel_hidden=10, pool="mean"),
}
ENDINGS = {
    "safetensors": ".safetensors",
    "npz": ".npz",
    "pth": ".pth",
    "msgpack": ".msgpack",
    "h5": ".h5",
    "orbax": "",
}
ODD_BITS = {
    np.dtype(np.float64): (np.uint64, [1 << 63, 1, 0x7FF4000000000123, 0x7FF0000000000000]),
    np.dtype(np.float32): (np.uint32, [1 << 31, 1, 0x7FA00123, 0x7F800000]),
    np.dtype(np.float16): (np.uint16, [1 << 15, 1, 0x7D23, 0x7C00]),
    np.dtype(ml_dtypes.bfloat16): (np.uint16, [1 << 15, 1, 0x7FA1, 0x7F80]),
}
"""-0, the smallest subnormal, a signalling NaN with a payload, and infinity."""


def odd_weights(spec: ModelSpec, dtype: Any = np.float32) -> dict[str, NDArray[Any]]:
    """Random weights with the odd values strewn in."""
    generator = np.random.default_rng(0)
    unsigned, patterns = ODD_BITS[np.dtype(dtype)]
    found = {}
    for name, parameter in spec.parameters().items():
        array = generator.standard_normal(parameter.shape).astype(dtype)
        bits = array.reshape(-1).view(unsigned)
        bits[: len(patterns)] = patterns[: bits.size]
        found[name] = array
    return found


def stops(spec: ModelSpec) -> list[tuple[Layout | None, str]]:
    """Every layout that holds ``spec``, in every kind of file."""
    found: list[tuple[Layout | None, str]] = [(None, "safetensors"), (None, "npz"), (None, "pth")]
    for layout in LAYOUTS:
        if holds(layout, spec):
            found += [(layout, kind) for kind in layout.containers if kind in ENDINGS]
    return found


@pytest.mark.parametrize("name", SPECS)
def test_a_tour_through_every_layout_changes_no_bit(name: str, tmp_path: Path) -> None:
    spec = SPECS[name]
    weights = odd_weights(spec)
    source = tmp_path / "begin.safetensors"
    expected = canonical.save(source, spec, weights)
    visited = []
    for number, (layout, kind) in enumerate(stops(spec)):
        if kind == "msgpack":
            continue  # which has no place for the spec; tested by itself
        target = tmp_path / f"{number}{ENDINGS[kind]}"
        convert(source, target, to="canonical" if layout is None else layout.name)
        found = load(target)
        assert found.spec == spec
        assert found.container == kind
        assert found.weights_digest == digest(found.weights) == expected
        visited.append(found.layout)
        source = target
    assert len(visited) >= 4


@pytest.mark.parametrize("name", [n for n in SPECS if n != "mixer_erf"])
def test_every_pair_of_layouts_round_trips(name: str, tmp_path: Path) -> None:
    spec, files = SPECS[name], {}
    canonical.save(tmp_path / "begin.safetensors", spec, odd_weights(spec))
    layouts = [layout.name for layout in LAYOUTS if holds(layout, spec)]
    layouts = ["canonical", *dict.fromkeys(layouts)]
    endings = {n: ".h5" if n.startswith("kecam") else ".safetensors" for n in layouts}
    for layout in layouts:
        files[layout] = tmp_path / f"from_{layout}{endings[layout]}"
        convert(tmp_path / "begin.safetensors", files[layout], to=layout)
    for one, other in itertools.permutations(layouts, 2):
        target = tmp_path / f"{one}_to_{other}{endings[other]}"
        convert(files[one], target, to=other)
        assert diff(target, tmp_path / "begin.safetensors") == (len(spec.parameters()), ())
        if endings[other] != ".h5":  # an HDF5 file also holds when it was written
            assert target.read_bytes() == files[other].read_bytes()


@pytest.mark.parametrize("kind", [kind for kind in ENDINGS if kind != "msgpack"])
def test_metadata_of_any_length_is_kept(kind: str, tmp_path: Path) -> None:
    spec = SPECS["mixer"]
    provenance = {"words": "a comment of a zip ends at 65,535 bytes; " * 5_000}
    canonical.save(tmp_path / "a.safetensors", spec, odd_weights(spec), provenance=provenance)
    target = tmp_path / f"b{ENDINGS[kind]}"
    convert(tmp_path / "a.safetensors", target, to={"h5": "kecam", "pth": "timm"}.get(kind, "nnx"))
    assert load(target).provenance == provenance


def test_metadata_that_has_no_place_in_a_zip_is_refused(tmp_path: Path) -> None:
    spec = SPECS["mixer"]
    provenance = {"words": " " * 3_000_000}
    canonical.save(tmp_path / "a.safetensors", spec, odd_weights(spec), provenance=provenance)
    with pytest.raises(FileError, match=r"b\.npz: has no place for so much metadata.*shorten"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.npz")
    assert not (tmp_path / "b.npz").exists()


@pytest.mark.parametrize("dtype", ODD_BITS, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("kind", ENDINGS)
def test_every_dtype_is_kept_in_every_kind_of_file(kind: str, dtype: Any, tmp_path: Path) -> None:
    spec = SPECS["mixer"]
    weights = odd_weights(spec, dtype)
    canonical.save(tmp_path / "a.safetensors", spec, weights)
    target = tmp_path / f"b{ENDINGS[kind]}"
    to = {"h5": "kecam", "pth": "timm"}.get(kind, "google")
    convert(tmp_path / "a.safetensors", target, to=to)
    found = load(target)
    for name, array in weights.items():
        assert found.weights[name].dtype == dtype
        assert found.weights[name].tobytes() == array.tobytes()


def test_weights_are_rounded_only_when_asked(tmp_path: Path) -> None:
    spec = SPECS["mixer"]
    weights = {
        name: np.random.default_rng(1).standard_normal(p.shape).astype(np.float32)
        for name, p in spec.parameters().items()
    }
    canonical.save(tmp_path / "a.safetensors", spec, weights)
    done = convert(tmp_path / "a.safetensors", tmp_path / "b.npz", dtype="bfloat16")
    found = load(tmp_path / "b.npz")
    assert any("bfloat16" in note for note in done.notes)
    for name, array in weights.items():
        rounded = array.astype(ml_dtypes.bfloat16)
        assert found.weights[name].tobytes() == rounded.tobytes()
    count, differences = diff(tmp_path / "a.safetensors", tmp_path / "b.npz")
    assert count == len(differences) == len(weights)
    assert all("float32 and bfloat16" in d.what for d in differences)


def test_one_flipped_bit_is_found_and_located(tmp_path: Path) -> None:
    spec = SPECS["mixer"]
    weights = odd_weights(spec)
    canonical.save(tmp_path / "a.safetensors", spec, weights)
    name = "blocks.1.channel_mixing.dense_0.kernel"
    weights[name] = weights[name].copy()
    weights[name][3, 4] = np.nextafter(weights[name][3, 4], np.float32(9))
    canonical.save(tmp_path / "b.safetensors", spec, weights)
    convert(tmp_path / "b.safetensors", tmp_path / "b.npz")
    _, differences = diff(tmp_path / "a.safetensors", tmp_path / "b.npz")
    assert [d.name for d in differences] == [name]
    assert differences[0].largest is not None
    assert 0 < differences[0].largest < 1e-6


def test_a_source_that_is_not_what_it_says_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    canonical.save(source, SPECS["mixer"], odd_weights(SPECS["mixer"]))
    data = bytearray(source.read_bytes())
    data[-3] ^= 1
    source.write_bytes(data)
    with pytest.raises(FileError, match="not those it was written with"):
        convert(source, tmp_path / "b.npz")
    assert not (tmp_path / "b.npz").exists()


def test_a_target_that_is_there_is_left_alone_unless_overwritten(tmp_path: Path) -> None:
    canonical.save(tmp_path / "a.safetensors", SPECS["mixer"], odd_weights(SPECS["mixer"]))
    target = tmp_path / "b.npz"
    target.write_text("precious")
    with pytest.raises(FileError, match="is there already"):
        convert(tmp_path / "a.safetensors", target)
    assert target.read_text() == "precious"
    convert(tmp_path / "a.safetensors", target, overwrite=True)
    assert load(target).layout == "google"


def test_a_layout_that_cannot_hold_the_architecture_is_refused(tmp_path: Path) -> None:
    canonical.save(tmp_path / "a.safetensors", SPECS["gmixer"], odd_weights(SPECS["gmixer"]))
    with pytest.raises(FileError, match=r"cannot hold this architecture.*timm"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.npz", to="google")
    with pytest.raises(FileError, match="say it with --to"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.pth")
    with pytest.raises(FileError, match="not kept in such a file"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.h5", to="timm")


def test_onnx_gives_its_weights_back(tmp_path: Path) -> None:
    spec = SPECS["mixer"]
    expected = canonical.save(tmp_path / "a.safetensors", spec, odd_weights(spec))
    convert(tmp_path / "a.safetensors", tmp_path / "b.onnx")
    convert(tmp_path / "b.onnx", tmp_path / "c.npz")
    assert load(tmp_path / "c.npz").weights_digest == expected
    assert load(tmp_path / "b.onnx").spec == spec


@pytest.mark.slow
def test_a_full_size_model_goes_through_every_layout(tmp_path: Path) -> None:
    spec = variant("mixer_b16").spec()
    weights = odd_weights(spec)
    source = tmp_path / "begin.safetensors"
    expected = canonical.save(source, spec, weights, variant="mixer_b16")
    tour = {  # each layout once, and every kind of file
        "google": "a.npz",
        "google_old": "b.safetensors",
        "timm": "huggingface",
        "lucidrains": "c.pth",
        "nnx": "orbax",
        "kecam": "d.h5",
        "kecam_torch": "e.h5",
        "onnx": "f.onnx",
        "canonical": "end.safetensors",
    }
    held = {layout.name for layout in LAYOUTS if holds(layout, spec)}
    assert set(tour) == {*held, "onnx", "canonical"}
    for layout, name in tour.items():
        target = tmp_path / name
        convert(source, target, to=layout)
        shutil.rmtree(source) if source.is_dir() else source.unlink()
        source = target
    found = canonical.load(source)
    assert (found.spec, found.variant, digest(found.weights)) == (spec, "mixer_b16", expected)
    for name, array in weights.items():
        assert np.array_equal(found.weights[name].view(np.uint32), array.view(np.uint32)), name
