"""RandAugment against Google's own code, operation by operation; crops, shifts and flips."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from mixer_spec.augment import OPERATIONS, augment, colour, geometry, inception_crop, randaugment
from mixer_spec.augment.crop import crop_box, flip, resize_then_crop, shift
from mixer_spec.errors import InputError
from mixer_spec.preprocess import FloatResample, PillowResample
from mixer_spec.recipe_parts import AsEvaluated, InceptionCrop, RandAugment, Shift
from mixer_spec.recipes import recipe

GOLDENS = json.loads(Path(__file__).with_name("goldens").joinpath("randaugment.json").read_text())
SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def _images() -> dict[str, Any]:
    """Whole-number formulas, so that any language can make them: ``[height, width, rgb]``."""

    def of(height: int, width: int, *channels: Any) -> Any:
        y, x = np.mgrid[0:height, 0:width]
        return np.stack([channel(x, y) for channel in channels], 2).astype(np.uint8)

    return {
        "ramp": of(19, 23, lambda x, y: x * 11, lambda x, y: y * 13, lambda x, y: x * y % 256),
        "scattered": of(
            24,
            20,
            *(lambda x, y, c=c: (x * 73 + y * 151 + c * 199) ** 2 // 7 % 256 for c in (0, 1, 2)),
        ),
        "uniform": np.broadcast_to(np.array([77, 200, 77], np.uint8), (16, 16, 3)),
        "dim": of(
            *(32, 32),
            *(lambda x, y, c=c: 100 + (x * 31 + y * 17 + c * 5) ** 2 // 3 % 20 for c in (0, 1, 2)),
        ),
        "large": of(
            *(224, 224),
            *(
                lambda x, y, c=c: (x * x // 97 + y * y // 61 + x * y // 53 * (c + 1)) % 256
                for c in (0, 1, 2)
            ),
        ),
        "tiny": of(
            5, 6, *(lambda x, y, c=c: (x * 47 + y * y * 29 + c * 61) % 256 for c in (0, 1, 2))
        ),
    }


IMAGES = _images()


def _run(image: Any, golden: str, level: float) -> Any:
    """The operation that a golden's name means: its name, then its sign or its place."""
    name, _, place = golden.partition("@")
    flavour = "fixed" if name == "contrast_fixed" else "google"
    name, sign = name.removesuffix("_fixed").rstrip("+-"), -1 if name.endswith("-") else 1
    operation = OPERATIONS[flavour][name]
    arguments = operation.arguments(level, image, np.random.default_rng(0))
    if name in SIGNED:
        arguments = (sign * abs(arguments[0]),)
    if place:
        arguments = (arguments[0], *map(int, place.split(",")))
    return operation.run(image, *arguments)


@pytest.mark.parametrize("image", GOLDENS["digests"])
def test_every_operation_has_the_bits_of_googles_code_at_every_level(image: str) -> None:
    found = {
        golden: [
            hashlib.sha256(_run(IMAGES[image], golden, level).tobytes()).hexdigest()[:12]
            for level in (GOLDENS["levels"] if len(digests) > 1 else [10])
        ]
        for golden, digests in GOLDENS["digests"][image].items()
    }
    assert found == GOLDENS["digests"][image]


def test_goldens_hold_every_operation_and_both_signs() -> None:
    for golden in GOLDENS["digests"].values():
        plain = {name.partition("@")[0] for name in golden}
        assert {name.rstrip("+-").removesuffix("_fixed") for name in plain} == {
            *OPERATIONS["google"]
        }
        assert {f"{name}{sign}" for name in SIGNED for sign in "+-"} <= plain


@pytest.mark.parametrize("golden", GOLDENS["tiny_at_15"])
def test_a_tiny_image_is_as_written_out(golden: str) -> None:
    level = 15 if len(GOLDENS["digests"]["tiny"][golden]) > 1 else 10
    found = _run(IMAGES["tiny"], golden, level)
    assert found.reshape(5, 18).tolist() == GOLDENS["tiny_at_15"][golden]


