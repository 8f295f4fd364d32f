"""The PyTorch backend computes the reference's function, tap by tap, and the check can fail."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from mixer_spec import (
    InputError,
    ModelSpec,
    Stage,
    UnknownNameError,
    ablations,
    families,
    load_backend,
)
from mixer_spec.blocks import NORM
from mixer_spec.layers import (
    Affine,
    ChannelDense,
    GatedUnit,
    Gelu,
    LayerNorm,
    LayerScale,
    Residual,
    Silu,
    SpatialGate,
    TokenDense,
)
from mixer_spec.reference import Shuffled, forward
from mixer_spec.shapes import TokenIds, Vectors
from mixer_torch import TorchBackend
from mixer_torch.arrays import to_tensor
from mixer_torch.modules import MODULES, module_of

IMAGE = {"image_size": (15, 25), "patch": 5}  # a grid of 3 x 5 tokens
SIZES = {**IMAGE, "depth": 2}
WIDTHS = {"channels": 12, "token_hidden": 11, "channel_hidden": 17, "classes": 3}


def pyramid() -> ModelSpec:
    """Two stages, each behind a transition, of gates and norms that no paper combines."""
    norm = LayerNorm(epsilon=1e-3)
    tokens = Residual(
        name="token_mixing",
        layers=(
            Affine(),
            TokenDense(features=14),
            GatedUnit(axis="token", gate="first", activation=Gelu(approximation="none")),
            TokenDense(features=7),
            LayerScale(),
        ),
    )
    channels = Residual(
        name="channel_mixing_2",
        layers=(
            norm,
            SpatialGate(layers=(Silu(), TokenDense(features=7))),
            ChannelDense(features=8),
        ),
    )
    wider = Residual(name="channel_mixing", layers=(norm, ChannelDense(features=12)))
    return dataclasses.replace(
        families.mixer(channels=6, token_hidden=4, channel_hidden=5, classes=3, **SIZES),
        stages=(
            Stage(
                transition=(norm, TokenDense(features=7), ChannelDense(features=8)),
                block=(tokens, channels),
                depth=2,
            ),
            Stage(transition=(ChannelDense(features=12), Silu()), block=(wider,), depth=1),
        ),
    )


SPECS = {
    "mixer": families.mixer(channels=14, token_hidden=11, channel_hidden=30, classes=5, **SIZES),
    "mixer-erf": families.mixer(
        channels=9, token_hidden=15, channel_hidden=9, classes=1, gelu="none", **SIZES
    ),
    "resmlp": families.resmlp(channels=13, classes=3, **SIZES),
    "gmlp": families.gmlp(channels=7, classes=1, **SIZES),
    "gmixer": families.gmixer(channels=8, token_hidden=18, channel_hidden=22, classes=5, **SIZES),
    "vit": families.vit(channels=12, heads=3, channel_hidden=17, classes=5, **SIZES),
    "vit-mean": families.vit(
        channels=12, heads=2, channel_hidden=17, pool="mean", classes=3, **SIZES
    ),
    "feed-forward": families.feed_forward(channels=9, classes=3, **SIZES),
    "untied": ablations.mixer_untied(**WIDTHS, **SIZES),
    "grouped": ablations.mixer_grouped(groups=3, views=False, **WIDTHS, **SIZES),
    "views": ablations.mixer_grouped(groups=2, views=True, **WIDTHS, **SIZES),
    "shrinking": ablations.mixer_pyramid(depths=(1, 2), shrink=3, **WIDTHS, **IMAGE),
    "resmlp-mlp": ablations.resmlp_ablation(
        channels=7, classes=3, mixing="mlp", norm=Affine(), **SIZES
    ),
    "resmlp-conv": ablations.resmlp_ablation(
        channels=7, classes=3, mixing="conv", norm=Affine(), **SIZES
    ),
    "resmlp-sepconv": ablations.resmlp_ablation(
        channels=7, classes=3, mixing="separable_conv", norm=NORM, **SIZES
    ),
    "words": families.sequence_mixer(input=TokenIds(tokens=6, vocabulary=10), depth=2, **WIDTHS),
    "vectors": families.sequence_mixer(input=Vectors(tokens=6, channels=5), depth=2, **WIDTHS),
    "pyramid": pyramid(),
}


def random_weights(spec: ModelSpec) -> dict[str, np.ndarray]:
    """Nothing zero, nothing symmetric; kernels keep the size of what they multiply."""
    generator = np.random.Generator(np.random.Philox(key=7))
    return {
        name: (
            (name.endswith("scale"))
            + generator.standard_normal(parameter.shape) * (parameter.fan_in or 10) ** -0.5
        ).astype(np.float32)
        for name, parameter in spec.parameters().items()
    }


def random_inputs(spec: ModelSpec, batch: int) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(key=8))
    if isinstance(spec.input, TokenIds):
        return generator.integers(spec.input.vocabulary, size=(batch, *spec.input.shape))
    return generator.standard_normal((batch, *spec.input.shape), np.float32)


def relative_error(found: np.ndarray, oracle: np.ndarray) -> float:
    """Root mean square of the difference, relative to the oracle's."""
    assert found.shape == oracle.shape
    difference = np.asarray(found, np.float64) - oracle
    return float(np.sqrt(np.mean(difference**2) / np.mean(oracle**2)))


