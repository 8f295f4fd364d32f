"""Google's Mixer: what Flax, NumPy and Orbax write, and what Flax makes of what we write."""

from __future__ import annotations

from pathlib import Path

import flax.serialization
import flax.traverse_util
import ml_dtypes
import numpy as np
import orbax.checkpoint
import pytest

from mixer_converters import convert, load
from tests.foreign_models import FlaxMixer, assert_same_function, flat, flax_mixer, images


@pytest.mark.parametrize("prefix", ["", "params/", "params/params/", "opt/target/"])
@pytest.mark.written_by_others("google", "mixer")
def test_google_s_npz_and_its_wrappers(prefix: str, tmp_path: Path) -> None:
    params, logits = flax_mixer()
    others = {"opt/state/step": np.int32(3)} if prefix == "opt/target/" else {}
    np.savez(tmp_path / "mixer.npz", **flat(params, prefix), **others)
    found = load(tmp_path / "mixer.npz")
    assert (found.layout, found.container, found.match.prefix) == ("google", "npz", prefix)
    assert "tanh" in found.notes[0]
    assert found.match.ignored == tuple(others)
    assert_same_function(found, logits)


def test_a_compressed_npz_is_read_too(tmp_path: Path) -> None:
    params, logits = flax_mixer()
    np.savez_compressed(tmp_path / "mixer.npz", **flat(params))
    assert_same_function(load(tmp_path / "mixer.npz"), logits)


def test_what_we_write_for_google_is_what_flax_would_restore(tmp_path: Path) -> None:
    params, logits = flax_mixer()
    np.savez(tmp_path / "mixer.npz", **flat(params))
    convert(tmp_path / "mixer.npz", tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "again.npz")
    convert(tmp_path / "a.safetensors", tmp_path / "again.msgpack", to="google")
    convert(tmp_path / "a.safetensors", tmp_path / "folder", to="google")
    with np.load(tmp_path / "again.npz", allow_pickle=False) as archive:
        trees = [flax.traverse_util.unflatten_dict(dict(archive), sep="/")]
    trees.append(flax.serialization.msgpack_restore((tmp_path / "again.msgpack").read_bytes()))
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        trees.append(checkpointer.restore(tmp_path / "folder"))
    for tree in trees:
        np.testing.assert_array_equal(FlaxMixer().apply({"params": tree}, images()), logits)


def test_flax_msgpack(tmp_path: Path) -> None:
    params, logits = flax_mixer()
    data = flax.serialization.msgpack_serialize({"params": params, "step": 7})
    (tmp_path / "mixer.msgpack").write_bytes(data)
    found = load(tmp_path / "mixer.msgpack")
    assert (found.layout, found.match.prefix) == ("google", "params/")
    assert_same_function(found, logits)


def test_an_orbax_folder(tmp_path: Path) -> None:
    params, logits = flax_mixer()
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "folder", {"params": params})
    found = load(tmp_path / "folder")
    assert (found.layout, found.container) == ("google", "orbax")
    assert_same_function(found, logits)


def test_bfloat16_as_void16(tmp_path: Path) -> None:
    params, _ = flax_mixer()
    half = {n: a.astype(ml_dtypes.bfloat16) for n, a in flat(params, "params/").items()}
    np.savez(tmp_path / "mixer.npz", **{n: a.view("V2") for n, a in half.items()})
    found = load(tmp_path / "mixer.npz")
    stem = found.weights["stem.kernel"]
    assert stem.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(stem.view(np.uint16), half["params/stem/kernel"].view(np.uint16))


@pytest.mark.written_by_others("google_old", "mixer")
def test_the_older_google_form_with_axes_of_length_one(tmp_path: Path) -> None:
    params, logits = flax_mixer()
    old = {
        "embedding/kernel": params["stem"]["kernel"],
        "embedding/bias": params["stem"]["bias"],
        "Mixer/encoder_norm/scale": params["pre_head_layer_norm"]["scale"],
        "Mixer/encoder_norm/bias": params["pre_head_layer_norm"]["bias"],
        "head/kernel": params["head"]["kernel"],
        "head/bias": params["head"]["bias"],
    }
    for i in range(2):
        block = params[f"MixerBlock_{i}"]
        for mixing in ("token_mixing", "channel_mixing"):
            for number in (0, 1):
                dense = block[mixing][f"Dense_{number}"]
                place = f"Mixer/encoderblock_{i}/{mixing}_phase_0/"
                old[f"{place}kernel{number + 1}"] = dense["kernel"][None]
                old[f"{place}bias{number + 1}"] = dense["bias"][None, :, None]
        for number in (0, 1):
            for leaf in ("scale", "bias"):
                name = f"Mixer/encoderblock_{i}/LayerNorm_{number}/{leaf}"
                old[name] = block[f"LayerNorm_{number}"][leaf]
    np.savez(tmp_path / "old.npz", **old)
    found = load(tmp_path / "old.npz")
    assert found.layout == "google_old"
    assert_same_function(found, logits)