def test_goldens_tell_a_rounding_from_a_truncation(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(first: Any, second: Any, factor: float) -> Any:
        start = first.astype(np.float32)
        mixed = start + np.float32(factor) * (second.astype(np.float32) - start)
        return np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)

    monkeypatch.setattr(colour, "blend", rounded)
    for name in ("brightness", "colour", "contrast", "sharpness"):
        digest = hashlib.sha256(_run(IMAGES["ramp"], name, 15).tobytes()).hexdigest()[:12]
        assert digest != GOLDENS["digests"]["ramp"][name][GOLDENS["levels"].index(15)], name


def test_googles_contrast_is_about_196_on_every_image_of_224_pixels() -> None:
    bright = np.full((224, 224, 3), 250, np.uint8)
    assert np.unique(colour.contrast_from_area(bright, 0.0)).tolist() == [196]
    assert np.unique(colour.contrast(bright, 0.0)).tolist() == [250]
    assert np.unique(colour.contrast_from_area(np.zeros((448, 448, 3), np.uint8), 0.0)) == [255]


def test_fixed_operations_grow_stronger_with_the_level() -> None:
    image, generator = IMAGES["large"], np.random.default_rng(0)

    def change(flavour: Any, name: str, level: float) -> float:
        operation = OPERATIONS[flavour][name]
        found = operation.run(image, *operation.arguments(level, image, generator))
        return float(np.abs(found.astype(int) - image).mean())

    for name in ("posterize", "solarize"):
        changes = [change("fixed", name, level) for level in (0, 2, 5, 10, 15)]
        assert changes == sorted(changes), name
        google = [change("google", name, level) for level in (0, 2, 5, 10, 15)]
        assert google != sorted(google), name
        assert change("fixed", name, 10) == change("google", name, 10)  # the official magnitude


def test_operations_that_pillow_defines_alike_are_pillows() -> None:
    for image in IMAGES.values():
        pillow = Image.fromarray(np.ascontiguousarray(image))
        for ours, theirs in (
            (colour.invert(image), ImageOps.invert(pillow)),
            (colour.equalize(image), ImageOps.equalize(pillow)),
            *((colour.posterize(image, b), ImageOps.posterize(pillow, b)) for b in (1, 4, 8)),
            *((colour.solarize(image, t), ImageOps.solarize(pillow, t)) for t in (0, 99, 256)),
        ):
            assert np.array_equal(ours, np.asarray(theirs))


def test_translation_and_rotation_move_whole_pixels() -> None:
    image = IMAGES["ramp"]
    moved = geometry.translate_x(image, 3)
    assert np.array_equal(moved[:, :-3], image[:, 3:])
    assert (moved[:, -3:] == 128).all()
    square = image[:, :19]
    assert np.array_equal(geometry.rotate(square, 180), square[::-1, ::-1])
    assert np.array_equal(geometry.rotate(square, 90), np.rot90(square))


def test_randaugment_draws_every_operation_and_depends_on_the_generator_alone() -> None:
    image = IMAGES["large"][:64, :64]
    run = {"layers": 1, "magnitude": 2, "flavour": "google"}
    results = {
        randaugment(image, np.random.default_rng(seed), **run).tobytes() for seed in range(300)
    }
    # 5 with two signs, cutout with many places, and 10 others
    assert len(results) > 5 * 2 + 10 + 5
    again = [randaugment(image, np.random.default_rng(7), **run) for _ in range(2)]
    assert np.array_equal(*again)


@pytest.mark.parametrize("flavour", ["google", "fixed"])
@pytest.mark.parametrize("magnitude", [0, 10, 20, 30])
def test_every_operation_takes_every_magnitude_and_an_image_of_one_pixel(
    flavour: Any, magnitude: float
) -> None:
    for shape in ((1, 1, 3), (1, 5, 3), (2, 2, 3)):
        image = np.full(shape, 100, np.uint8)
        for name, operation in OPERATIONS[flavour].items():
            arguments = operation.arguments(magnitude, image, np.random.default_rng(0))
            found = operation.run(image, *arguments)
            assert found.shape == shape, name
            assert found.dtype == np.uint8, name


# --- crops ----------------------------------------------------------------------------------


def test_crop_boxes_keep_to_the_limits_of_area_and_proportions() -> None:
    generator = np.random.default_rng(1)
    boxes = [crop_box((300, 400), generator, (0.05, 1.0)) for _ in range(2000)]
    top, left, height, width = np.array(boxes).T
    areas, proportions = height * width / (300 * 400), width / height
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 300).all()
    assert (left + width <= 400).all()
    assert areas.min() >= 0.05
    assert areas.min() < 0.06
    assert areas.max() > 0.95
    assert ((proportions > 0.74) & (proportions < 1.35)).all()
    # Uniform in the height, not in the area: small parts are more frequent.
    assert np.median(areas) < 0.45


