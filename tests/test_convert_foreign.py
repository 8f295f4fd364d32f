"""Files of other people's writers, and the original modules: same names, same bits, same logits."""

from __future__ import annotations

import functools
import importlib
import json
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import flax.serialization
import flax.traverse_util
import h5py
import jax
import jax.numpy as jnp
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

SIZE, PATCH, CLASSES = 16, 4, 5


def images(count: int = 2) -> np.ndarray:
    """Noise ``[batch, height, width, rgb]``."""
    return np.random.default_rng(3).uniform(-1, 1, (count, SIZE, SIZE, 3)).astype(np.float32)


def assert_same_function(found: Checkpoint, logits: np.ndarray, tolerance: float = 2e-6) -> None:
    """The reference, on the converted weights, gives what the original module gave."""
    ours = forward(found.spec, found.weights, images())["logits"]
    error = np.linalg.norm(ours - logits) / np.linalg.norm(ours)
    assert error < tolerance, error


# --- Flax -----------------------------------------------------------------------------------


class Mlp(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        width = x.shape[-1]
        hidden = nn.Dense(self.hidden)(x)  # first, since Flax numbers modules as they are made
        return nn.Dense(width)(nn.gelu(hidden))


class MixerBlock(nn.Module):
    tokens_hidden: int
    channels_hidden: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
        x = x + jnp.swapaxes(Mlp(self.tokens_hidden, name="token_mixing")(y), 1, 2)
        return x + Mlp(self.channels_hidden, name="channel_mixing")(nn.LayerNorm()(x))


class FlaxMixer(nn.Module):
    """Modules and names as the official code has them."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(8, (PATCH, PATCH), strides=(PATCH, PATCH), name="stem")(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        for _ in range(2):
            x = MixerBlock(6, 10)(x)
        x = nn.LayerNorm(name="pre_head_layer_norm")(x).mean(axis=1)
        return nn.Dense(CLASSES, name="head")(x)


def shaken(tree: Any) -> Any:
    """Random values in place of zeros and ones, so that no mistake hides behind them."""
    generator = np.random.default_rng(5)
    return jax.tree.map(
        lambda a: (np.asarray(a) + 0.3 * generator.standard_normal(a.shape)).astype(np.float32),
        tree,
    )


@pytest.fixture(scope="module")
def flax_mixer() -> tuple[Any, np.ndarray]:
    """The parameters of a Flax linen Mixer, and its logits."""
    model = FlaxMixer()
    params = shaken(model.init(jax.random.key(0), images())["params"])
    return params, np.asarray(model.apply({"params": params}, images()))


def flat(params: Any, prefix: str = "") -> dict[str, np.ndarray]:
    tree = flax.traverse_util.flatten_dict(params, sep="/")
    return {prefix + name: np.asarray(array) for name, array in tree.items()}


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


class NnxMlp(nnx.Module):
    def __init__(self, width: int, hidden: int, gated: bool, rngs: nnx.Rngs) -> None:
        self.gated = gated
        self.fc1 = nnx.Linear(width, hidden, rngs=rngs)
        self.fc2 = nnx.Linear(hidden // 2 if gated else hidden, width, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        if not self.gated:
            return self.fc2(nnx.gelu(self.fc1(x)))
        value, gate = jnp.split(self.fc1(x), 2, axis=-1)  # timm's GluMlp
        return self.fc2(value * nnx.silu(gate))


class NnxBlock(nnx.Module):
    def __init__(self, gated: bool, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(8, rngs=rngs)
        self.mlp_tokens = NnxMlp(16, 6, gated, rngs)
        self.norm2 = nnx.LayerNorm(8, rngs=rngs)
        self.mlp_channels = NnxMlp(8, 10, gated, rngs)

    def __call__(self, x: Any) -> Any:
        x = x + jnp.swapaxes(self.mlp_tokens(jnp.swapaxes(self.norm1(x), 1, 2)), 1, 2)
        return x + self.mlp_channels(self.norm2(x))


class NnxMixer(nnx.Module):
    def __init__(self, gated: bool, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 8, (PATCH, PATCH), strides=(PATCH, PATCH), rngs=rngs)
        self.blocks = nnx.List([NnxBlock(gated, rngs), NnxBlock(gated, rngs)])
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.stem(x)
        x = x.reshape(x.shape[0], -1, 8)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(axis=1))


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


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


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


class _Anything(type):
    """A class with every attribute, such as the members of an enumeration."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Placeholder(types.ModuleType):
    """torchvision has no build for this torch; timm imports names of it that no model here uses."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (torch.nn.Module,), {})


@pytest.fixture(scope="module")
def timm() -> Iterator[Any]:
    """timm itself."""
    names = [
        *("", ".ops", ".ops.misc", ".models", ".models.feature_extraction", ".datasets"),
        *(".transforms", ".transforms.functional", ".utils"),
    ]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            module = _Placeholder(f"torchvision{name}")
            patch.setitem(sys.modules, module.__name__, module)
            parent, _, child = module.__name__.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
        yield importlib.import_module("timm")


TINY = ("mixer", "gmixer", "resmlp", "gmlp", "vit")


def tiny(timm: Any, family: str, **more: Any) -> torch.nn.Module:
    """timm's own module of a family, as its entry points make it, at a tiny size."""
    mixers, vits = timm.models.mlp_mixer, timm.models.vision_transformer
    sizes = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": 8, "num_classes": CLASSES, **more}
    if family == "vit":
        return randomise(vits.VisionTransformer(depth=2, num_heads=2, **sizes))
    options: dict[str, Any] = {
        "mixer": {},
        "gmixer": {"mlp_ratio": (1.0, 4.0), "mlp_layer": mixers.GluMlp, "act_layer": torch.nn.SiLU},
        "resmlp": {"mlp_ratio": 4, "block_layer": mixers.ResBlock, "norm_layer": mixers.Affine},
        "gmlp": {
            "mlp_ratio": 6,
            "block_layer": mixers.SpatialGatingBlock,
            "mlp_layer": mixers.GatedMlp,
        },
    }[family]
    return randomise(mixers.MlpMixer(num_blocks=2, **options, **sizes))


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", TINY)
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


class Encoder(nn.Module):
    """ViT's encoder with the official names."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        position = self.param("pos_embedding", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        x = x + position
        for i in range(2):
            x = EncoderBlock(name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class EncoderBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(y, y)
        return x + MlpBlock()(nn.LayerNorm()(x))


class MlpBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        hidden = nn.Dense(10)(x)
        return nn.Dense(8)(nn.gelu(hidden))


class FlaxViT(nn.Module):
    pool: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(8, (PATCH, PATCH), strides=(PATCH, PATCH), name="embedding")(x)
        x = x.reshape(x.shape[0], -1, 8)
        if self.pool == "token":
            token = self.param("cls", nn.initializers.zeros, (1, 1, 8))
            x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
        x = Encoder(name="Transformer")(x)
        return nn.Dense(CLASSES, name="head")(x[:, 0] if self.pool == "token" else x.mean(axis=1))


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


def keras_file(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """What Keras 2 writes: a group for each layer, in it the weights by their whole names."""
    leaves = {"scale": "gamma"}
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            layer, _, leaf = name.rpartition("/")
            leaf = "beta" if "orm" in layer and leaf == "bias" else leaves.get(leaf, leaf)
            file.require_group(layer).create_dataset(f"{layer}/{leaf}:0", data=array)


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
        **{("timm", family): test_timm for family in TINY},
        ("deit", "resmlp"): test_deit_resmlp,
        ("lucidrains", "mixer"): test_lucidrains_mixer,
        ("lucidrains", "gmlp"): test_lucidrains_gmlp,
        **dict.fromkeys([("nnx", "mixer"), ("nnx", "gmixer")], test_an_nnx_state),
        ("kecam", "mixer"): test_keras_cv_attention_models,
    }
    assert set(written) == {(each.name, f) for each in LAYOUTS for f in each.families}
