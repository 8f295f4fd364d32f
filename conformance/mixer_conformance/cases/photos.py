"""F29: photos made into inputs by the official pipelines, exact to float32's rounding."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixer_conformance.findings import Finding
from mixer_conformance.floors import UNIT_ROUNDOFF
from mixer_conformance.measure import Array
from mixer_conformance.mutants.photos import MISTAKES
from mixer_conformance.subject import Violation
from mixer_conformance.tolerance import K_MAX
from mixer_spec.backend import Preprocessor
from mixer_spec.preprocess import PIPELINES, FloatResample, Preprocessing, ResizeAndCrop, preprocess
from mixer_spec.shapes import Image

from .base import Case, Trial, on
from .exact import whole

PHOTOS = {"high 153": (32, 21), "wide 13": (17, 43), "small 3": (5, 7)}
"""Height and width of each. Red is noise, which is drawn from the name; green is its negative.

No sum of any pass of the official pipelines is near a half, where Pillow's integers and float32
may round to different sides; a test holds the names to it. On each, other crops and proportions
differ.
"""


def photo(name: str) -> Array:
    """One of :data:`PHOTOS`, ``[height, width, rgb]`` in uint8."""
    red = whole(name, PHOTOS[name], 127, 0)
    return np.stack([red, 255 - red, np.full_like(red, 127)], axis=-1).astype(np.uint8)


def _preprocessed(trial: Trial) -> Iterator[Finding]:
    model: Any = trial.loaded.model
    if not isinstance(model, Preprocessor):
        raise Violation("the model has no preprocess", "unsupported")
    given = trial.spec.input
    assert isinstance(given, Image)  # see below
    named = False
    for name in PHOTOS:
        one = photo(name)
        photos = np.stack([one, 255 - one])
        for pipeline, how in PIPELINES.items():
            definition = _Definition(name, photos, pipeline, (given.height, given.width))
            call = functools.partial(model.preprocess, photos.copy(), how)
            found = trial.subject.call("preprocess", call)
            finding = definition.judged(found)
            if not (finding.passed or named):
                finding, named = definition.named(finding, found), True
            yield finding


@functools.cache
def _expected(name: str, pipeline: str, size: tuple[int, int]) -> Array:
    """The pixels of a photo and of its negative."""
    one = photo(name)
    return np.stack([preprocess(p, PIPELINES[pipeline], size) for p in (one, 255 - one)])


@dataclass(frozen=True, slots=True)
class _Definition:
    """What photos become, by definition.

    Args:
        name: of the photo.
        photos: it and its negative, ``[2, height, width, rgb]``.
        pipeline: an official one's name.
        size: height and width of the model.
    """

    name: str
    photos: Array
    pipeline: str
    size: tuple[int, int]

    @property
    def _how(self) -> Preprocessing:
        return PIPELINES[self.pipeline]

    @property
    def _counts(self) -> Array:
        """How many of 255 counts a pixel of 1 is, ``[rgb]``."""
        return 255 * np.array(self._how.std)

    @property
    def _allowed(self) -> float:
        """In counts: a float32 sum along each axis, then the few operations of mean and std."""
        sums = [0.41 * math.sqrt(side + 2) for side in self.photos.shape[1:3]]
        return K_MAX * 255 * UNIT_ROUNDOFF * math.hypot(*sums, 4.0)

    def judged(self, found: Any) -> Finding:
        """A backend's pixels beside those of the definition."""
        what = f"photo {self.name} through {self.pipeline}"
        expected = _expected(self.name, self.pipeline, self.size)
        if not isinstance(found, np.ndarray) or found.dtype != np.float32:
            got = getattr(found, "dtype", type(found).__name__)
            return Finding(math.inf, f"{what}: expected pixels in float32, got {got}", "pixels")
        if found.shape != expected.shape:
            message = f"{what}: expected pixels {list(expected.shape)}, got {list(found.shape)}"
            return Finding(math.inf, message, "pixels")
        allowed = self._allowed
        error = np.abs(found.astype(np.float64) - expected) * self._counts
        error = np.where(self._either_way() & (error < 1 + allowed), 0.0, error)
        worst = float(error.max()) if np.isfinite(error).all() else math.inf
        return Finding(
            worst / allowed,
            f"{what}: off by up to {worst:.2g} counts of 255, allowed {allowed:.1g}",
            "pixels",
        )

    def named(self, finding: Finding, found: Any) -> Finding:
        """The finding, with the known mistake that gives these pixels, if there is one."""
        if finding.margin == math.inf:
            return finding
        for name, mistake in MISTAKES.items():
            wrong = np.stack([mistake(one, self._how, self.size) for one in self.photos])
            if (np.abs(found - wrong) * self._counts <= self._allowed).all():
                message = f"{finding.message}; these are the pixels of this mistake: {name}"
                return replace(finding, message=message)
        return finding

    def _either_way(self) -> Array:
        """Which sums are whole numbers before they are cut off, so that float32 may lose a count."""
        geometry = self._how.geometry
        if not (
            isinstance(geometry, ResizeAndCrop)
            and isinstance(geometry.resample, FloatResample)
            and geometry.resample.values == "truncated"
        ):
            return np.zeros(1, bool)
        kept = replace(geometry, resample=replace(geometry.resample, values="kept"))
        counts = replace(self._how, geometry=kept, mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)
        sums = np.stack([preprocess(one, counts, self.size) for one in self.photos])
        near: Array = np.abs(sums - np.rint(sums)) < self._allowed
        return near


F29 = Case(
    id="F29",
    title="High, wide and small photos through every official pipeline",
    catches="BGR, mean and std, 255 twice, another filter, no antialias, rounding, crop off by one",
    level=1,
    suits=on("mixer"),
    check=_preprocessed,
    profiles=("f64", "f32-strict"),
    optional=True,
    in_process="what a program makes of photos is no request of the files",
)