def test_crop_box_is_the_whole_image_where_nothing_fits() -> None:
    assert crop_box((1, 300), np.random.default_rng(0), (0.9, 1.0)) == (0, 0, 1, 300)


def test_inception_crop_of_a_uniform_image_is_uniform() -> None:
    image = np.full((40, 60, 3), 93, np.uint8)
    for antialias in ("on", "off"):
        found = inception_crop(
            image, np.random.default_rng(0), size=(32, 16), area=(0.05, 1.0), antialias=antialias
        )
        assert found.shape == (32, 16, 3)
        assert np.unique(found).tolist() == [93]


def test_antialiasing_changes_a_crop_that_is_reduced() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    run = {"size": (8, 8), "area": (0.99, 1.0)}
    on, off = (
        inception_crop(image, np.random.default_rng(0), antialias=a, **run) for a in ("on", "off")
    )
    assert on.std() < off.std()


def test_resize_then_crop_reaches_every_place() -> None:
    image = np.arange(16 * 16 * 3, dtype=np.uint32).reshape(16, 16, 3).astype(np.uint8)
    how = PillowResample(filter="nearest")
    found = {
        resize_then_crop(image, np.random.default_rng(s), size=(15, 14), side=16, how=how).tobytes()
        for s in range(100)
    }
    assert len(found) == 2 * 3


def test_shift_moves_by_at_most_the_pixels_and_fills_with_zeros() -> None:
    image = np.full((5, 5, 3), 9, np.uint8)
    counts = {int((shift(image, np.random.default_rng(s), 2) > 0).sum()) for s in range(200)}
    assert counts == {3 * rows * columns for rows in (3, 4, 5) for columns in (3, 4, 5)}


def test_flip_exchanges_left_and_right_half_of_the_time() -> None:
    image = IMAGES["ramp"]
    kept = [np.array_equal(flip(image, np.random.default_rng(s)), image) for s in range(200)]
    assert 70 < sum(kept) < 130
    assert all(
        kept[s] or np.array_equal(flip(image, np.random.default_rng(s)), image[:, ::-1])
        for s in range(200)
    )


# --- a recipe's chain -----------------------------------------------------------------------


def _data(**changes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(recipe("mixer_b_i1k").data, **changes)


def test_a_recipes_chain_is_a_pure_function_of_the_generator() -> None:
    data, augmentation = _data(), RandAugment(layers=2, magnitude=15, flavour="google")
    first, again, other = (
        augment(IMAGES["large"], data, augmentation, np.random.default_rng(seed))
        for seed in (3, 3, 4)
    )
    assert first.shape == (224, 224, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_fractions_are_kept_unless_randaugment_needs_whole_numbers() -> None:
    data = recipe("fashion_mnist_finetune").data
    image, generator = IMAGES["dim"][:28, :28], np.random.default_rng(0)
    kept = augment(image, data, recipe("digits").augment, generator)
    assert kept.dtype != np.uint8
    assert isinstance(data.crop, AsEvaluated)
    whole = augment(image, data, RandAugment(layers=1, magnitude=9, flavour="fixed"), generator)
    assert whole.dtype == np.uint8


def test_a_shift_of_an_image_of_another_size_is_refused() -> None:
    data = _data(crop=Shift(pixels=2), image_size=(28, 28))
    with pytest.raises(InputError, match="expected height x width 28 x 28, got 19 x 23; do ano"):
        augment(IMAGES["ramp"], data, recipe("digits").augment, np.random.default_rng(0))


def test_inception_crop_of_a_recipe_uses_its_antialiasing() -> None:
    crops = [InceptionCrop(area=(0.5, 1.0), antialias=a) for a in ("on", "off")]
    found = [
        augment(
            IMAGES["scattered"],
            _data(crop=crop, image_size=(4, 4)),
            recipe("digits").augment,
            np.random.default_rng(0),
        )
        for crop in crops
    ]
    assert not np.array_equal(*found)
    assert FloatResample(filter="bilinear", antialias="on", values="kept").antialias == "on"
