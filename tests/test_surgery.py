"""Raising the resolution: in float64, every sub-image is treated as the old model treats it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mixer_conformance import conformance_weights
from mixer_spec import InputError, ModelSpec, SpecError, WeightsError, ablations, families
from mixer_spec.layers import (
    Affine,
    ChannelDense,
    GatedUnit,
    Gelu,
    GroupChannels,
    PositionEmbedding,
    Residual,
    TakeToken,
    TokenDense,
)
from mixer_spec.model import Stage
from mixer_spec.reference import forward
from mixer_spec.shapes import Image, Vectors
from mixer_spec.surgery import exact, raise_resolution
from mixer_spec.weights import validate

Array = np.ndarray[Any, Any]
TOLERANCE = 1e3 * 2.0**-53  # float64, and as many roundings as a thousand additions have

HEIGHT, WIDTH, PATCH = 8, 12, 4
GRID = (HEIGHT // PATCH, WIDTH // PATCH)
SIZES: dict[str, Any] = {
    "image_size": (HEIGHT, WIDTH),
    "patch": PATCH,
    "channels": 8,
    "classes": 5,
}
WIDTHS: dict[str, Any] = {"token_hidden": 6, "channel_hidden": 12}


def _ours(*layers: Any, embeddings: tuple[Any, ...] = ()) -> ModelSpec:
    """A model with one branch of a composition that no paper has."""
    branch = Residual(name="token_mixing", layers=layers)
    return families.of_patches(
        Image(height=HEIGHT, width=WIDTH, channels=3),
        PATCH,
        8,
        (Stage(transition=(), block=(branch,), depth=2),),
        5,
        embeddings=embeddings,
    )


SPECS: dict[str, ModelSpec] = {
    "mixer": families.mixer(**SIZES, **WIDTHS, depth=2),
    "resmlp": families.resmlp(**SIZES, depth=2),
    "gmlp": families.gmlp(**SIZES, depth=2),
    "gmixer": families.gmixer(**SIZES, **WIDTHS, depth=2),
    "untied": ablations.mixer_untied(**SIZES, **WIDTHS, depth=2),
    "grouped": ablations.mixer_grouped(**SIZES, **WIDTHS, depth=2, groups=2, views=False),
    "grouped views": ablations.mixer_grouped(**SIZES, **WIDTHS, depth=2, groups=4, views=True),
    "pyramid": ablations.mixer_pyramid(**SIZES, **WIDTHS, depths=(1, 2), shrink=2),
    "resmlp with an mlp": ablations.resmlp_ablation(**SIZES, depth=1, mixing="mlp", norm=Affine()),
    "positions": _ours(TokenDense(features=6), embeddings=(PositionEmbedding(),)),
    "first half gates": _ours(
        TokenDense(features=8),
        GatedUnit(axis="token", gate="first", activation=Gelu(approximation="none")),
        TokenDense(features=6),
    ),
    "the gate ends the branch": _ours(
        TokenDense(features=12),
        GatedUnit(axis="token", gate="second", activation=Gelu(approximation="none")),
    ),
    "halves of groups": _ours(
        TokenDense(features=6),
        GroupChannels(groups=2),
        GatedUnit(axis="token", gate="second", activation=Gelu(approximation="none")),
        ChannelDense(features=8),
    ),
}
FACTORS = [(2, 2), (1, 3), (3, 1), (2, 3)]


def _images(factors: tuple[int, int]) -> Array:
    shape = (2, HEIGHT * factors[0], WIDTH * factors[1], 3)
    return np.random.default_rng(7).normal(size=shape)


def _sub_images(images: Array, factors: tuple[int, int]) -> list[Array]:
    """The sub-images, row by row."""
    return [
        part
        for band in np.split(images, factors[0], axis=1)
        for part in np.split(band, factors[1], axis=2)
    ]


def _raised(
    spec: ModelSpec, factors: tuple[int, int]
) -> tuple[Mapping[str, Array], ModelSpec, dict[str, Array]]:
    weights = conformance_weights(spec)
    size = (HEIGHT * factors[0], WIDTH * factors[1])
    return weights, *raise_resolution(spec, weights, image_size=size)


def _places(factors: tuple[int, int]) -> list[list[int]]:
    """For each sub-image, where its tokens stand: the formula of the papers' raster order."""
    rows, columns = GRID
    return [
        [
            (a * rows + i) * (factors[1] * columns) + b * columns + j
            for i in range(rows)
            for j in range(columns)
        ]
        for a in range(factors[0])
        for b in range(factors[1])
    ]


