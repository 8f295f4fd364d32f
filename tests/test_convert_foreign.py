"""Files of other people's writers, and the original modules: same names, same bits, same logits."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint
import pytest
import safetensors.torch
import torch
from flax import nnx
from g_mlp_pytorch import gMLPVision
from mlp_mixer_pytorch import MLPMixer

from mixer_converters import Checkpoint, convert, load
from mixer_converters.layouts import LAYOUTS
from mixer_spec.errors import FileError, SpecError
from mixer_spec.preprocess import PIPELINES
from mixer_spec.reference import forward
from tests.foreign_models import (
    CLASSES,
    FAMILIES_OF_TIMM,
    PATCH,
    SIZE,
    FlaxMixer,
    FlaxViT,
    NnxMixer,
    flat,
    images,
    imported_timm,
    keras_file,
    randomise,
    shaken,
    tiny,
)


def assert_same_function(found: Checkpoint, logits: np.ndarray, tolerance: float = 2e-6) -> None:
    """The reference, on the converted weights, gives what the original module gave."""
    ours = forward(found.spec, found.weights, images())["logits"]
    error = np.linalg.norm(ours - logits) / np.linalg.norm(ours)
    assert error < tolerance, error


# --- Flax -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flax_mixer() -> tuple[Any, np.ndarray]:
    """The parameters of a Flax linen Mixer, and its logits."""
    model = FlaxMixer()
    params = shaken(model.init(jax.random.key(0), images())["params"])
    return params, np.asarray(model.apply({"params": params}, images()))


@pytest.mark.parametrize("prefix", ["", "params/", "params/params/", "opt/target/"])
def test_google_s_npz_and_its_wrappers(
    prefix: str, flax_mixer: tuple[Any, np.ndarray], tmp_path: Path
) -> None:
    params, logits = flax_mixer
    others = {"opt/state/step": np.int32(3)} if prefix == "opt/target/" else {}
    np.savez(tmp_path / "mixer.npz", **flat(params, prefix), **others)
    found = load(tmp_path / "mixer.npz")
    assert (found.layout, found.container, found.match.prefix) == ("google", "npz", prefix)
    assert "tanh" in found.notes[0]
    assert found.match.ignored == tuple(others)
    assert_same_function(found, logits)


def test_a_compressed_npz_is_read_too(flax_mixer: tuple[Any, np.ndarray], tmp_path: Path) -> None:
    params, logits = flax_mixer
    np.savez_compressed(tmp_path / "mixer.npz", **flat(params))
    assert_same_function(load(tmp_path / "mixer.npz"), logits)


def test_what_we_write_for_google_is_what_flax_would_restore(
    flax_mixer: tuple[Any, np.ndarray], tmp_path: Path
) -> None:
    params, logits = flax_mixer
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


def test_flax_msgpack(flax_mixer: tuple[Any, np.ndarray], tmp_path: Path) -> None:
    params, logits = flax_mixer
    data = flax.serialization.msgpack_serialize({"params": params, "step": 7})
    (tmp_path / "mixer.msgpack").write_bytes(data)
    found = load(tmp_path / "mixer.msgpack")
    assert (found.layout, found.match.prefix) == ("google", "params/")
    assert_same_function(found, logits)


def test_an_orbax_folder(flax_mixer: tuple[Any, np.ndarray], tmp_path: Path) -> None:
    params, logits = flax_mixer
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "folder", {"params": params})
    found = load(tmp_path / "folder")
    assert (found.layout, found.container) == ("google", "orbax")
    assert_same_function(found, logits)


def test_bfloat16_as_void16(flax_mixer: tuple[Any, np.ndarray], tmp_path: Path) -> None:
    params, _ = flax_mixer
    half = {n: a.astype(ml_dtypes.bfloat16) for n, a in flat(params, "params/").items()}
    np.savez(tmp_path / "mixer.npz", **{n: a.view("V2") for n, a in half.items()})
    found = load(tmp_path / "mixer.npz")
    stem = found.weights["stem.kernel"]
    assert stem.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(stem.view(np.uint16), half["params/stem/kernel"].view(np.uint16))


def test_the_older_google_form_with_axes_of_length_one(
    flax_mixer: tuple[Any, np.ndarray], tmp_path: Path
) -> None:
    params, logits = flax_mixer
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


@pytest.mark.parametrize("gated", [False, True], ids=["mixer", "gmixer"])
@pytest.mark.parametrize("kind", ["orbax", "npz", "msgpack with values"])
def test_an_nnx_state(kind: str, gated: bool, tmp_path: Path) -> None:
    model = NnxMixer(gated, nnx.Rngs(0))
    graph, state = nnx.split(model)
    pure = shaken(nnx.to_pure_dict(state))
    nnx.replace_by_pure_dict(state, pure)
    logits = np.asarray(nnx.merge(graph, state)(images()))
    tree = {str(k): v for k, v in flax.traverse_util.flatten_dict(pure, sep=None).items()}
    named = {"/".join(map(str, k)): v for k, v in flax.traverse_util.flatten_dict(pure).items()}
    assert len(tree) == len(named)
    path = tmp_path / "state"
    if kind == "orbax":
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, pure)
    elif kind == "npz":
        path = tmp_path / "state.npz"
        np.savez(path, **named)
    else:
        path = tmp_path / "state.msgpack"
        leaves = {tuple(k.split("/")): {"value": v} for k, v in named.items()}
        nested = flax.traverse_util.unflatten_dict(leaves)
        path.write_bytes(flax.serialization.msgpack_serialize(nested))
    if not gated:  # which has no GELU
        with pytest.raises(SpecError, match="--gelu tanh or --gelu none"):
            load(path)
    found = load(path, gelu="tanh")
    assert found.layout == "nnx"
    assert_same_function(found, logits)


# --- lucidrains -------------------------------------------------------------------------------


def run_torch(module: torch.nn.Module) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(module(torch.from_numpy(images()).permute(0, 3, 1, 2).contiguous()))


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_lucidrains_mixer(ending: str, tmp_path: Path) -> None:
    module = randomise(
        MLPMixer(image_size=SIZE, channels=3, patch_size=PATCH, dim=8, depth=3, num_classes=CLASSES)
    )
    path = tmp_path / f"mixer{ending}"
    save = torch.save if ending == ".pth" else safetensors.torch.save_file
    save(module.state_dict(), path)
    found = load(path)
    assert found.layout == "lucidrains"
    assert_same_function(found, run_torch(module))
    convert(path, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "again.pth", to="lucidrains")
    again = torch.load(tmp_path / "again.pth", weights_only=True, mmap=True)
    assert list(again) != []
    for name, tensor in module.state_dict().items():
        assert torch.equal(again[name], tensor)


def test_lucidrains_gmlp(tmp_path: Path) -> None:
    sizes = {"image_size": SIZE, "patch_size": PATCH, "dim": 8, "depth": 2, "num_classes": CLASSES}
    module = randomise(gMLPVision(**sizes))
    torch.save({"model": module.state_dict(), "epoch": 3}, tmp_path / "gmlp.pth")
    found = load(tmp_path / "gmlp.pth")
    assert (found.layout, found.match.prefix) == ("lucidrains", "model/")
    assert_same_function(found, run_torch(module))


@pytest.mark.parametrize("option", [{"heads": 2}, {"attn_dim": 4}])
def test_a_gmlp_that_no_spec_says_is_refused(option: dict[str, int], tmp_path: Path) -> None:
    sizes = {"image_size": SIZE, "patch_size": PATCH, "dim": 8, "depth": 2, "num_classes": CLASSES}
    torch.save(gMLPVision(**sizes, **option).state_dict(), tmp_path / "gmlp.pth")
    with pytest.raises(FileError):
        load(tmp_path / "gmlp.pth")


# --- timm -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def timm() -> Iterator[Any]:
    """timm itself."""
    with imported_timm() as module:
        yield module


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", FAMILIES_OF_TIMM)
def test_timm(name: str, ending: str, timm: Any, tmp_path: Path) -> None:
    module = tiny(timm, name)
    path = tmp_path / f"model{ending}"
    save = torch.save if ending == ".pth" else safetensors.torch.save_file
    save(module.state_dict(), path)
    asked = {"gelu": "none"} if name in ("mixer", "vit") else {}
    if asked:
        with pytest.raises(SpecError, match="--gelu"):
            load(path, heads=2)
    found = load(path, heads=2, **asked)  # type: ignore[arg-type]
    assert found.layout == "timm"
    assert_same_function(found, run_torch(module))
    convert(found, tmp_path / "again.pth", to="timm")
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    module.load_state_dict(again)
    assert list(again) != []


def test_the_arguments_that_are_offered_make_timm_agree(
    timm: Any, flax_mixer: tuple[Any, np.ndarray], tmp_path: Path
) -> None:
    params, logits = flax_mixer
    np.savez(tmp_path / "mixer.npz", **flat(params))
    done = convert(tmp_path / "mixer.npz", tmp_path / "m.safetensors", to="timm")
    [note] = done.notes
    assert "relative" in note
    offered = note.partition("To make it agree: ")[2]
    arguments = eval(f"dict({offered})", {"functools": functools, "torch": torch})
    errors = {}
    for words, extra in (("offered", arguments), ("default", {})):
        module = tiny(timm, "mixer", mlp_ratio=(0.75, 1.25), **extra)
        module.load_state_dict(safetensors.torch.load_file(tmp_path / "m.safetensors"))
        found = run_torch(module.eval())
        errors[words] = np.linalg.norm(found - logits) / np.linalg.norm(logits)
    assert errors["offered"] < 2e-6
    assert errors["default"] > 1e-5


def test_a_hugging_face_folder_of_timm(timm: Any, tmp_path: Path) -> None:
    module = randomise(timm.create_model("mixer_s32_224", num_classes=CLASSES))
    config = {
        "architecture": "mixer_s32_224",
        "num_classes": CLASSES,
        "pretrained_cfg": {
            "tag": "mine",
            "input_size": [3, 224, 224],
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "crop_mode": "center",
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
        },
    }
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(module.state_dict(), folder / "model.safetensors")
    with pytest.raises(SpecError, match="--gelu"):
        load(folder)
    found = load(folder, gelu="none")
    assert (found.container, found.variant) == ("huggingface", "mixer_s32")
    assert found.preprocessing is not None
    assert found.preprocessing.geometry == PIPELINES["timm_inception"].geometry
    convert(found, tmp_path / "mine", to="timm")
    written = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert written["architecture"] == "mixer_s32_224"
    assert written["pretrained_cfg"]["mean"] == [0.5] * 3
    tensors = safetensors.torch.load_file(tmp_path / "mine" / "model.safetensors")
    module.load_state_dict(tensors)


def test_a_published_name_answers_the_question_and_tells_the_truth(
    timm: Any, tmp_path: Path
) -> None:
    module = timm.create_model("mixer_b16_224")
    path = tmp_path / "mixer_b16_224.goog_in21k_ft_in1k.safetensors"
    safetensors.torch.save_file(module.state_dict(), path)
    found = load(path)
    assert "tanh" in found.notes[0]
    assert "published as" in found.notes[0]
    assert "from scratch" in found.provenance["trained_on"]
    assert "mislabelled" in found.provenance
    assert found.preprocessing == PIPELINES["timm_inception"]


# --- deit, Google's ViT, Keras ----------------------------------------------------------------


def test_deit_resmlp(timm: Any, tmp_path: Path) -> None:
    module = tiny(timm, "resmlp")
    names = [
        *(("stem.", "patch_embed."), ("linear_tokens.", "attn."), ("mlp_channels.", "mlp.")),
        *((".ls", ".gamma_"),),
    ]
    deit = {}
    for name, tensor in module.state_dict().items():
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        deit[name] = tensor.reshape(-1) if tensor.ndim == 3 else tensor
    torch.save(deit, tmp_path / "resmlp.pth")
    found = load(tmp_path / "resmlp.pth")
    assert found.layout == "deit"
    assert_same_function(found, run_torch(module))


@pytest.mark.parametrize(
    ("numbers", "pool"), [("today", "token"), ("today", "mean"), ("old", "token")]
)
def test_google_s_vit(numbers: str, pool: str, tmp_path: Path) -> None:
    model = FlaxViT(pool)
    params = shaken(model.init(jax.random.key(0), images())["params"])
    logits = np.asarray(model.apply({"params": params}, images()))
    arrays = {}
    for name, array in flat(params).items():
        name = name.replace("Transformer/pos_emb", "Transformer/posembed_input/pos_emb")
        if numbers == "old":
            name = name.replace("LayerNorm_1", "LayerNorm_2").replace("MlpBlock_0", "MlpBlock_3")
            name = name.replace("Attention_0", "Attention_1")
        arrays[name] = array
    np.savez(tmp_path / "vit.npz", **arrays)
    found = load(tmp_path / "vit.npz", heads=2)
    assert found.layout == ("google" if numbers == "today" else "google_old")
    assert_same_function(found, logits, 5e-6)


def test_keras_cv_attention_models(flax_mixer: tuple[Any, np.ndarray], tmp_path: Path) -> None:
    params, logits = flax_mixer
    keras_file(tmp_path / "mixer.h5", flat(params))
    with pytest.raises(SpecError, match="--gelu"):
        load(tmp_path / "mixer.h5")
    found = load(tmp_path / "mixer.h5", gelu="tanh")
    assert found.layout == "kecam"
    assert_same_function(found, logits)
    assert load(tmp_path / "mixer.h5", gelu="none").spec.norm.epsilon == 1e-5  # type: ignore[union-attr]


def test_every_layout_has_a_file_of_an_independent_writer() -> None:
    written: dict[tuple[str, str], Callable[..., None]] = {
        ("google", "mixer"): test_google_s_npz_and_its_wrappers,
        ("google_old", "mixer"): test_the_older_google_form_with_axes_of_length_one,
        **dict.fromkeys([("google", "vit"), ("google", "vit_mean")], test_google_s_vit),
        ("google_old", "vit"): test_google_s_vit,
        **{("timm", family): test_timm for family in FAMILIES_OF_TIMM},
        ("deit", "resmlp"): test_deit_resmlp,
        ("lucidrains", "mixer"): test_lucidrains_mixer,
        ("lucidrains", "gmlp"): test_lucidrains_gmlp,
        **dict.fromkeys([("nnx", "mixer"), ("nnx", "gmixer")], test_an_nnx_state),
        ("kecam", "mixer"): test_keras_cv_attention_models,
    }
    assert set(written) == {(each.name, f) for each in LAYOUTS for f in each.families}
