"""Preprocessing against closed forms, JAX, PyTorch and Pillow, on real photos."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from mixer_spec.errors import FileError, InputError, SpecError, UnknownNameError
from mixer_spec.preprocess import (
    PIPELINES,
    AsIs,
    FloatResample,
    PillowResample,
    Preprocessing,
    ResizeAndCrop,
    Squash,
    pipeline,
    preprocess,
)
from mixer_spec.preprocess.resample import resample
from mixer_spec.variants import VARIANTS

BLACK, UNIT = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
CHINA = load_sample_image("china.jpg")
CHINA.flags.writeable = False


def plain(geometry: Any, orientation: Any = "stored") -> Preprocessing:
    """A preprocessing whose result is pixels / 255."""
    return Preprocessing(
        orientation=orientation, geometry=geometry, mean=BLACK, std=UNIT, source="test"
    )


def floating(filter: Any, antialias: Any = "off", values: Any = "kept") -> FloatResample:
    return FloatResample(filter=filter, antialias=antialias, values=values)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- data -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_survives_json(name):
    text = json.dumps(PIPELINES[name].to_data())
    assert Preprocessing.from_data(json.loads(text), "test") == PIPELINES[name]


def test_every_variant_names_a_pipeline():
    assert {variant.preprocessing for variant in VARIANTS.values()} <= set(PIPELINES)


def test_the_published_pipelines_have_the_published_numbers():
    # crop fraction, mean of red, std of red: timm's configurations and deit's README
    published = {
        "timm_inception": (0.875, 0.5, 0.5),
        "timm_imagenet": (0.875, 0.485, 0.229),
        "timm_miil": (0.875, 0.0, 1.0),
        "deit_resmlp": (0.9, 0.485, 0.229),
        "big_vision": (0.875, 0.5, 0.5),
    }
    found = {
        name: (p.geometry.crop_fraction, p.mean[0], p.std[0])
        for name, p in PIPELINES.items()
        if isinstance(p.geometry, ResizeAndCrop)
    }
    assert found == published
    assert isinstance(PIPELINES["vit_jax"].geometry, Squash)


def test_an_unknown_pipeline_is_refused_with_the_nearest_names():
    with pytest.raises(UnknownNameError, match="expected a name like big_vision"):
        pipeline("bigvision")


def test_everything_wrong_in_the_data_is_reported_at_once():
    with pytest.raises(SpecError) as caught:
        Preprocessing(
            orientation="up", geometry=AsIs(), mean=(0, 0), std=(1, 0, float("nan")), source="x"
        )
    text = str(caught.value)
    assert "orientation" in text
    assert "mean has the wrong length; expected 3, got 2" in text
    assert "std[1] is too small" in text
    assert "std[2]" in text


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(SpecError, match=r"crop_fraction is too large; expected at most 1"):
        ResizeAndCrop(
            crop_fraction=1.1, long_side="floor", offset="floor", resample=floating("area")
        )


@pytest.mark.parametrize("filter", ["nearest", "area"])
def test_a_filter_without_a_kernel_is_not_antialiased(filter):
    with pytest.raises(SpecError, match="antialias must be 'off'"):
        floating(filter, "on")


# --- resampling against closed forms ----------------------------------------------------------

FILTERS = [
    *(floating(filter) for filter in ("nearest", "area", "bilinear", "bicubic", "lanczos3")),
    *(floating(filter, "on") for filter in ("bilinear", "bicubic", "lanczos3")),
]
SIZES = [(37, 53), (7, 91), (20, 30), (1, 1), (60, 90)]


@pytest.mark.parametrize("how", FILTERS, ids=lambda how: f"{how.filter}-{how.antialias}")
@pytest.mark.parametrize("size", SIZES)
def test_a_constant_image_stays_constant(how, size):
    found = resample(np.full((20, 30, 3), 91.0), *size, how)
    np.testing.assert_array_equal(found, np.full((*size, 3), 91.0))


@pytest.mark.parametrize("how", FILTERS, ids=lambda how: f"{how.filter}-{how.antialias}")
def test_the_same_size_is_the_identity(how):
    photo = noise(20, 30)
    np.testing.assert_array_equal(resample(photo, 20, 30, how), photo)


@pytest.mark.parametrize(("old", "new"), [(8, 20), (20, 8), (10, 10)])
def test_bilinear_of_a_ramp_samples_it_at_half_pixel_centres(old, new):
    ramp = np.arange(old, dtype=float)[:, None, None]
    found = resample(ramp, new, 1, floating("bilinear")).ravel()
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    np.testing.assert_allclose(found, centres.clip(0, old - 1), rtol=1e-6, atol=1e-6)


def test_bicubic_reproduces_a_parabola_away_from_the_border():
    # Keys' kernel with a = -1/2 interpolates polynomials of degree two exactly; other a do not.
    x = np.arange(12.0)
    found = resample((x * x)[:, None, None], 24, 1, floating("bicubic")).ravel()
    centres = (np.arange(24) + 0.5) / 2 - 0.5
    inner = slice(4, -4)
    np.testing.assert_allclose(found[inner], centres[inner] ** 2, rtol=1e-6)


def test_area_takes_the_mean_of_whole_pixels():
    photo = noise(12, 20)
    blocks = photo.reshape(4, 3, 5, 4, 3).mean(axis=(1, 3))
    found = resample(photo, 4, 5, floating("area"))
    np.testing.assert_allclose(found, blocks, rtol=1e-6)


def test_area_counts_parts_of_pixels():
    # four pixels to three, the example in TensorFlow's resize_area_op.cc
    a, b, c, d = 3.0, 30.0, 90.0, 240.0
    found = resample(np.array([a, b, c, d])[:, None, None], 3, 1, floating("area")).ravel()
    expected = [(a + b / 3) * 0.75, (b * 2 / 3 + c * 2 / 3) * 0.75, (c / 3 + d) * 0.75]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_truncated_values_are_whole_and_in_range():
    kept = resample(noise(20, 30), 31, 47, floating("bicubic"))
    truncated = resample(noise(20, 30), 31, 47, floating("bicubic", values="truncated"))
    assert kept.min() < 0 or kept.max() > 255
    np.testing.assert_array_equal(truncated, np.floor(kept.clip(0, 255)))


# --- resampling against other implementations --------------------------------------------------


@pytest.mark.parametrize("antialias", ["on", "off"])
@pytest.mark.parametrize(
    ("filter", "method"), [("bilinear", "linear"), ("bicubic", "cubic"), ("lanczos3", "lanczos3")]
)
@pytest.mark.parametrize("size", [(160, 224), (500, 700), (97, 801)])
def test_filters_agree_with_jax(filter, method, antialias, size):
    found = resample(CHINA, *size, floating(filter, antialias))
    # In float32 JAX places its samples some 3e-5 of a pixel off.
    with jax.enable_x64(True):
        expected = jax.image.resize(
            CHINA.astype(np.float64), (*size, 3), method, antialias=antialias == "on"
        )
    np.testing.assert_allclose(found, np.asarray(expected), rtol=2e-7, atol=2e-5)


def by_torch(photo: np.ndarray, size: tuple[int, int], **options: Any) -> np.ndarray:
    images = torch.from_numpy(photo.astype(np.float64)).permute(2, 0, 1)[None]
    found = torch.nn.functional.interpolate(images, size=size, **options)
    return found[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(160, 224), (500, 700), (97, 801)])
@pytest.mark.parametrize(
    ("how", "options"),
    [
        (floating("bilinear"), {"mode": "bilinear"}),
        (floating("bilinear", "on"), {"mode": "bilinear", "antialias": True}),
        (floating("bicubic", "on"), {"mode": "bicubic", "antialias": True}),
        (floating("nearest"), {"mode": "nearest-exact"}),
        (floating("area"), {"mode": "area"}),
    ],
    ids=lambda value: value.get("mode") if isinstance(value, dict) else value.antialias,
)
def test_filters_agree_with_torch(how, options, size):
    if how.filter == "area":  # torch's takes whole pixels, which is the same for whole factors
        photo, size = CHINA[:420, :600], (105, 200)
    else:
        photo = CHINA
    np.testing.assert_allclose(
        resample(photo, *size, how), by_torch(photo, size, **options), rtol=2e-7, atol=2e-5
    )


def test_the_comparison_rejects_another_filter():
    found = resample(CHINA, 160, 224, floating("bilinear"))
    other = by_torch(CHINA, (160, 224), mode="bilinear", antialias=True)
    assert np.abs(found - other).max() > 10


# --- whole pipelines -------------------------------------------------------------------------


def test_vit_jax_squashes_without_antialias():
    found = preprocess(CHINA, PIPELINES["vit_jax"], 224)
    squashed = by_torch(CHINA, (224, 224), mode="bilinear")
    np.testing.assert_allclose(found, (squashed - 127.5) / 127.5, atol=1e-6)


def test_timm_is_pillow_bicubic_and_a_centre_crop():
    found = preprocess(CHINA, PIPELINES["timm_imagenet"], 224)
    # 427 x 640 to 256 x int(256 * 640 / 427) = 383; round((383 - 224) / 2) = round(79.5) = 80
    resized = np.asarray(Image.fromarray(CHINA).resize((383, 256), Image.Resampling.BICUBIC))
    pixels = resized[16:240, 80:304] / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_deit_resizes_to_248():
    found = preprocess(CHINA, PIPELINES["deit_resmlp"], 224)
    resized = np.asarray(Image.fromarray(CHINA).resize((371, 248), Image.Resampling.BICUBIC))
    pixels = resized[12:236, 74:298] / 255  # round(73.5) = 74
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_big_vision_takes_truncated_areas_and_rounds_the_offset_down():
    # A factor of exactly two: 512 x 767 to 256 x round(383.5) = 384, half to even.
    photo = noise(512, 767)
    found = preprocess(photo, PIPELINES["big_vision"], 224)
    resized = resample(photo, 256, 384, floating("area", values="truncated"))
    np.testing.assert_array_equal(found, (resized[16:240, 80:304] / 127.5 - 1).astype(np.float32))
    tall = preprocess(photo[:, :512], PIPELINES["big_vision"], 224)
    means = photo[:, :512].reshape(256, 2, 256, 2, 3).sum(axis=(1, 3)) // 4
    np.testing.assert_array_equal(tall, (means[16:240, 16:240] / 127.5 - 1).astype(np.float32))


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("size", [32, 224, 448, (96, 224), (224, 96)])
def test_every_pipeline_works_at_any_size(name, size):
    height, width = size if isinstance(size, tuple) else (size, size)
    for photo in (CHINA, CHINA.transpose(1, 0, 2), CHINA[:5, :3]):
        found = preprocess(photo, PIPELINES[name], size)
        assert found.shape == (height, width, 3)
        assert found.dtype == np.float32
        assert np.isfinite(found).all()


@pytest.mark.parametrize("name", PIPELINES)
def test_black_and_white_have_the_ends_of_the_value_range(name):
    mean, std = np.array(PIPELINES[name].mean), np.array(PIPELINES[name].std)
    for value in (0, 255):
        found = preprocess(np.full((40, 50, 3), value, np.uint8), PIPELINES[name], 32)
        expected = ((value / 255 - mean) / std).astype(np.float32)
        np.testing.assert_array_equal(found, np.broadcast_to(expected, (32, 32, 3)))


@pytest.mark.parametrize(
    ("how", "pillow"),
    [("nearest", Image.Resampling.NEAREST), ("box", Image.Resampling.BOX),
     ("lanczos", Image.Resampling.LANCZOS)],
)  # fmt: skip
def test_a_pillow_filter_is_pillows_own(how, pillow):
    found = preprocess(CHINA, plain(Squash(resample=PillowResample(filter=how))), (60, 70))
    expected = np.asarray(Image.fromarray(CHINA).resize((70, 60), pillow)) / 255
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_a_path_an_image_and_an_array_give_the_same(tmp_path: Path):
    path = tmp_path / "china.png"
    Image.fromarray(CHINA).save(path)
    expected = preprocess(CHINA, PIPELINES["big_vision"], 64)
    for photo in (path, str(path), Image.open(path), Image.fromarray(CHINA)):
        np.testing.assert_array_equal(preprocess(photo, PIPELINES["big_vision"], 64), expected)


# --- decoding --------------------------------------------------------------------------------


def decoded(photo: Any, orientation: Any = "stored", size: tuple[int, int] = (2, 3)) -> list[Any]:
    pixels = preprocess(photo, plain(AsIs(), orientation), size)
    return np.rint(pixels * 255).astype(int).tolist()


GREY = np.array([[0, 100, 255], [1, 2, 3]], np.uint8)


def test_grey_is_repeated():
    assert decoded(Image.fromarray(GREY)) == np.repeat(GREY[:, :, None], 3, 2).tolist()


def test_alpha_is_dropped_without_blending(tmp_path: Path):
    rgb = noise(2, 3)
    rgba = np.concatenate([rgb, np.zeros((2, 3, 1), np.uint8)], axis=2)
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    assert decoded(tmp_path / "clear.png") == rgb.tolist()


def test_a_palette_is_looked_up_even_with_transparency(tmp_path: Path):
    image = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "palette.png", transparency=b"\x00\x80\xff")
    row = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    assert decoded(tmp_path / "palette.png") == [row, row[::-1]]


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
def test_of_sixteen_bits_the_high_byte_stays(tmp_path: Path, ending):
    wide = np.array([[0, 255, 256], [511, 25700, 65535]], np.uint16)
    Image.fromarray(wide).save(tmp_path / f"wide.{ending}", None if ending != "pgm" else "PPM")
    found = np.array(decoded(tmp_path / f"wide.{ending}"))
    np.testing.assert_array_equal(found[:, :, 1], [[0, 0, 1], [1, 100, 255]])


def test_cmyk_and_one_bit_become_rgb():
    ink = Image.new("CMYK", (3, 2), (255, 0, 0, 0))
    assert decoded(ink)[0][0] == [0, 255, 255]
    assert decoded(Image.new("1", (3, 2), 1))[1][2] == [255, 255, 255]


def test_the_exif_tag_turns_the_image_only_when_asked(tmp_path: Path):
    rgb = noise(2, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(rgb).save(tmp_path / "turned.png", exif=exif)
    assert decoded(tmp_path / "turned.png") == rgb.tolist()
    turned = decoded(tmp_path / "turned.png", "exif", (3, 2))
    assert turned == np.rot90(rgb, -1).tolist()


# --- bad input -------------------------------------------------------------------------------


@pytest.fixture
def china_jpeg(tmp_path: Path) -> Path:
    path = tmp_path / "china.jpg"
    Image.fromarray(CHINA).save(path)
    return path


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(FileError, match=r"nowhere\.png: there is no such file"):
        preprocess(tmp_path / "nowhere.png", PIPELINES["big_vision"], 224)


def test_a_directory_is_refused(tmp_path: Path):
    with pytest.raises(FileError, match="cannot be decoded"):
        preprocess(tmp_path, PIPELINES["big_vision"], 224)


@pytest.mark.parametrize("content", [b"", b"this is no image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, content):
    (tmp_path / "text.png").write_bytes(content)
    with pytest.raises(FileError, match=r"text\.png: (is not an image|cannot be decoded)"):
        preprocess(tmp_path / "text.png", PIPELINES["big_vision"], 224)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "tiff", "webp", "bmp"])
def test_a_truncated_image_is_refused(tmp_path: Path, ending):
    whole, half = tmp_path / f"whole.{ending}", tmp_path / f"half.{ending}"
    Image.fromarray(CHINA).save(whole)
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    preprocess(whole, PIPELINES["big_vision"], 32)
    with pytest.raises(FileError, match=rf"half\.{ending}"):
        preprocess(half, PIPELINES["big_vision"], 32)


def test_a_decompression_bomb_is_refused(china_jpeg: Path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(FileError, match=r"china\.jpg: is too large to decode safely"):
        preprocess(china_jpeg, PIPELINES["big_vision"], 224)


@pytest.mark.parametrize("name", ["big_vision", "timm_inception"])
def test_a_strip_that_would_grow_into_a_bomb_is_refused(name):
    strip = np.zeros((1, 900_000, 3), np.uint8)
    with pytest.raises(InputError, match="is too long for its width"):
        preprocess(strip, PIPELINES[name], 224)


def test_everything_wrong_with_an_array_is_reported_at_once():
    with pytest.raises(InputError) as caught:
        preprocess(np.zeros((3, 0, 8), np.float32), PIPELINES["big_vision"], 224)
    text = str(caught.value)
    assert "wrong shape; expected [height, width, 3]" in text
    assert "wrong dtype; expected uint8" in text
    assert "has no pixels" in text


def test_an_image_without_pixels_is_refused():
    with pytest.raises(InputError, match="has no pixels"):
        preprocess(Image.new("RGB", (0, 5)), PIPELINES["big_vision"], 224)


@pytest.mark.parametrize("mode", ["F", "La", "HSV"])
def test_a_mode_of_unknown_range_is_refused(mode):
    with pytest.raises(InputError, match=f"got the Pillow mode '{mode}'"):
        preprocess(Image.new(mode, (4, 4)), PIPELINES["big_vision"], 224)


def test_whole_numbers_beyond_sixteen_bits_are_refused():
    with pytest.raises(InputError, match="expected 16-bit ones from 0 to 65535, got 0 to 70000"):
        preprocess(Image.fromarray(np.array([[0, 70000]], np.int32)), PIPELINES["big_vision"], 2)


def test_something_else_is_refused():
    with pytest.raises(InputError, match="expected a path, a Pillow image or a uint8 array"):
        preprocess([[1, 2]], PIPELINES["big_vision"], 224)


@pytest.mark.parametrize("size", [0, -4, 2.5, "224", (224,), (224, 0), (1, 2, 3)])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(InputError, match="image_size: must be a positive whole number"):
        preprocess(CHINA, PIPELINES["big_vision"], size)


def test_as_is_refuses_another_size():
    with pytest.raises(InputError, match="expected height x width 8 x 8"):
        preprocess(noise(8, 9), plain(AsIs()), 8)


def test_pillow_is_imported_only_when_a_photo_comes():
    code = "import sys, mixer_spec.preprocess; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
