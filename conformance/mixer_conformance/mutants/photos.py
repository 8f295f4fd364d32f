"""Mistakes in making an input of a photo: colours, scale, filter, rounding, proportions and crop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mixer_conformance.measure import Array
from mixer_spec import ModelSpec
from mixer_spec.preprocess import (
    FloatResample,
    PillowResample,
    Preprocessing,
    ResizeAndCrop,
    Squash,
    preprocess,
)
from mixer_spec.preprocess.data import Resample
from mixer_spec.reference import Arithmetic
from mixer_spec.reference.backend import ReferenceModel
from mixer_spec.shapes import Image

from .hostile import Honest
from .mutant import Known, Weights

Size = tuple[int, int]
"""``(height, width)``."""

Mistake = Callable[[Array, Preprocessing, Size], Array]
"""What becomes of a photo ``[height, width, rgb]`` in uint8, its preprocessing, the model's size."""

_COUNTS = (1 / 255, 1 / 255, 1 / 255)


# --- changed data ------------------------------------------------------------------------------


def _read(change: Callable[[Preprocessing], Preprocessing]) -> Mistake:
    """The preprocessing is read wrongly."""
    return lambda photo, how, size: preprocess(photo, change(how), size)


def _filtered(change: Callable[[Resample], Resample]) -> Mistake:
    """The resize is read wrongly."""

    def edit(how: Preprocessing) -> Preprocessing:
        assert isinstance(how.geometry, Squash | ResizeAndCrop)  # as all official ones are
        geometry = replace(how.geometry, resample=change(how.geometry.resample))
        return replace(how, geometry=geometry)

    return _read(edit)


def _cropped(**fields: Any) -> Mistake:
    """The crop is read wrongly, where there is one."""

    def edit(how: Preprocessing) -> Preprocessing:
        if not isinstance(how.geometry, ResizeAndCrop):
            return how
        return replace(how, geometry=replace(how.geometry, **fields))

    return _read(edit)


def _swapped_statistics(how: Preprocessing) -> Preprocessing:
    mean, std = how.mean, how.std
    return replace(how, mean=std, std=mean) if all(mean) else how


def _squashed(how: Preprocessing) -> Preprocessing:
    assert isinstance(how.geometry, Squash | ResizeAndCrop)
    return replace(how, geometry=Squash(resample=how.geometry.resample))


def _filter(name: Literal["nearest", "bilinear", "bicubic"]) -> Callable[[Resample], Resample]:
    def edit(how: Resample) -> Resample:
        if isinstance(how, PillowResample) or name != "nearest":
            return replace(how, filter=name)
        return replace(how, filter=name, antialias="off")

    return edit


def _in_float(
    *, antialias: Literal["on", "off"], values: Literal["kept", "truncated"]
) -> Callable[[Resample], Resample]:
    """Pillow's filter by a library that knows no 8 bits."""

    def edit(how: Resample) -> Resample:
        if isinstance(how, FloatResample):
            return how
        assert how.filter in ("bilinear", "bicubic")  # as all official ones have
        return FloatResample(filter=how.filter, antialias=antialias, values=values)

    return edit


def _antialiased(how: Resample) -> Resample:
    if isinstance(how, PillowResample) or how.filter == "area":
        return how
    return replace(how, antialias="on")


def _kept(how: Resample) -> Resample:
    return replace(how, values="kept") if isinstance(how, FloatResample) else how


# --- changed values ----------------------------------------------------------------------------


def _whole_pixels(photo: Array, how: Preprocessing, size: Size) -> Array:
    """The resized and cropped photo before it is normalised, from 0 to 255."""
    return preprocess(photo, replace(how, mean=(0.0, 0.0, 0.0), std=_COUNTS), size)


def _normalised(pixels: Array, how: Preprocessing) -> Array:
    return ((pixels / 255 - np.array(how.mean)) / np.array(how.std)).astype(np.float32)


def _rounded(photo: Array, how: Preprocessing, size: Size) -> Array:
    """Whole numbers where a resize in floating point keeps them as they are, or cuts them off."""
    kept = _filtered(_kept)(photo, replace(how, mean=(0.0, 0.0, 0.0), std=_COUNTS), size)
    return _normalised(np.rint(kept).clip(0, 255), how)


def _mean_behind(photo: Array, how: Preprocessing, size: Size) -> Array:
    scaled = _whole_pixels(photo, how, size) / (255 * np.array(how.std)) - np.array(how.mean)
    return scaled.astype(np.float32)


