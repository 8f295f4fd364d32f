"""The reference against forms that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mixer_spec import InputError, WeightsError, families
from mixer_spec.reference import FLOAT64, Arithmetic, Shuffled, forward, run_step
from mixer_spec.weights import initial

SPEC = families.mixer(
    image_size=(8, 12), patch=4, channels=6, depth=2, token_hidden=5, channel_hidden=7, classes=3
)


def drawn(spec=SPEC, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {k: generator.normal(0.1, 0.6, p.shape) for k, p in spec.parameters().items()}


def images(spec=SPEC, batch: int = 2, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, *spec.input.shape))


def test_zero_weights_give_the_heads_bias():
    weights = {name: np.zeros(p.shape) for name, p in SPEC.parameters().items()}
    weights["head.bias"] = np.array([1.0, -2.0, 3.0])
    logits = forward(SPEC, weights, images())["logits"]
    assert np.array_equal(logits, np.tile([1.0, -2.0, 3.0], (2, 1)))


def test_initial_weights_give_zero_logits():
    assert not forward(SPEC, initial(SPEC), images())["logits"].any()


def test_branches_with_zero_last_layer_leave_the_stream_alone():
    weights = drawn()
    for name in weights:
        if ".dense_1." in name:
            weights[name] = np.zeros_like(weights[name])
    found = forward(SPEC, weights, images(), SPEC.taps)
    for tap in SPEC.taps:
        if tap.startswith("blocks."):
            assert np.array_equal(found[tap], found["stem"])


def test_identity_stem_lists_the_pixels_of_each_patch_in_row_column_rgb_order():
    spec = families.mixer(
        image_size=(4, 6), patch=2, channels=12, depth=0, token_hidden=1, channel_hidden=1
    )
    weights = drawn(spec)
    weights["stem.kernel"] = np.eye(12).reshape(2, 2, 3, 12)
    weights["stem.bias"] = np.zeros(12)
    numbered = np.arange(4 * 6 * 3, dtype=np.float64).reshape(1, 4, 6, 3)
    stem = forward(spec, weights, numbered, ["stem"])["stem"][0]
    # Token 1 is the middle patch of the first row: columns 2 and 3 of rows 0 and 1.
    assert stem[1].tolist() == [6, 7, 8, 9, 10, 11, 24, 25, 26, 27, 28, 29]
    # Token 3 is the first patch of the second row.
    assert stem[3].tolist() == [36, 37, 38, 39, 40, 41, 54, 55, 56, 57, 58, 59]


def test_constant_image_gives_equal_tokens_until_they_are_mixed():
    found = forward(SPEC, drawn(), np.full((1, 8, 12, 3), 0.25), ["stem", "blocks.0.token_mixing"])
    stem = found["stem"][0]
    assert np.allclose(stem, stem[0], rtol=0, atol=1e-15)
    assert not np.allclose(found["blocks.0.token_mixing"][0], stem[0], atol=1e-3)


def test_identity_head_returns_the_pooled_mean_of_the_norm():
    spec = families.mixer(
        image_size=8, patch=4, channels=5, depth=1, token_hidden=3, channel_hidden=4, classes=5
    )
    weights = drawn(spec) | {"head.kernel": np.eye(5), "head.bias": np.zeros(5)}
    found = forward(spec, weights, images(spec), ["norm", "pooled"])
    assert np.array_equal(found["logits"], found["pooled"])
    assert np.allclose(found["pooled"], found["norm"].mean(axis=1), rtol=1e-15)


def test_layer_norm_of_a_known_row():
    spec = families.mixer(
        image_size=2, patch=2, channels=4, depth=0, token_hidden=1, channel_hidden=1, classes=1
    )
    weights = {
        "stem.kernel": np.zeros((2, 2, 3, 4)),
        "stem.bias": np.array([1.0, 2.0, 3.0, 4.0]),
        "norm.scale": np.full(4, 2.0),
        "norm.bias": np.full(4, 1.0),
        "head.kernel": np.zeros((4, 1)),
        "head.bias": np.zeros(1),
    }
    normed = forward(spec, weights, np.ones((1, 2, 2, 3)), ["norm"])["norm"][0, 0]
    root = math.sqrt(1.25 + 1e-6)  # the population variance of 1, 2, 3, 4 is 5/4
    expected = [1 + 2 * d / root for d in (-1.5, -0.5, 0.5, 1.5)]
    assert np.allclose(normed, expected, rtol=1e-15, atol=0)


def test_equal_keys_make_attention_the_mean_of_the_values():
    spec = families.vit(
        image_size=(4, 6), patch=2, channels=4, depth=1, heads=2, channel_hidden=3, classes=2
    )
    weights = drawn(spec)
    path = "blocks.0.token_mixing"
    weights[f"{path}.attention.key.kernel"] = np.zeros((4, 4))
    weights[f"{path}.attention.out.kernel"] = np.eye(4)
    weights[f"{path}.attention.out.bias"] = np.zeros(4)
    found = forward(spec, weights, images(spec), ["stem", path])
    x = found["stem"]
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    normed = normed * weights[f"{path}.norm.scale"] + weights[f"{path}.norm.bias"]
    value = normed @ weights[f"{path}.attention.value.kernel"]
    mean = (value + weights[f"{path}.attention.value.bias"]).mean(1, keepdims=True)
    assert np.allclose(found[path], x + mean, rtol=1e-13)


def test_a_batch_is_its_images_one_by_one():
    weights, batch = drawn(), images(batch=3)
    together = forward(SPEC, weights, batch)["logits"]
    alone = [forward(SPEC, weights, image[None])["logits"][0] for image in batch]
    assert np.allclose(together, alone, rtol=1e-13)


def test_steps_one_by_one_are_the_forward_pass():
    weights, x = drawn(), images()
    whole = forward(SPEC, weights, x, SPEC.taps)
    for step in SPEC.steps:
        x = run_step(step, weights, x)
        assert np.array_equal(x, whole[step.tap])
        assert x.shape == (2, *step.outgoing.shape)


def test_float32_stays_float32_at_every_tap_and_near_the_oracle():
    weights = {name: array.astype(np.float32) for name, array in drawn().items()}
    batch = images().astype(np.float32)
    oracle = forward(SPEC, weights, batch, SPEC.taps)
    for arithmetic in (Arithmetic(np.float32), Shuffled(seed=3)):
        single = forward(SPEC, weights, batch, SPEC.taps, arithmetic=arithmetic)
        for tap in SPEC.taps:
            assert single[tap].dtype == np.float32
            error = np.abs(single[tap] - oracle[tap]).max() / np.abs(oracle[tap]).max()
            assert 0 < error < 2e-6, tap


def test_shuffled_orders_change_float32_and_depend_on_the_seed_only():
    weights = {name: array.astype(np.float32) for name, array in drawn().items()}
    batch = images().astype(np.float32)
    first, again, other = (
        forward(SPEC, weights, batch, arithmetic=Shuffled(seed))["logits"] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_shuffled_float64_is_the_oracle_up_to_rounding():
    weights, batch = drawn(), images()
    shuffled = forward(SPEC, weights, batch, arithmetic=Shuffled(1, np.float64))["logits"]
    assert np.allclose(shuffled, forward(SPEC, weights, batch)["logits"], rtol=1e-12)


def test_mean_matches_numpy_over_any_axis():
    table = np.arange(24.0).reshape(2, 3, 4)
    assert np.array_equal(FLOAT64.mean(table, axis=1), table.mean(1, keepdims=True))


def test_silu_and_gelu_stand_large_values():
    spec = families.gmixer(
        image_size=2, patch=1, channels=2, depth=1, token_hidden=4, channel_hidden=4, classes=1
    )
    weights = {name: array * 1e4 for name, array in drawn(spec).items()}
    with np.errstate(over="raise", invalid="raise"):
        logits = forward(spec, weights, images(spec))["logits"]
    assert np.isfinite(logits).all()


def test_wrong_images_and_taps_are_all_named_at_once():
    with pytest.raises(InputError) as caught:
        forward(SPEC, drawn(), np.zeros((2, 3, 8, 12), np.uint8), ["blocks.7.token_mixing"])
    message = str(caught.value)
    assert "wrong size" in message
    assert "channels first" in message
    assert "wrong dtype; expected float32, got uint8" in message
    assert "unknown taps ['blocks.7.token_mixing']" in message
    assert "blocks.0.token_mixing" in message


@pytest.mark.parametrize("shape", [(8, 12, 3), (0, 8, 12, 3)])
def test_wrong_rank_and_empty_batch_are_refused(shape):
    with pytest.raises(InputError, match=r"wrong rank|empty batch"):
        forward(SPEC, drawn(), np.zeros(shape))


def test_mis_shaped_weights_are_refused_before_anything_is_computed():
    weights = drawn() | {"head.kernel": np.zeros((3, 6))}
    with pytest.raises(WeightsError, match=r"- head.kernel \[6, 3\]"):
        forward(SPEC, weights, images())