# --- the exact identities --------------------------------------------------------------------


@pytest.mark.parametrize("factors", FACTORS, ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_every_sub_image_is_treated_as_the_old_model_treats_it(
    name: str, factors: tuple[int, int]
) -> None:
    spec = SPECS[name]
    weights, large, raised = _raised(spec, factors)
    images = _images(factors)
    found = forward(large, raised, images, large.taps)
    old = [forward(spec, weights, part, spec.taps) for part in _sub_images(images, factors)]
    for tap in ("pooled", "logits"):
        expected = np.mean([taps[tap] for taps in old], axis=0)
        assert np.ptp(expected) > 0.1
        np.testing.assert_allclose(found[tap], expected, atol=TOLERANCE, rtol=0)
    # Behind a pyramid's step down, tokens have no place in the image.
    in_the_image = ["stem", *(tap for tap in spec.taps if name != "pyramid" and "blocks" in tap)]
    for tap in in_the_image:
        for places, taps in zip(_places(factors), old, strict=True):
            np.testing.assert_allclose(found[tap][:, places], taps[tap], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", SPECS)
def test_repeated_image_has_the_logits_of_the_one(name: str) -> None:
    spec = SPECS[name]
    weights, large, raised = _raised(spec, (2, 3))
    image = _images((1, 1))
    found = forward(large, raised, np.tile(image, (1, 2, 3, 1)))["logits"]
    expected = forward(spec, weights, image)["logits"]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_paper_matrices_are_met_to_the_bit() -> None:
    spec = SPECS["mixer"]
    weights, _, raised = _raised(spec, (2, 3))
    order = np.concatenate(_places((2, 3)))  # sub-image by sub-image -> row by row
    blocks = np.eye(6)
    for block in range(2):
        for number in range(2):
            path = f"blocks.{block}.token_mixing.dense_{number}"
            kernel, bias = raised[f"{path}.kernel"], raised[f"{path}.bias"]
            diagonal = np.kron(blocks, weights[f"{path}.kernel"])
            tiled = np.tile(weights[f"{path}.bias"], 6)
            if number == 0:
                np.testing.assert_array_equal(kernel[:, order], diagonal)
                np.testing.assert_array_equal(bias, tiled)
            else:
                np.testing.assert_array_equal(kernel[order], diagonal)
                np.testing.assert_array_equal(bias[order], tiled)


@pytest.mark.parametrize("name", ["mixer", "resmlp", "gmlp", "gmixer", "untied"])
def test_blocks_in_the_order_of_sub_images_are_wrong(name: str) -> None:
    """The negative control: what the paper's formula gives where tokens stand row by row."""
    spec = SPECS[name]
    weights, large, raised = _raised(spec, (1, 2))
    naive = dict(raised)
    for path, array in weights.items():
        if ".token_mixing.dense" not in path and ".gate.dense" not in path:
            continue
        if path.endswith("kernel"):
            naive[path] = np.concatenate(
                [
                    np.concatenate([array, np.zeros_like(array)], axis=-1),
                    np.concatenate([np.zeros_like(array), array], axis=-1),
                ],
                axis=-2,
            )
        else:
            naive[path] = np.concatenate([array, array], axis=-1)
    validate(large, naive)  # nothing but the numbers tells them apart
    images = _images((1, 2))
    halves = [forward(spec, weights, half)["logits"] for half in np.split(images, 2, axis=2)]
    wrong = forward(large, naive, images)["logits"]
    assert np.abs(wrong - np.mean(halves, axis=0)).max() > 1e-3


def test_halves_of_a_gate_stay_halves() -> None:
    weights, _, raised = _raised(SPECS["gmixer"], (2, 1))
    name = "blocks.0.token_mixing.dense_0.bias"
    value, gate = np.split(weights[name], 2)
    np.testing.assert_array_equal(raised[name], np.concatenate([value, value, gate, gate]))


@pytest.mark.parametrize("mixing", ["conv", "separable_conv"])
def test_convolution_keeps_its_weights_and_is_exact_away_from_the_borders(mixing: Any) -> None:
    spec = ablations.resmlp_ablation(
        image_size=28, patch=4, channels=6, depth=2, mixing=mixing, norm=Affine()
    )
    weights = conformance_weights(spec)
    large, raised = raise_resolution(spec, weights, image_size=(28, 56))
    assert raised.keys() == weights.keys()
    assert all(raised[name] is weights[name] for name in weights)
    images = np.random.default_rng(0).normal(size=(1, 28, 56, 3))
    tap = "blocks.1.channel_mixing"
    whole = forward(large, raised, images, [tap])[tap].reshape(7, 14, 6)
    left = forward(spec, weights, images[:, :, :28], [tap])[tap].reshape(7, 7, 6)
    np.testing.assert_allclose(whole[:, :5], left[:, :5], atol=TOLERANCE, rtol=0)
    assert np.abs(whole[:, 5:7] - left[:, 5:]).max() > 1e-3  # two blocks see two tokens across


# --- the new spec and the new arrays ---------------------------------------------------------


def test_new_spec_is_that_of_the_family_with_wider_token_mixing() -> None:
    _, large, _ = _raised(SPECS["mixer"], (2, 3))
    sizes = {**SIZES, "image_size": (16, 36)}
    assert large == families.mixer(**sizes, token_hidden=36, channel_hidden=12, depth=2)
    _, large, _ = _raised(SPECS["resmlp"], (2, 3))
    assert large == families.resmlp(**sizes, depth=2)
    _, large, _ = _raised(SPECS["gmlp"], (2, 3))
    assert large == families.gmlp(**sizes, depth=2)


def test_other_weights_are_passed_on_as_they_are() -> None:
    weights, _, raised = _raised(SPECS["mixer"], (2, 2))
    changed = {name for name in weights if raised[name] is not weights[name]}
    assert changed == {name for name in weights if ".token_mixing.dense" in name}


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_dtype_and_bits_are_kept(dtype: Any) -> None:
    spec = SPECS["resmlp"]
    weights = {name: array.astype(dtype) for name, array in conformance_weights(spec).items()}
    name = "blocks.0.token_mixing.dense_0.kernel"
    weights[name][0, :3] = [-0.0, np.nan, np.finfo(np.float16).smallest_subnormal]
    _, raised = raise_resolution(spec, weights, image_size=(8, 24))
    assert {array.dtype for array in raised.values()} == {np.dtype(dtype)}
    for places in _places((1, 2)):
        block = raised[name][np.ix_(places, places)]
        assert block.tobytes() == weights[name].tobytes()
    across = raised[name][np.ix_(*_places((1, 2)))]
    assert across.tobytes() == bytes(across.nbytes)


def test_same_size_changes_nothing() -> None:
    spec = families.vit(**SIZES, depth=1, heads=2, channel_hidden=12)
    weights = conformance_weights(spec)
    same, kept = raise_resolution(spec, weights, image_size=(HEIGHT, WIDTH))
    assert same == spec
    assert kept == weights


def test_number_stands_for_a_square() -> None:
    spec = families.resmlp(image_size=8, patch=4, channels=4, depth=1)
    large, _ = raise_resolution(spec, conformance_weights(spec), image_size=16)
    assert large.input == Image(height=16, width=16, channels=3)


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((12, 12), "the new height is no whole multiple of the old; expected a multiple of 8"),
        ((8, 4), "the new width shrinks; expected a multiple of 12, got 4"),
        ((8, 26), "the image's width must be a multiple of the patch's"),
    ],
)
def test_other_factor_is_refused(size: tuple[int, int], words: str) -> None:
    spec = SPECS["mixer"]
    with pytest.raises(SpecError, match=re.escape(words)):
        raise_resolution(spec, conformance_weights(spec), image_size=size)


