"""Preprocessing as data: every choice that changes a pixel is a field without a default."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from mixer_spec._fields import Above, AtMost, Checked, PositiveFloat

Rgb = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class PillowResample(Checked):
    """Pillow's own resize: antialiased, in 8 bits, rounded after each of its two passes.

    Args:
        filter: one of Pillow's; ``nearest`` is the only one that is not antialiased.
    """

    kind: ClassVar[str] = "pillow"
    filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatResample(Checked):
    """A resize in floating point with half-pixel centres, as TensorFlow and JAX have it.

    Args:
        filter: ``area`` weighs each source pixel by the share of it that is covered; ``bicubic``
            is Keys' with a = -0.5; ``lanczos3`` has a radius of three pixels.
        antialias: ``on`` widens the filter by the factor of the reduction.
        values: ``kept`` as float32, or ``truncated`` to whole numbers from 0 to 255, which is
            what a cast back to uint8 does.
    """

    kind: ClassVar[str] = "float"
    filter: Literal["nearest", "area", "bilinear", "bicubic", "lanczos3"]
    antialias: Literal["on", "off"]
    values: Literal["kept", "truncated"]

    def broken_rules(self) -> Iterator[str]:
        """The filters without a kernel cannot be widened."""
        if self.filter in ("nearest", "area") and self.antialias == "on":
            yield f"antialias must be 'off' for the filter {self.filter!r}, got 'on'"


Resample = PillowResample | FloatResample


@dataclass(frozen=True, kw_only=True, slots=True)
class AsIs(Checked):
    """The image already has the model's size; any other size is refused."""

    kind: ClassVar[str] = "as_is"


@dataclass(frozen=True, kw_only=True, slots=True)
class Squash(Checked):
    """Resize to the model's size whatever the image's proportions are.

    Args:
        resample: how.
    """

    kind: ClassVar[str] = "squash"
    resample: Resample


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizeAndCrop(Checked):
    """Resize in proportion until the image just covers the target, then cut out its centre.

    The target is ``floor(model size / crop_fraction)``. One side is met exactly; the other is
    rounded.

    Args:
        crop_fraction: the part of the target's side that the crop keeps.
        long_side: how the other side is rounded: ``floor`` as torchvision does, or ``half_even``
            of a float32 product as big_vision does.
        offset: how half of the pixels to cut is rounded: ``floor``, or ``half_even`` as
            torchvision does.
        resample: how.
    """

    kind: ClassVar[str] = "resize_and_crop"
    crop_fraction: Annotated[float, Above(0.0), AtMost(1)]
    long_side: Literal["floor", "half_even"]
    offset: Literal["floor", "half_even"]
    resample: Resample


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing(Checked):
    """From a photo to what a model takes: ``(pixel / 255 - mean) / std`` of the resized image.

    Args:
        orientation: ``stored`` takes the rows as they lie in the file; ``exif`` turns the image
            as its EXIF tag says, which none of the official pipelines does.
        geometry: how the image gets the model's size.
        mean: subtracted from red, green and blue, on a scale from 0 to 1.
        std: what each is then divided by.
        source: where the numbers come from.

    Example:
        >>> from mixer_spec.preprocess import PIPELINES
        >>> timm = PIPELINES["timm_inception"]
        >>> Preprocessing.from_data(timm.to_data(), "metadata") == timm
        True
    """

    kind: ClassVar[str] = "preprocessing"
    orientation: Literal["stored", "exif"]
    geometry: AsIs | Squash | ResizeAndCrop
    mean: Rgb
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    source: str