def shares_of_tolerance(spec, weights, inputs, found) -> dict[str, float]:
    """Each tap's error over its tolerance: four times what the reference shows in float32.

    The floor is one rounding of the result, for a tap so small that the reference was lucky.
    """
    oracle = forward(spec, weights, inputs, spec.taps)
    runs = [
        forward(spec, weights, inputs, spec.taps, arithmetic=Shuffled(seed)) for seed in range(16)
    ]
    return {
        tap: relative_error(found[tap], oracle[tap])
        / (4 * max(2**-24, *(relative_error(run[tap], oracle[tap]) for run in runs)))
        for tap in spec.taps
    }


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", SPECS)
def test_every_tap_equals_the_reference_in_float64(name, batch):
    spec = SPECS[name]
    weights, inputs = random_weights(spec), random_inputs(spec, batch)
    found = TorchBackend().load(spec, weights, profile="f64").forward(inputs, spec.taps)
    oracle = forward(spec, weights, inputs, spec.taps)
    assert list(found) == list(oracle)
    for tap in spec.taps:
        assert found[tap].dtype == np.float64
        assert relative_error(found[tap], oracle[tap]) < 1e-13, tap


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", SPECS)
def test_every_tap_is_within_float32_noise_of_the_reference(name, batch):
    spec = SPECS[name]
    weights, inputs = random_weights(spec), random_inputs(spec, batch)
    found = TorchBackend().load(spec, weights).forward(inputs, spec.taps)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    shares = shares_of_tolerance(spec, weights, inputs, found)
    assert max(shares.values()) < 1, shares


def test_layer_norm_of_a_large_mean_is_as_accurate_as_two_passes():
    spec = SPECS["mixer"]
    weights, images = random_weights(spec), random_inputs(spec, 3)
    weights["stem.bias"] = weights["stem.bias"] + np.float32(1e3)
    found = TorchBackend().load(spec, weights).forward(images, spec.taps)
    shares = shares_of_tolerance(spec, weights, images, found)
    assert max(shares.values()) < 1, shares


def transpose(kernel: torch.Tensor) -> None:
    kernel.data = kernel.data.mT.contiguous()


def shift_one(bias: torch.Tensor) -> None:
    bias.data = bias.data.clone()  # the model shares the memory of the weights it was given
    bias.data[3] += 1e-4


def exchange_query_and_value(attention: nn.Module) -> None:
    attention.query, attention.value = attention.value, attention.query


def flip(kernel: torch.Tensor) -> None:
    kernel.data = kernel.data.flip(0, 1)


def reverse(kernel: torch.Tensor) -> None:
    kernel.data = kernel.data.flip(0)