def test_both_wrong_sides_are_told_at_once() -> None:
    spec = SPECS["mixer"]
    with pytest.raises(SpecError) as caught:
        raise_resolution(spec, conformance_weights(spec), image_size=(4, 28))
    assert len(caught.value.problems) == 2
    assert all("interpolate_resolution" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            families.vit(**SIZES, depth=1, heads=2, channel_hidden=12, pool="mean"),
            ["blocks.0.token_mixing.attention: a attention lets every token hear the whole image"],
        ),
        (
            families.feed_forward(**SIZES, depth=1),
            [
                "stem.class_token: a class_token makes one token for the whole image",
                "pool: a take_token takes one token",
                "blocks.0.token_mixing.norm: a token_norm takes mean and variance over the whole",
            ],
        ),
    ],
    ids=["vit", "feed_forward"],
)
def test_layer_without_an_exact_form_is_refused_with_the_reason(
    spec: ModelSpec, words: list[str]
) -> None:
    with pytest.raises(SpecError) as caught:
        raise_resolution(spec, conformance_weights(spec), image_size=(16, 12))
    assert len(caught.value.problems) == len(words)
    for problem, start in zip(caught.value.problems, words, strict=True):
        assert problem.startswith(start)


def test_halving_the_patches_themselves_is_refused() -> None:
    gate = GatedUnit(axis="token", gate="first", activation=Gelu(approximation="none"))
    spec = _ours(gate, TokenDense(features=6))
    with pytest.raises(SpecError, match=r"token_mixing.gated_unit: .* are not 2 equal parts"):
        raise_resolution(spec, conformance_weights(spec), image_size=(16, 12))