def _scaled_twice(photo: Array, how: Preprocessing, size: Size) -> Array:
    return _normalised(_whole_pixels(photo, how, size) / 255, how)


def _not_scaled(photo: Array, how: Preprocessing, size: Size) -> Array:
    return _normalised(_whole_pixels(photo, how, size) * 255, how)


def _later(axis: int) -> Mistake:
    """The crop one pixel late: the resized photo's pixel before it is lost, the last one doubled."""

    def shift(photo: Array, how: Preprocessing, size: Size) -> Array:
        right = preprocess(photo, how, size)
        last = np.take(right, [-1], axis)
        return np.concatenate([np.delete(right, 0, axis), last], axis)

    return shift


def _over_twice_the_size(photo: Array, how: Preprocessing, size: Size) -> Array:
    """The model's size met by the nearest pixels of a resize to twice of it."""
    twice = preprocess(photo, how, (2 * size[0], 2 * size[1]))
    return twice[::2, ::2]


MISTAKES: Mapping[str, Mistake] = {
    "photo in blue, green, red": lambda photo, how, size: preprocess(
        np.ascontiguousarray(photo[..., ::-1]), how, size
    ),
    "colours reversed behind mean and std": lambda photo, how, size: preprocess(photo, how, size)[
        ..., ::-1
    ],
    "photo flipped": lambda photo, how, size: preprocess(photo, how, size)[:, ::-1],
    "mean and std swapped": _read(_swapped_statistics),
    "mean and std of one half": _read(
        lambda how: replace(how, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    ),
    "mean and std of ImageNet": _read(
        lambda how: replace(how, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    ),
    "neither mean nor std": _read(
        lambda how: replace(how, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    ),
    "mean behind std": _mean_behind,
    "divided by 255 twice": _scaled_twice,
    "not divided by 255": _not_scaled,
    "resized to the nearest pixel": _filtered(_filter("nearest")),
    "resized bilinearly": _filtered(_filter("bilinear")),
    "resized bicubically": _filtered(_filter("bicubic")),
    "resized without antialias": _filtered(_in_float(antialias="off", values="kept")),
    "antialias where there is none": _filtered(_antialiased),
    "resized without whole numbers": _filtered(_in_float(antialias="on", values="kept")),
    "truncated where Pillow rounds": _filtered(_in_float(antialias="on", values="truncated")),
    "kept where whole numbers are cut off": _filtered(_kept),
    "rounded where it is not": _rounded,
    "resized in two steps": _over_twice_the_size,
    "proportions lost": _read(_squashed),
    "crop of the whole photo": _cropped(crop_fraction=1.0),
    "crop's half rounded down": _cropped(offset="floor"),
    "crop's half rounded to even": _cropped(offset="half_even"),
    "long side rounded down": _cropped(long_side="floor"),
    "long side rounded to nearest": _cropped(long_side="half_even"),
    "crop a row late": _later(0),
    "crop a column late": _later(1),
}
"""Every mistake by its name."""


# --- as backends -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photographer(Honest):
    """The float32 reference with one mistake in front of it.

    Args:
        mistake: what becomes of each photo.
        batch: what becomes of a batch of pixels.
    """

    mistake: Mistake = preprocess
    batch: Callable[[Array], Array] = lambda pixels: pixels

    def model(self, spec: ModelSpec, weights: Weights) -> Any:
        """The model, where the faults are."""
        return _Developed(spec, weights, Arithmetic(np.float32), self)


@dataclass(frozen=True, slots=True)
class _Developed(ReferenceModel):
    backend: Photographer

    def preprocess(self, photos: Array, preprocessing: Preprocessing) -> Array:
        given = self.spec.input
        assert isinstance(given, Image)  # F29 is judged on images
        size = (given.height, given.width)
        pixels = [self.backend.mistake(photo, preprocessing, size) for photo in photos]
        return self.backend.batch(np.stack(pixels))


def _known(name: str, backend: Photographer) -> Known:
    return Known(name=name, backend=backend, model="mixer", stage="pixels", killer="F29")


PHOTOS: tuple[Known, ...] = (
    *(_known(name, Photographer(mistake)) for name, mistake in MISTAKES.items()),
    _known(
        "first photo for all",
        Photographer(batch=lambda pixels: np.repeat(pixels[:1], len(pixels), axis=0)),
    ),
    _known("pixels in float64", Photographer(batch=lambda pixels: pixels.astype(np.float64))),
    _known("pixels channels first", Photographer(batch=lambda pixels: pixels.swapaxes(1, 3))),
)
"""Every mistake, as a backend."""
