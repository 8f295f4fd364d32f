"""F29: photos that no right resize can make otherwise, and mistakes that are found and named."""

from __future__ import annotations

import numpy as np
import pytest

from mixer_conformance.cases.exact import whole
from mixer_conformance.cases.photos import PHOTOS, photo
from mixer_conformance.measure import Array
from mixer_conformance.mutants import MUTANTS
from mixer_conformance.mutants.photos import MISTAKES
from mixer_conformance.suite import run
from mixer_spec import InputError, families, load_backend
from mixer_spec.preprocess import PIPELINES, FloatResample, PillowResample, Preprocessing
from mixer_spec.preprocess.pixels import _covering
from mixer_spec.preprocess.resample import resample
from mixer_spec.shapes import Vectors
from mixer_spec.weights import initial

SIZE = (8, 12)  # of the zoo's mixer


def distance_from_a_half(shown: Array, how: Preprocessing) -> float:
    """The least, of each sum of Pillow's two passes that reaches the crop; columns come first."""
    rows, columns = shown.shape[:2]
    covering = _covering((rows, columns), SIZE, how.geometry)
    in_float = FloatResample(filter=how.geometry.resample.filter, antialias="on", values="kept")
    top, left = (round((have - want) / 2) for have, want in zip(covering, SIZE, strict=True))
    kept = slice(top, top + SIZE[0])
    # Row by row: how much of each row of the photo is in each row of the crop.
    shares = resample(np.eye(rows)[:, :, None], covering[0], rows, in_float)[kept, :, 0]
    first = resample(shown.astype(np.float64), rows, covering[1], in_float)
    first = first[:, left : left + SIZE[1]]
    second = resample(np.floor(first + 0.5).clip(0, 255), covering[0], SIZE[1], in_float)[kept]
    sums = [first[shares.any(axis=0)]]
    if covering[0] != rows:
        sums.append(second)
    return min(float(np.abs(x - np.floor(x) - 0.5).min()) for x in sums)


OF_PILLOW = [p for p in PIPELINES.values() if isinstance(p.geometry.resample, PillowResample)]


@pytest.mark.parametrize("name", PHOTOS)
def test_no_sum_of_pillows_passes_is_near_a_half(name: str) -> None:
    assert all(distance_from_a_half(photo(name), how) > 5e-4 for how in OF_PILLOW)


def test_a_photo_of_any_other_noise_has_such_sums() -> None:
    noise = whole("any other", (32, 21, 3), 127, 0)
    assert min(distance_from_a_half(noise, how) for how in OF_PILLOW) < 1e-5


@pytest.mark.parametrize(("backend", "status"), [("onnxruntime", "pass"), ("torch", "unsupported")])
def test_a_backend_is_judged_where_it_takes_photos(backend: str, status: str) -> None:
    (result,) = run(backend, scales=["mixer"], cases=["F29"])
    assert result.status == status


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_with_photos_is_named(name: str) -> None:
    (result,) = run(MUTANTS[name].backend, scales=["mixer"], cases=["F29"])
    assert result.status == "fail"
    assert "these are the pixels of this mistake: " in result.message
    # Where two mistakes are one on the first photo that shows them, either name is right.
    assert name in result.message or result.message.rpartition(": ")[2] in MISTAKES


@pytest.mark.parametrize("backend", ["reference", "onnxruntime"])
def test_what_is_no_photo_is_refused(backend: str) -> None:
    spec = families.mixer(
        image_size=8, patch=4, channels=6, depth=1, token_hidden=5, channel_hidden=7, classes=3
    )
    model = load_backend(backend).load(spec, initial(spec))
    with pytest.raises(InputError, match=r"expected uint8 \[batch, .*got float32 \[1, 9, 9, 3\]"):
        model.preprocess(np.zeros((1, 9, 9, 3), np.float32), PIPELINES["vit_jax"])
    vectors = families.sequence_mixer(
        input=Vectors(tokens=6, channels=3),
        channels=8,
        depth=1,
        token_hidden=5,
        channel_hidden=7,
        classes=3,
    )
    model = load_backend(backend).load(vectors, initial(vectors))
    with pytest.raises(InputError, match="only a model of RGB images takes photos"):
        model.preprocess(np.zeros((1, 9, 9, 3), np.uint8), PIPELINES["vit_jax"])
