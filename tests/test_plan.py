"""Plans against figures that were worked out by hand, and what the command says of them."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mixer_spec import variant
from mixer_spec.cli import app
from mixer_spec.errors import InputError, UnknownNameError
from mixer_spec.hardware import HARDWARE, hardware
from mixer_spec.input_cost import measure_input, photo
from mixer_spec.plan import EFFICIENCY, kept_values, plan
from mixer_spec.recipe import MovingAverage
from mixer_spec.recipes import recipe

command = importlib.import_module("mixer_spec.commands.plan")
GIB = 2**30
ROUNDED = 2**-49  # relative: at most 16 roundings of a float64, 2^-53 each
H14, V5E = variant("H/14").spec(classes=1000), hardware("v5e")
JFT = recipe("mixer_h_jft")
H14_WEIGHTS = 432_350_952
# of the paper's table 1: blocks, tokens, channels, hidden units of token and channel mixing
SIZES = {
    "B/16": (12, 196, 768, 384, 3072),
    "L/16": (24, 196, 1024, 512, 4096),
    "H/14": (32, 256, 1280, 640, 5120),
}


def is_written(value: float, text: str) -> bool:
    """Whether a number is the one that was written by hand, to its last digit."""
    return f"{value:.{len(text.partition('.')[2])}f}" == text


def kept_by_hand(name: str) -> tuple[int, int]:
    """Values of one image that are kept: all, and where blocks are computed again."""
    depth, tokens, channels, token_hidden, channel_hidden = SIZES[name]
    table = tokens * channels
    block = 4 * table + 2 * channels * token_hidden + 2 * tokens * channel_hidden
    outside = 3 * 224**2 + table + channels
    return outside + depth * block, outside + depth * table + block


@pytest.mark.parametrize(
    ("name", "gmac", "gflop", "state_gib"),
    # worked out by hand from the paper's sizes, before this program was written
    [
        ("B/16", "12.6", "75.6", "0.67"),
        ("L/16", "44.5", "267", "2.33"),
        ("H/14", "121.0", "726", "4.83"),
    ],
)
def test_cost_of_the_papers_scales(name: str, gmac: str, gflop: str, state_gib: str) -> None:
    spec = variant(name).spec()
    assert is_written(spec.multiply_adds / 1e9, gmac)
    assert kept_values(spec) == kept_by_hand(name)
    found = plan(spec, JFT, V5E, chips=256)
    assert is_written(found.value("train GFLOP an image"), gflop)
    state = (found.value("weights") + found.value("optimiser")) * 1e9 / GIB
    assert is_written(state, state_gib)


def test_h14_on_256_chips_of_v5e() -> None:
    found = plan(H14, JFT, V5E, chips=256)
    assert is_written(found.value("step at 40%"), "147")
    assert round(found.value("images a second at 40%"), -2) == 27_800
    assert is_written(found.value("gradients") * 1e9 / GIB, "1.61")
    activations = 16 * 2 * kept_by_hand("H/14")[0] / 1e9
    assert found.value("activations") == pytest.approx(activations, rel=ROUNDED)
    sent = 2 * 4 * H14_WEIGHTS * 255 / 256 / 1e9
    assert found.value("sent by each chip a step") == pytest.approx(sent, rel=ROUNDED)
    assert is_written(found.value("time on the links a step"), "17")
    assert round(found.value("images a second and host at 40%"), -1) == 870
    assert found.fits


def test_sharding_and_rematerialisation_save_what_they_should() -> None:
    base = plan(H14, JFT, V5E, chips=256)
    sharded = plan(H14, JFT, V5E, chips=256, parameters="sharded")
    state = sharded.value("weights") + sharded.value("optimiser") + sharded.value("gradients")
    assert state * 1e9 == pytest.approx(16 * H14_WEIGHTS / 256, rel=ROUNDED)
    sent = "sent by each chip a step"
    assert sharded.value(sent) == pytest.approx(1.5 * base.value(sent), rel=ROUNDED)
    again = dataclasses.replace(JFT, rematerialise="blocks")
    found = plan(H14, again, V5E, chips=256)
    activations = 16 * 2 * kept_by_hand("H/14")[1] / 1e9
    assert found.value("activations") == pytest.approx(activations, rel=ROUNDED)
    assert found.value("step at 40%") == pytest.approx(
        base.value("step at 40%") * 8 / 6, rel=ROUNDED
    )


def test_every_setting_that_costs_memory_is_counted() -> None:
    base = plan(H14, JFT, V5E, chips=256)
    average = dataclasses.replace(JFT, average=MovingAverage(decay=0.999))
    assert plan(H14, average, V5E, chips=256).needed == pytest.approx(
        base.needed + base.value("weights"), rel=ROUNDED
    )
    parts = dataclasses.replace(JFT, accumulation=2)
    half = plan(H14, parts, V5E, chips=256).value("activations")
    assert half == pytest.approx(base.value("activations") / 2, rel=ROUNDED)
    momentum = plan(H14, recipe("finetune_imagenet"), V5E, chips=256)
    assert momentum.value("optimiser") == pytest.approx(base.value("optimiser") / 2, rel=ROUNDED)
    exact = dataclasses.replace(JFT, compute="float64")
    doubled = plan(H14, exact, V5E, chips=256)
    assert doubled.value("weights") == pytest.approx(2 * base.value("weights"), rel=ROUNDED)
    assert doubled.value("activations") == pytest.approx(4 * base.value("activations"), rel=ROUNDED)
    assert not doubled.fits


def test_one_chip_sends_nothing_and_cannot_hold_the_batch() -> None:
    found = plan(H14, JFT, V5E, chips=1)
    assert not any(figure.part == "links" for figure in found.figures)
    assert not found.fits


def test_the_efficiencies_follow_from_published_times() -> None:
    core = 61.5e12  # of TPUv3
    b16, h14 = (6 * variant(name).spec().multiply_adds for name in ("B/16", "H/14"))
    # 300 epochs of 99% of ImageNet on 128 cores in 2 h 11 min; 14 of JFT-300M in 1010 core-days
    small = 300 * 0.99 * 1_281_167 * b16 / (131 * 60 * 128 * core)
    large = 14 * 300e6 * h14 / (1010 * 86_400 * core)
    assert (round(small, 2), round(large, 2)) == (0.46, 0.57)
    assert EFFICIENCY[0] < small < EFFICIENCY[1] < large


@pytest.mark.parametrize("name", ["vit_b16", "gmlp_s16", "resmlp_24", "mixer_s16_pyramid"])
def test_other_architectures_keep_more_than_nothing_and_less_than_all(name: str) -> None:
    spec = variant(name).spec()
    kept = kept_values(spec)
    everything = sum(node.activations for step in spec.steps for node in step.nodes)
    assert 0.3 * everything < kept.whole < 1.5 * everything
    assert kept.by_blocks < kept.whole


@pytest.mark.parametrize(
    ("chips", "message"),
    [
        (257, "--chips must be 1 to 256, which one job can have, got 257"),
        (3, "expected a multiple of 3, got 4096"),
    ],
)
def test_chips_must_divide_the_batch_and_exist(chips: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(H14, JFT, V5E, chips=chips)


def test_figures_of_chips_are_found_by_the_names_that_people_type() -> None:
    assert hardware("TPU v5e") is hardware("V5E") is HARDWARE["v5e"]
    with pytest.raises(
        UnknownNameError, match="there is no such hardware; expected a name like v5"
    ):
        hardware("v5")


def test_preparing_an_image_is_measured_in_time_of_the_processor() -> None:
    assert 50_000 < len(photo()) < 250_000
    plain = recipe("mixer_h_jft")
    assert 0.5 < measure_input(plain, images=2) < 1000


# --- the command ----------------------------------------------------------------------------


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["plan", *arguments])


def test_the_command_plans_a_variant_by_its_own_recipe() -> None:
    answer = _run("--model", "H/14", "--chips", "256", "--hardware", "v5e", "--json")
    assert answer.exit_code == 0, answer.exception
    told = json.loads(answer.stdout)
    assert told["recipe"] == "mixer_h_jft"
    assert told["fits"] is True
    assert {figure["basis"] for figure in told["figures"]} == {
        *("arithmetic", "published", "measured")
    }
    assert all(figure["how"] for figure in told["figures"])


def test_the_command_says_that_nothing_was_measured_there() -> None:
    arguments = ("--model", "H/14", "--chips", "256", "--hardware", "v5e", "--no-measure")
    shown = _run(*arguments).stdout
    assert "planned, not measured, on this hardware" in shown
    assert "147.4" in shown
    assert "measured  " not in shown


def test_a_narrow_terminal_has_the_figures_and_is_told_where_their_formulas_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(command, "console", lambda: Console(file=shown, width=80))
    arguments = ("--model", "H/14", "--chips", "256", "--hardware", "v5e", "--no-measure")
    assert _run(*arguments).exit_code == 0
    table, formulas, _ = shown.getvalue().partition("the formula of each figure")
    assert formulas
    assert "147.4" in table
    assert max(map(len, table.splitlines())) <= 80
    assert len(table.splitlines()) < 25  # a line for each figure, none folded


def test_a_training_that_does_not_fit_is_a_negative_verdict_with_advice() -> None:
    arguments = ("--model", "H/14", "--chips", "8", "--hardware", "v5e", "--no-measure")
    answer = _run(*arguments)
    assert answer.exit_code == 1
    assert "does not fit" in answer.stdout
    assert "--parameters sharded" in answer.stdout
    advised = (
        "--parameters",
        "sharded",
        "--set",
        "rematerialise=blocks",
        "--set",
        "accumulation=8",
    )
    assert _run(*arguments, *advised).exit_code == 0


def test_the_command_takes_the_resolution_of_the_recipe() -> None:
    arguments = ("--model", "B/16", "--hardware", "h100", "--chips", "8", "--no-measure", "--json")
    small, large = (
        json.loads(_run(*arguments, "--recipe", name).stdout) for name in ("vtab", "vtab_448")
    )
    flops = [
        next(f["value"] for f in told["figures"] if f["unit"] == "GFLOP") for told in (small, large)
    ]
    head = 6 * 768 * 1000 / 1e9  # which has one token; token_hidden stays
    assert flops[1] == pytest.approx(4 * (flops[0] - head) + head, rel=ROUNDED)


def test_a_recipe_for_images_of_one_size_has_no_cost_of_photos() -> None:
    answer = _run(
        *("--model", "mixer_s16", "--hardware", "h200", "--recipe", "fashion_mnist", "--json"),
        *("--image-size", "32"),
    )
    assert answer.exit_code == 0, answer.exception
    assert not any("preparing" in f["name"] for f in json.loads(answer.stdout)["figures"])
