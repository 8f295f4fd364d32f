"""Interpolating the resolution: what is documented, held against SciPy and PyTorch."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.ndimage
import torch

from mixer_conformance import conformance_inputs, conformance_weights
from mixer_spec import ModelSpec, SpecError, ablations, families, variant
from mixer_spec.layers import TakeToken
from mixer_spec.reference import forward
from mixer_spec.surgery import interpolate_resolution

Array = np.ndarray[Any, Any]

SIZES: dict[str, Any] = {"image_size": (12, 16), "patch": 4, "channels": 8, "classes": 5}
WIDTHS: dict[str, Any] = {"token_hidden": 6, "channel_hidden": 12}
VIT: dict[str, Any] = {"depth": 1, "heads": 2, "channel_hidden": 12}
OLD, NEW, NEW_SIZE = (3, 4), (5, 6), (20, 24)
SHRUNK, SHRUNK_SIZE = (2, 3), (8, 12)

SPECS: dict[str, ModelSpec] = {
    "mixer": families.mixer(**SIZES, **WIDTHS, depth=2),
    "resmlp": families.resmlp(**SIZES, depth=2),
    "gmlp": families.gmlp(**SIZES, depth=2),
    "gmixer": families.gmixer(**SIZES, **WIDTHS, depth=2),
    "vit": families.vit(**SIZES, **VIT),
    "vit with a mean": families.vit(**SIZES, **VIT, pool="mean"),
    "feed_forward": families.feed_forward(**SIZES, depth=1),
    "untied": ablations.mixer_untied(**SIZES, **WIDTHS, depth=2),
    "grouped": ablations.mixer_grouped(**SIZES, **WIDTHS, depth=2, groups=2, views=True),
    "pyramid": ablations.mixer_pyramid(**SIZES, **WIDTHS, depths=(1, 2), shrink=2),
}


def _resize(tables: Array, old: tuple[int, int], new: tuple[int, int]) -> Array:
    """``[..., token]`` from one grid to another, by PyTorch."""
    images = torch.from_numpy(tables.reshape(-1, 1, *old).astype(np.float64))
    made = torch.nn.functional.interpolate(images, new, mode="bilinear", antialias=True)
    return made.numpy().reshape(*tables.shape[:-1], new[0] * new[1])


@pytest.mark.parametrize("size", [NEW_SIZE, SHRUNK_SIZE, (24, 32)], ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_every_family_runs_at_any_size(name: str, size: tuple[int, int]) -> None:
    spec = SPECS[name]
    other, weights = interpolate_resolution(spec, conformance_weights(spec), image_size=size)
    logits = forward(other, weights, conformance_inputs(other, 2))["logits"]
    assert np.isfinite(logits).all()
    assert np.ptp(logits, axis=0).min() > 0
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}


def assert_rounded_once(found: Array, exact: Array, terms: Array | None = None) -> None:
    """Values in float32, or sums of ``terms`` of such, are off by one rounding of each."""
    float64 = 1e3 * 2.0**-53  # for the roundings of both ways to get there
    allowed = (2.0**-24 + float64) * np.abs(exact if terms is None else terms) + float64
    assert (np.abs(found - exact) <= allowed).all()


@pytest.mark.parametrize(("new", "size"), [(NEW, NEW_SIZE), (SHRUNK, SHRUNK_SIZE)])
def test_positions_are_zoomed_as_vits_own_code_does(
    new: tuple[int, int], size: tuple[int, int]
) -> None:
    spec = SPECS["vit"]
    weights = conformance_weights(spec)
    _, found = interpolate_resolution(spec, weights, image_size=size)
    old = weights["stem.position.embedding"].astype(np.float64)
    factors = (new[0] / OLD[0], new[1] / OLD[1], 1)
    zoomed = scipy.ndimage.zoom(old[1:].reshape(*OLD, 8), factors, order=1).reshape(-1, 8)
    position = found["stem.position.embedding"]
    np.testing.assert_array_equal(position[0], old[0])
    assert_rounded_once(position[1:], zoomed)
    changed = {name for name in weights if found[name] is not weights[name]}
    assert changed == {"stem.position.embedding"}


@pytest.mark.parametrize(("new", "size"), [(NEW, NEW_SIZE), (SHRUNK, SHRUNK_SIZE)])
def test_token_mixing_resizes_its_table_mixes_and_resizes_back(
    new: tuple[int, int], size: tuple[int, int]
) -> None:
    spec = SPECS["resmlp"]
    weights = conformance_weights(spec)
    other, found = interpolate_resolution(spec, weights, image_size=size)
    name = "blocks.0.token_mixing.dense_0"
    table = np.random.default_rng(0).normal(size=(8, new[0] * new[1]))  # [channel, token]
    mixed = table @ found[f"{name}.kernel"].T + found[f"{name}.bias"]
    inner = _resize(table, new, OLD) @ weights[f"{name}.kernel"].T + weights[f"{name}.bias"]
    terms = np.abs(table) @ np.abs(found[f"{name}.kernel"]).T + np.abs(found[f"{name}.bias"])
    assert_rounded_once(mixed, _resize(inner, OLD, new), terms)
    assert other == families.resmlp(**{**SIZES, "image_size": size}, depth=2)


def test_hidden_widths_stay() -> None:
    spec = SPECS["mixer"]
    weights = conformance_weights(spec)
    other, found = interpolate_resolution(spec, weights, image_size=NEW_SIZE)
    assert other == families.mixer(**{**SIZES, "image_size": NEW_SIZE}, **WIDTHS, depth=2)
    name = "blocks.0.token_mixing.dense_0"
    assert found[f"{name}.bias"] is weights[f"{name}.bias"]
    table = np.random.default_rng(0).normal(size=(8, 30))
    kernel = found[f"{name}.kernel"]
    expected = _resize(table, NEW, OLD) @ weights[f"{name}.kernel"].T
    assert_rounded_once(table @ kernel.T, expected, np.abs(table) @ np.abs(kernel).T)


def test_class_token_stays_the_first_of_the_tokens() -> None:
    spec = SPECS["feed_forward"]
    weights = conformance_weights(spec)
    _, found = interpolate_resolution(spec, weights, image_size=NEW_SIZE)
    into, out = (f"blocks.0.token_mixing.dense_{number}.kernel" for number in range(2))
    np.testing.assert_array_equal(found[into][:, 0], weights[into][:, 0])
    np.testing.assert_array_equal(found[out][0], weights[out][0])
    norm = "blocks.0.token_mixing.norm.scale"
    assert found[norm][0] == weights[norm][0]
    expected = _resize(weights[norm][1:], OLD, NEW)
    assert_rounded_once(found[norm][1:], expected)


def test_groups_are_resized_one_by_one() -> None:
    spec = SPECS["grouped"]
    weights = conformance_weights(spec)
    _, found = interpolate_resolution(spec, weights, image_size=NEW_SIZE)
    name = "blocks.0.token_mixing.dense_2.bias"
    halves = np.split(weights[name], 2)
    expected = np.concatenate([_resize(half, OLD, NEW) for half in halves])
    assert_rounded_once(found[name], expected)


def test_smooth_model_hardly_changes_on_a_smooth_image() -> None:
    """And noise in the kernels' places does, so that the measure can tell."""
    spec = families.mixer(**{**SIZES, "image_size": 64}, **WIDTHS, depth=2)
    weights: dict[str, Array] = dict(conformance_weights(spec))
    waves = np.cos(np.pi * np.outer(np.arange(3), np.arange(16) + 0.5) / 16)  # [wave, row]
    basis = np.einsum("ai,bj->abij", waves, waves).reshape(9, 256)[:6]
    for name in weights:
        if ".token_mixing.dense_0.kernel" in name:
            weights[name] = basis / 256
        if ".token_mixing.dense_1" in name:
            weights[name] = basis.T if name.endswith("kernel") else basis[1]

    def picture(side: int) -> Array:
        row, column = np.meshgrid(*2 * [(np.arange(side) + 0.5) / side], indexing="ij")
        return np.stack([np.sin(3 * row), np.cos(2 * column), row * column], axis=-1)[None]

    other, found = interpolate_resolution(spec, weights, image_size=96)
    old = forward(spec, weights, picture(64), ["pooled"])["pooled"]
    new = forward(other, found, picture(96), ["pooled"])["pooled"]
    shuffled = {
        name: np.random.default_rng(0).permuted(array, axis=-1)
        if "token_mixing.d" in name
        else array
        for name, array in found.items()
    }
    worse = forward(other, shuffled, picture(96), ["pooled"])["pooled"]
    assert np.abs(new - old).max() < 0.05 * np.abs(worse - old).max()