def test_branch_that_ends_in_another_order_is_refused() -> None:
    # Three tokens of sixteen channels become six of eight: a stack of twos, which no image is.
    spec = _ours(ChannelDense(features=16), TokenDense(features=3), GroupChannels(groups=2))
    with pytest.raises(SpecError, match=r"token_mixing: .* in the order that it began with"):
        raise_resolution(spec, conformance_weights(spec), image_size=(16, 12))


def test_model_of_sequences_has_no_resolution() -> None:
    spec = families.sequence_mixer(
        input=Vectors(tokens=4, channels=3), channels=4, depth=1, token_hidden=3,
        channel_hidden=5, classes=2,
    )  # fmt: skip
    with pytest.raises(SpecError, match="a resolution is of images"):
        raise_resolution(spec, conformance_weights(spec), image_size=8)


def test_weights_of_another_spec_are_refused() -> None:
    spec = SPECS["mixer"]
    weights = conformance_weights(SPECS["resmlp"])
    with pytest.raises(WeightsError, match=r"blocks\.0\.token_mixing\.dense_1\.kernel"):
        raise_resolution(spec, weights, image_size=(16, 12))


def test_pool_of_one_patch_is_refused() -> None:
    spec = families.of_patches(
        Image(height=HEIGHT, width=WIDTH, channels=3), PATCH, 8, SPECS["mixer"].stages, 5,
        pool=TakeToken(index=3),
    )  # fmt: skip
    with pytest.raises(SpecError, match="pool: a take_token takes one token"):
        raise_resolution(spec, conformance_weights(spec), image_size=(16, 12))


def test_image_size_of_three_sides_is_refused() -> None:
    spec = SPECS["mixer"]
    size: Any = (8, 12, 3)
    with pytest.raises(InputError, match="expected 2 sides"):
        raise_resolution(spec, conformance_weights(spec), image_size=size)


# --- room for the new weights ----------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_the_size_of_the_new_weights_is_known_before_they_are_made(name: str) -> None:
    weights, _, raised = _raised(SPECS[name], (2, 3))
    found = exact.enlarged_bytes(SPECS[name], weights, 6)
    assert found == sum(array.nbytes for array in raised.values())


def test_weights_that_do_not_fit_into_the_memory_are_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = SPECS["mixer"]
    weights = conformance_weights(spec)
    with pytest.raises(InputError, match="for 8000 x 12000 pixels do not fit into the memory; exp"):
        raise_resolution(spec, weights, image_size=(8000, 12000))
    needed = exact.enlarged_bytes(spec, weights, 6)
    monkeypatch.setattr(exact, "memory_of_machine", lambda: needed)
    assert _raised(spec, (2, 3))
    monkeypatch.setattr(exact, "memory_of_machine", lambda: needed - 1)
    with pytest.raises(InputError, match="choose a lower resolution"):
        _raised(spec, (2, 3))