def group_blocks(group: nn.Module) -> None:
    group.forward = lambda x: torch.cat(x.chunk(group.groups, dim=2), dim=1)


def wrap_around(conv: nn.Module) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        image = x.unflatten(1, conv.grid).permute(0, 3, 1, 2)
        image = nn.functional.pad(image, (1, 1, 1, 1), mode="circular")
        kernel = conv.kernel.permute(2, 0, 1)[:, None]
        found = nn.functional.conv2d(image, kernel, conv.bias, groups=image.shape[1])
        return found.permute(0, 2, 3, 1).flatten(1, 2)

    conv.forward = forward


MUTANTS = {
    "erf for tanh": ("mixer", "token_mixing.gelu_0", lambda m: setattr(m, "approximate", "none")),
    "tanh for erf": (
        "resmlp",
        "channel_mixing.gelu_0",
        lambda m: setattr(m, "approximate", "tanh"),
    ),
    "another epsilon": ("mixer", "token_mixing.norm", lambda m: setattr(m, "epsilon", 1e-4)),
    "transposed token kernel": (
        "mixer-erf",
        "token_mixing.dense_0",
        lambda m: transpose(m.kernel),
    ),
    "transposed channel kernel": (
        "mixer-erf",
        "channel_mixing.dense_1",
        lambda m: transpose(m.kernel),
    ),
    "one bias off by 1e-4": (
        "gmlp",
        "gated_mixing.gate.dense_0",
        lambda m: shift_one(m.bias),
    ),
    "the other half gates": (
        "gmixer",
        "token_mixing.gated_unit",
        lambda m: setattr(m, "gate_is_first", True),
    ),
    "exchanged query and value": ("vit", "token_mixing.attention", exchange_query_and_value),
    "another number of heads": (
        "vit",
        "token_mixing.attention",
        lambda m: setattr(m, "heads", 2),
    ),
    "token norm's epsilon": (
        "feed-forward",
        "token_mixing.norm",
        lambda m: setattr(m, "epsilon", 1),
    ),
    "kernels of other channels": ("untied", "token_mixing.dense_1", lambda m: reverse(m.kernel)),
    "groups taken in blocks": ("grouped", "token_mixing.group", group_blocks),
    "a convolution for a correlation": (
        "resmlp-conv",
        "token_mixing.conv",
        lambda m: flip(m.kernel),
    ),
    "another padding": ("resmlp-sepconv", "token_mixing.conv", wrap_around),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_comparison_finds_and_locates_a_mutant(mutant):
    name, path, break_it = MUTANTS[mutant]
    spec = SPECS[name]
    weights, inputs = random_weights(spec), random_inputs(spec, 3)
    model = TorchBackend().load(spec, weights)
    break_it(model.module.get_submodule(f"blocks.1.{path}"))
    shares = shares_of_tolerance(spec, weights, inputs, model.forward(inputs, spec.taps))
    assert (
        next(tap for tap, share in shares.items() if share >= 1)
        == f"blocks.1.{path.partition('.')[0]}"
    )


def test_every_layer_kind_is_under_test():
    covered = {type(node.layer) for spec in SPECS.values() for node in spec.nodes()}
    assert covered == set(MODULES)


def test_a_patch_is_read_row_by_row_with_rgb_last():
    spec = families.mixer(
        image_size=(2, 6), patch=2, channels=12, depth=0, token_hidden=1, channel_hidden=1
    )
    node = spec.steps[0].nodes[0]
    stem = module_of(node).to_empty(device="cpu")
    torch.nn.init.zeros_(stem.bias)
    with torch.no_grad():
        stem.kernel.copy_(torch.eye(12).reshape(2, 2, 3, 12))
    image = np.arange(36, dtype=np.float32).reshape(1, 2, 6, 3)  # its values number the bytes
    tokens = stem(to_tensor(image).permute(0, 3, 1, 2))
    assert tokens[0].tolist() == [
        [first + offset for first in (start, start + 18) for offset in range(6)]
        for start in (0, 6, 12)
    ]


# --- the adapter ----------------------------------------------------------------------------


def test_only_the_taps_asked_for_come_back():
    spec = SPECS["mixer"]
    model = load_backend("torch").load(spec, random_weights(spec))
    images = random_inputs(spec, 2)
    assert list(model.forward(images)) == ["logits"]
    found = model.forward(images, ["pooled", "blocks.1.token_mixing"])
    assert set(found) == {"pooled", "blocks.1.token_mixing", "logits"}


def test_images_may_be_read_only_strided_or_of_another_float():
    spec = SPECS["mixer"]
    model = TorchBackend().load(spec, random_weights(spec))
    images = random_inputs(spec, 4)
    expected = model.forward(images)["logits"]
    images.flags.writeable = False
    assert np.array_equal(model.forward(images)["logits"], expected)
    assert np.array_equal(model.forward(images.astype(np.float64))["logits"], expected)
    assert np.array_equal(model.forward(images.astype(">f4"))["logits"], expected)
    backwards = model.forward(images[::-1])["logits"][::-1]
    assert np.allclose(backwards, expected, rtol=1e-5, atol=1e-6)


def test_images_of_the_wrong_shape_and_unknown_taps_are_input_errors():
    spec = SPECS["mixer"]
    model = TorchBackend().load(spec, random_weights(spec))
    images = random_inputs(spec, 1)
    with pytest.raises(InputError, match=r"channels first: use images.transpose\(0, 2, 3, 1\)"):
        model.forward(images.transpose(0, 3, 1, 2))
    with pytest.raises(InputError, match="wrong dtype; expected float32, got uint8"):
        model.forward(images.astype(np.uint8))
    with pytest.raises(InputError, match=r"unknown taps \['block.0'\]"):
        model.forward(images, ["block.0"])


def test_a_profile_that_is_not_claimed_is_refused():
    spec = SPECS["mixer"]
    with pytest.raises(UnknownNameError, match=r"expected one of \['f32-strict', 'f64'\]"):
        TorchBackend().load(spec, random_weights(spec), profile="bf16")


@pytest.mark.parametrize("device", ["cuda:99", "meta", "nowhere"])
def test_a_device_that_cannot_compute_is_refused(device):
    with pytest.raises(InputError, match=f"unusable device; .* got '{device}'"):
        TorchBackend(device)


def test_info_names_version_device_and_profiles():
    info = load_backend("torch").info()
    assert (info.name, info.device, info.taps) == ("torch", "cpu", True)
    assert info.versions == {"torch": torch.__version__}
    assert info.profiles == ("f32-strict", "f64")


def precisions() -> tuple[str, str]:
    return (
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.mkldnn.matmul.fp32_precision,
    )


@pytest.mark.parametrize("chosen", [("tf32", "bf16"), ("none", "none"), ("ieee", "tf32")])
def test_strict_arithmetic_is_on_inside_and_put_back_after(chosen):
    spec = SPECS["mixer"]
    model = TorchBackend().load(spec, random_weights(spec))
    images = random_inputs(spec, 1)
    seen = []
    model.module.head.register_forward_hook(lambda *_: seen.append(precisions()))
    before = precisions()
    cuda, onednn = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    try:
        cuda.fp32_precision, onednn.fp32_precision = chosen
        model.forward(images)
        model.module.norm.register_forward_hook(stop)
        with pytest.raises(RuntimeError, match="stop here"):
            model.forward(images)
        assert precisions() == chosen
    finally:
        cuda.fp32_precision, onednn.fp32_precision = before
    assert seen == [("ieee", "ieee")]


def stop(*_: object) -> None:
    raise RuntimeError("stop here")


def test_autocast_around_the_backend_changes_nothing():
    spec = SPECS["mixer"]
    model = TorchBackend().load(spec, random_weights(spec))
    images = random_inputs(spec, 2)
    expected = model.forward(images)["logits"]
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(model.forward(images)["logits"], expected)