def test_lower_precision_is_rounded_once() -> None:
    spec = SPECS["resmlp"]
    exact = conformance_weights(spec)
    half = {name: array.astype(ml_dtypes.bfloat16) for name, array in exact.items()}
    _, found = interpolate_resolution(spec, half, image_size=NEW_SIZE)
    doubles = {name: array.astype(np.float64) for name, array in half.items()}
    _, expected = interpolate_resolution(spec, doubles, image_size=NEW_SIZE)
    for name, array in found.items():
        assert array.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(array, expected[name].astype(ml_dtypes.bfloat16))


def test_same_size_changes_nothing() -> None:
    spec = SPECS["feed_forward"]
    weights = conformance_weights(spec)
    same, found = interpolate_resolution(spec, weights, image_size=(12, 16))
    assert same == spec
    assert found == weights


def test_published_vit_goes_from_224_to_384() -> None:
    spec = variant("vit_b16").spec(classes=2)
    narrow = families.vit(
        image_size=224, patch=16, channels=4, depth=1, heads=2, channel_hidden=5, classes=2
    )
    assert narrow.input == spec.input
    other, weights = interpolate_resolution(narrow, conformance_weights(narrow), image_size=384)
    assert weights["stem.position.embedding"].shape == (1 + 24 * 24, 4)
    assert other.parameters()["stem.position.embedding"].shape == (577, 4)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((20, 23), "the image's width must be a multiple of the patch's; expected 23 % 4 == 0"),
        ((0, 16), "height is too small; expected at least 1, got 0"),
    ],
)
def test_size_that_the_patch_does_not_divide_is_refused(size: Any, words: str) -> None:
    spec = SPECS["mixer"]
    with pytest.raises(SpecError, match=re.escape(words)):
        interpolate_resolution(spec, conformance_weights(spec), image_size=size)


def test_pool_of_one_patch_is_refused() -> None:
    mixer = SPECS["mixer"]
    spec = families.of_patches(mixer.input, 4, 8, mixer.stages, 5, pool=TakeToken(index=3))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="an index below 0, got 3"):
        interpolate_resolution(spec, conformance_weights(spec), image_size=NEW_SIZE)
