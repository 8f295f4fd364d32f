"""Recipes: the paper's table row by row, JSON both ways, schedules against closed forms."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import math

import jsonschema
import numpy as np
import pytest

from mixer_spec import ModelSpec, SpecError, UnknownNameError, families, variant
from mixer_spec.recipe import (
    ClipByGlobalNorm,
    NewWeights,
    NoStochasticDepth,
    Recipe,
    SigmoidCrossEntropy,
    StochasticDepth,
    changed,
)
from mixer_spec.recipe_parts import InceptionCrop, Mixup, NoAugmentation, NoMixup, RandAugment
from mixer_spec.recipes import RECIPES, bit_hyperrule, named_recipe, recipe
from mixer_spec.schedule import Constant, Cosine, Linear, Schedule, Stairs, learning_rate
from mixer_spec.schema import recipe_schema, recipe_schema_text
from mixer_spec.stochastic_depth import branch_factors, drop_rates
from mixer_spec.training import AdamW, Momentum

VALIDATOR = jsonschema.Draft202012Validator(recipe_schema())
TINY = families.mixer(
    image_size=8, patch=4, channels=6, depth=3, token_hidden=5, channel_hidden=7, classes=10
)

# arXiv:2105.01601v4, table 4: model, epochs, lr, wd, RandAugment, mixup, stochastic depth.
TABLE_4 = {
    "mixer_b_i1k": ("mixer_b16", 300, 0.001, 0.1, 15, 0.5, 0.1),
    "mixer_l_i1k": ("mixer_l16", 300, 0.001, 0.1, 15, 0.5, 0.1),
    "mixer_b_i21k": ("mixer_b16", 300, 0.001, 0.1, 10, 0.2, 0.1),
    "mixer_l_i21k": ("mixer_l16", 300, 0.001, 0.1, 20, 0.5, 0.1),
    "mixer_s_jft": ("mixer_s16", 5, 0.003, 0.03, None, None, None),
    "mixer_b_jft": ("mixer_b16", 7, 0.003, 0.03, None, None, None),
    "mixer_l_jft_7": ("mixer_l16", 7, 0.001, 0.03, None, None, None),
    "mixer_l_jft_14": ("mixer_l16", 14, 0.001, 0.03, None, None, None),
    "mixer_h_jft": ("mixer_h14", 14, 0.001, 0.03, None, None, None),
}
IMAGES = {"i1k": 1_281_167 * 99 // 100, "i21k": 14_197_122, "jft": 300_000_000}


@pytest.mark.parametrize("name", TABLE_4)
def test_row_of_table_4(name: str) -> None:
    model, epochs, rate, decay, randaugment, mixup, depth = TABLE_4[name]
    found = named_recipe(name)
    assert found.model == model
    assert variant(model).spec()
    row = found.recipe
    assert isinstance(row.optimiser, AdamW)
    assert (row.optimiser.learning_rate, row.optimiser.weight_decay) == (rate, decay)
    assert (row.optimiser.beta1, row.optimiser.beta2) == (0.9, 0.999)
    assert (row.batch, row.clip) == (4096, ClipByGlobalNorm(norm=1.0))
    assert row.data.image_size == (224, 224)
    assert row.schedule == Schedule(warm_up=10_000, decay=Linear(end=1e-5, end_is="relative"))
    assert row.steps == epochs * IMAGES[name.split("_")[2]] // 4096
    assert isinstance(row.data.crop, InceptionCrop)
    if randaugment is None:
        assert row.augment == NoAugmentation()
        assert (row.mixup, row.stochastic_depth) == (NoMixup(), NoStochasticDepth())
    else:
        assert row.augment == RandAugment(layers=2, magnitude=randaugment, flavour="google")
        assert row.mixup == Mixup(strength=mixup, share="larger", partner="previous")
        assert row.stochastic_depth == StochasticDepth(
            rate=depth, grows="per_branch", rescale="none"
        )


def test_table_4_is_the_beginning_of_the_recipes() -> None:
    assert list(RECIPES)[: len(TABLE_4)] == list(TABLE_4)


def test_code_and_paper_decay_the_same() -> None:
    """big_vision's 1e-4 times the schedule is the paper's 0.1 times the learning rate."""
    code, paper = recipe("big_vision_i1k"), recipe("mixer_b_i1k")
    assert code.optimiser != paper.optimiser
    assert code.optimiser_by_rate == paper.optimiser_by_rate
    assert code.loss == SigmoidCrossEntropy()
    assert code.init == NewWeights(head_bias=-6.9)


@pytest.mark.parametrize("name", RECIPES)
def test_json_goes_both_ways_and_fits_the_schema(name: str) -> None:
    found = recipe(name)
    text = found.to_json()
    assert Recipe.from_json(text) == found
    assert Recipe.from_json(text).fingerprint == found.fingerprint
    VALIDATOR.validate(json.loads(text))


def test_fingerprints_are_equal_exactly_where_recipes_are() -> None:
    recipes = [recipe(name) for name in RECIPES]
    for one in recipes:
        for other in recipes:
            assert (one.fingerprint == other.fingerprint) == (one == other)


def test_shipped_schema_equals_the_generated_one() -> None:
    shipped = importlib.resources.files("mixer_spec").joinpath("recipe.schema.json")
    assert shipped.read_text(encoding="utf-8") == recipe_schema_text(), (
        "run: python -m mixer_spec schema recipe > mixer_spec/recipe.schema.json"
    )


def test_every_mistake_is_named_at_once() -> None:
    data = json.loads(recipe("digits").to_json())
    data["optimiser"]["learning_rate"] = -1
    data["mixup"]["partner"] = "any"
    data["colour"] = 1
    del data["seed"]
    with pytest.raises(SpecError) as caught:
        Recipe.from_json(json.dumps(data))
    said = str(caught.value)
    for part in (
        "optimiser: learning_rate is too small",
        "mixup: partner must be one of ['previous', 'opposite'], got 'any'",
        "unknown field 'colour'",
        "missing field 'seed'",
    ):
        assert part in said


def test_newer_version_is_refused() -> None:
    data = json.loads(recipe("digits").to_json()) | {"recipe_version": 2}
    with pytest.raises(SpecError, match="recipe_version is newer than this mixer_spec"):
        Recipe.from_json(json.dumps(data))


def test_parts_and_warm_up_must_fit() -> None:
    with pytest.raises(SpecError) as caught:
        changed(recipe("digits"), {"accumulation": "3", "steps": "20"})
    assert "expected a multiple of accumulation 3, got 64" in str(caught.value)
    assert "schedule.warm_up is longer than the training; expected at most 20" in str(caught.value)


def test_changed_names_fields_that_are_not_there() -> None:
    with pytest.raises(SpecError, match=r"optimiser.rate: there is no such field; .*learning_rate"):
        changed(recipe("digits"), {"optimiser.rate": "1"})
    assert changed(recipe("digits"), {"compute": "bfloat16"}).compute == "bfloat16"


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="mixer_b_i1k"):
        recipe("mixer_b_ik")


# --- schedules ------------------------------------------------------------------------------


def rates_of(
    decay: object, *, warm_up: int = 0, steps: int = 100, peak: float = 2.0
) -> list[float]:
    schedule = Schedule(warm_up=warm_up, decay=decay)
    return [learning_rate(schedule, step, steps=steps, peak=peak) for step in range(steps)]


def test_linear_decay_against_its_closed_form() -> None:
    found = rates_of(Linear(end=0.1, end_is="relative"), warm_up=10)
    for step, rate in enumerate(found):
        progress = max(0.0, (step - 10) / 90)
        assert rate == (0.2 + 1.8 * (1 - progress)) * min(1, step / 10)
    assert found[0] == 0.0


def test_end_of_a_schedule_is_relative_or_absolute() -> None:
    left = 1 - 999 / 1000  # the end is behind the last step
    relative, absolute = Linear(end=0.5, end_is="relative"), Linear(end=0.5, end_is="absolute")
    assert rates_of(relative, steps=1000)[-1] == 1.0 + 1.0 * left
    assert rates_of(absolute, steps=1000)[-1] == 0.5 + 1.5 * left


def test_cosine_decay_against_its_closed_form() -> None:
    found = rates_of(Cosine(end=0.0, end_is="absolute"), warm_up=20)
    for step in range(20, 100):
        assert found[step] == 1 + math.cos(math.pi * ((step - 20) / 80))


def test_stairs_go_down_behind_each_boundary() -> None:
    found = rates_of(Stairs(boundaries=(10, 20), factor=0.1), peak=1.0)
    assert found[:11] == [1.0] * 11
    assert found[11:21] == [0.1] * 10
    assert found[21:] == [0.1**2] * 79


def test_constant_is_the_peak() -> None:
    assert rates_of(Constant()) == [2.0] * 100


@pytest.mark.parametrize(
    ("examples", "steps", "stairs", "mixup"),
    [
        (1_000, 500, (200, 300, 400), False),
        (19_999, 500, (200, 300, 400), False),
        (20_000, 10_000, (3_000, 6_000, 9_000), True),
        (500_000, 20_000, (6_000, 12_000, 18_000), True),
    ],
)
def test_bit_hyperrule(examples: int, steps: int, stairs: tuple[int, ...], mixup: bool) -> None:
    rule = bit_hyperrule(examples=examples, pixels=300 * 300)
    assert isinstance(rule.optimiser, Momentum)
    assert (rule.optimiser.learning_rate, rule.optimiser.decay) == (0.003, 0.9)
    assert rule.steps == steps
    assert isinstance(rule.schedule.decay, Stairs)
    assert rule.schedule.decay.boundaries == stairs
    assert rule.schedule.warm_up == (100 if steps == 500 else 500)
    assert isinstance(rule.mixup, Mixup) is mixup
    assert rule.data.image_size == (480, 480)
    assert bit_hyperrule(examples=examples, pixels=32 * 32).data.image_size == (128, 128)


def test_vtab_is_the_rule_of_500_steps_without_mixup() -> None:
    for name, size in (("vtab", 224), ("vtab_448", 448)):
        assert recipe(name).steps == 500
        assert recipe(name).mixup == NoMixup()
        assert recipe(name).data.image_size == (size, size)


# --- stochastic depth -----------------------------------------------------------------------


def with_depth(rescale: str, rate: float = 0.5) -> Recipe:
    return dataclasses.replace(
        changed(recipe("digits"), {"batch": "4000"}),
        stochastic_depth=StochasticDepth(rate=rate, grows="per_branch", rescale=rescale),
    )


def test_branches_are_left_out_as_often_as_the_recipe_says() -> None:
    settings = with_depth("none")
    assert isinstance(settings.stochastic_depth, StochasticDepth)
    factors = branch_factors(TINY, settings, 3)
    assert factors is not None
    assert factors.shape == (4000, 6)
    assert set(np.unique(factors)) == {0.0, 1.0}
    rates = np.array(drop_rates(TINY, settings.stochastic_depth))
    error = np.sqrt(rates * (1 - rates) / 4000)  # the standard error of a share of 4000 draws
    assert (abs(factors.mean(axis=0) - (1 - rates)) <= 3 * error).all()


def test_rescaling_keeps_the_mean() -> None:
    settings = with_depth("kept")
    assert isinstance(settings.stochastic_depth, StochasticDepth)
    factors = branch_factors(TINY, settings, 3)
    assert factors is not None
    rates = np.array(drop_rates(TINY, settings.stochastic_depth))
    error = np.sqrt(rates / (1 - rates) / 4000)  # of the mean of what is 0 or 1 / (1 - rate)
    assert (abs(factors.mean(axis=0) - 1) <= 3 * error).all()


def test_draws_depend_on_seed_and_step_only() -> None:
    settings = with_depth("none")
    first = branch_factors(TINY, settings, 3)
    assert np.array_equal(first, branch_factors(TINY, settings, 3))
    assert not np.array_equal(first, branch_factors(TINY, settings, 4))
    other = dataclasses.replace(settings, seed=1)
    assert not np.array_equal(first, branch_factors(TINY, other, 3))
    assert branch_factors(TINY, recipe("digits"), 3) is None


def test_small_recipes_bring_their_model() -> None:
    for name in ("digits", "fashion_mnist"):
        found = named_recipe(name)
        assert isinstance(found.model, ModelSpec)
        assert found.model.classes == 10
    assert named_recipe("fashion_mnist").model.parameter_count * 4 < 2e6
