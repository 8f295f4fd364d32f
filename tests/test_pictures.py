"""Pictures of weights: frequencies of known waves, pairs of opposites, and what is drawn."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mixer_spec import families, variant
from mixer_spec.cli import app
from mixer_spec.errors import InputError
from mixer_spec.pictures import Units, as_png, as_svg, frequencies, in_pairs, sheet, units
from mixer_spec.shapes import Vectors
from mixer_spec.weights import initial

SIDE = 12
SPEC = families.mixer(
    image_size=32, patch=4, channels=6, depth=2, token_hidden=10, channel_hidden=7, classes=2
)


def _wave(down: int, across: int, phase: float = 0.0, side: int = SIDE) -> Any:
    y, x = np.mgrid[0:side, 0:side] / side
    return np.cos(2 * np.pi * (down * y + across * x) + phase)


@pytest.mark.parametrize(("down", "across"), [(1, 0), (0, 2), (3, 4), (5, 0), (2, -3)])
def test_the_frequency_of_a_wave_is_the_length_of_its_wave_vector(down: int, across: int) -> None:
    wave = _wave(down, across, 0.7)
    for image in (wave, 9 * wave + 100, -wave):  # size, mean and sign do not matter
        assert frequencies(image[None])[0] == pytest.approx(np.hypot(down, across), abs=1e-9)


def test_a_sum_of_waves_has_the_mean_weighted_by_power() -> None:
    image = 1 * _wave(1, 0) + 2 * _wave(4, 0)
    assert frequencies(image[None])[0] == pytest.approx((1 * 1 + 4 * 4) / 5)


def test_grids_that_are_not_square_count_cycles_over_the_image() -> None:
    wide = np.cos(2 * np.pi * 3 * np.arange(20) / 20)
    assert frequencies(np.broadcast_to(wide, (1, 6, 20)))[0] == pytest.approx(3)


def test_uniform_units_have_no_frequency() -> None:
    assert frequencies(np.full((2, 5, 5), 0.1)).tolist() == [0.0, 0.0]
    assert frequencies(np.zeros((1, 5, 5))).tolist() == [0.0]


def test_waves_are_sorted_by_frequency_and_paired_with_their_negatives() -> None:
    waves = [(1, 0), (0, 2), (2, 2), (4, 1), (0, 5)]
    images = np.array([sign * _wave(*w, 0.3) for w in waves for sign in (1, -0.5)])
    shuffled = np.random.default_rng(0).permutation(len(images))
    order = in_pairs(images[shuffled], frequencies(images[shuffled]))
    found = shuffled[order].reshape(-1, 2)
    assert sorted(order.tolist()) == list(range(10))
    assert (found // 2).tolist() == [[n, n] for n in range(5)]
    unpaired = np.argsort(frequencies(images[shuffled]), kind="stable")
    assert unpaired.tolist() != list(range(10))


def test_the_partner_is_the_closest_negative_not_the_closest_in_frequency() -> None:
    lowest, next_lowest, opposite = _wave(1, 0), _wave(0, 2), -_wave(1, 0) + 0.1 * _wave(5, 5)
    images = np.array([next_lowest, opposite, lowest])
    assert in_pairs(images, frequencies(images)).tolist() == [2, 1, 0]


def test_ties_go_to_the_first() -> None:
    images = np.array([_wave(1, 0), -_wave(1, 0), -_wave(1, 0), _wave(1, 0)])
    assert in_pairs(images, np.zeros(4)).tolist() == [0, 1, 2, 3]


def test_the_units_of_a_mixer_are_its_stem_and_its_first_token_layers() -> None:
    found = list(units(SPEC, initial(SPEC)))
    names = [shown.name for shown in found]
    assert names == ["stem.kernel"] + [f"blocks.{i}.token_mixing.dense_0.kernel" for i in range(2)]
    weights = initial(SPEC)
    assert found[0].images.shape == (6, 4, 4, 3)
    assert found[1].images.shape == (10, 8, 8)
    unit = found[1].order[3]
    row = weights["blocks.0.token_mixing.dense_0.kernel"][unit].reshape(8, 8)
    assert np.array_equal(found[1].images[3], row)
    filter_ = found[0].order[2]
    assert np.array_equal(found[0].images[2], weights["stem.kernel"][..., filter_])


@pytest.mark.parametrize(
    ("name", "kernels"),
    [("gmlp_ti16", "gated_mixing.gate.dense_0"), ("resmlp_12", "token_mixing.dense_0")],
)
def test_other_families_have_units_too(name: str, kernels: str) -> None:
    spec = variant(name).spec(image_size=32)
    names = [shown.name for shown in units(spec, initial(spec))]
    assert names[1] == f"blocks.0.{kernels}.kernel"


def test_a_model_of_sequences_has_nothing_to_see() -> None:
    spec = families.sequence_mixer(
        input=Vectors(tokens=4, channels=3),
        channels=5,
        depth=1,
        token_hidden=6,
        channel_hidden=7,
        classes=2,
    )
    with pytest.raises(InputError, match="nothing to see; expected patches of an image"):
        list(units(spec, initial(spec)))


# --- drawing --------------------------------------------------------------------------------


def _shown(images: Any) -> Units:
    count = len(images)
    return Units(name="x", images=images, order=np.arange(count), frequencies=np.zeros(count))


def test_zero_is_white_and_signs_are_blue_and_red_at_each_units_own_scale() -> None:
    pixels = sheet(_shown(np.array([[[-2.0, 0.0, 2.0]], [[0.0, 1e-3, 0.0]]])), columns=2)
    assert pixels.shape == (1, 7, 3)
    blue, white, red, between = [33, 102, 172], [255] * 3, [178, 24, 43], [215] * 3
    assert pixels[0].tolist() == [blue, white, red, between, white, red, white]


def test_a_filter_of_the_stem_is_in_its_colours() -> None:
    pixels = sheet(_shown(np.array([[[[1.0, -1.0, 0.0]]], [[[0.0, 0.0, 0.0]]]])), columns=1)
    assert pixels[:, 0].tolist() == [[255, 0, 128], [215] * 3, [128] * 3]


def test_a_sheet_is_cut_into_rows_and_shows_as_many_as_are_asked_for() -> None:
    images = np.ones((10, 3, 4))
    assert sheet(_shown(images), columns=4).shape == (3 * 4 - 1, 4 * 5 - 1, 3)
    assert sheet(_shown(images), columns=4, most=3).shape == (3, 3 * 5 - 1, 3)


def test_png_and_svg_hold_the_same_pixels() -> None:
    import base64
    import re
    from xml.etree import ElementTree

    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    large = np.asarray(Image.open(io.BytesIO(as_png(pixels, 3))))
    assert np.array_equal(large, pixels.repeat(3, 0).repeat(3, 1))
    svg = as_svg(pixels, 3, "a < b")
    assert ElementTree.fromstring(svg)[0].text == "a < b"
    (data,) = re.findall(rb"base64,([^\"]*)", svg)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), pixels)


# --- the command ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mixer_converters.canonical import save

    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save(path, SPEC, initial(SPEC))
    return path


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["pictures", *arguments])


@pytest.mark.parametrize("form", ["png", "svg"])
def test_the_command_writes_a_picture_for_each_layer(
    form: str, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    answer = _run(str(model), "--out", str(out), "--format", form, "--units", "4", "--json")
    assert answer.exit_code == 0, answer.exception
    told = json.loads(answer.stdout)["pictures"]
    assert [Path(each["file"]).name for each in told] == [
        f"stem.{form}",
        *(f"blocks.{i}.token_mixing.dense_0.{form}" for i in range(2)),
    ]
    assert {path.name for path in out.iterdir()} == {Path(each["file"]).name for each in told}
    assert all(len(each["order"]) == 4 for each in told)
    assert "cycles" in _run(str(model), "--out", str(out)).stdout


def test_the_command_draws_the_blocks_that_are_asked_for(model: Path, tmp_path: Path) -> None:
    answer = _run(str(model), "--out", str(tmp_path), "--blocks", "1", "--json")
    names = [each["kernel"] for each in json.loads(answer.stdout)["pictures"]]
    assert names == ["stem.kernel", "blocks.1.token_mixing.dense_0.kernel"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--blocks", "one"), "expected 0,1,2 or all, got 'one'"),
        (("--columns", "3"), "must be even, so that pairs stay together, got 3"),
    ],
)
def test_the_command_refuses_bad_input(
    arguments: tuple[str, ...], message: str, model: Path, tmp_path: Path
) -> None:
    answer = _run(str(model), "--out", str(tmp_path), *arguments)
    assert message in str(answer.exception)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_an_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = _run(str(model), "--out", str(tmp_path / "file"))
    assert "cannot be made" in str(answer.exception)
