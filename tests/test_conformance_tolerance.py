"""Metrics, floors and the verdict, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from mixer_conformance.floors import UNIT_ROUNDOFF, root_sum_square, step_floor
from mixer_conformance.measure import Deviation, deviation
from mixer_conformance.tolerance import (
    K_MAX,
    K_RMS,
    Judgement,
    Tolerance,
    default_batch,
    worst,
    yardstick_runs,
)
from mixer_spec import ModelSpec, ablations, families, variant
from mixer_spec.blocks import NORM
from mixer_spec.graph import Node, Step
from mixer_spec.layers import ChannelDense, TokenNorm
from mixer_spec.model import Stage
from mixer_spec.reference import Shuffled, run_step
from mixer_spec.reference.layers import COMPUTE
from mixer_spec.shapes import TokenIds, Vectors

Array = np.ndarray[Any, Any]
SMALL = {"image_size": (8, 12), "patch": 4, "channels": 8, "depth": 1, "classes": 7}
HIDDEN = {"token_hidden": 5, "channel_hidden": 12}
SEQUENCE = {"channels": 8, "depth": 1, "classes": 7, **HIDDEN}


def every_family() -> list[ModelSpec]:
    return [
        families.mixer(**SMALL, token_hidden=5, channel_hidden=12),
        families.resmlp(**SMALL),
        families.gmlp(**SMALL),
        families.gmixer(**SMALL, token_hidden=10, channel_hidden=24),
        families.vit(**SMALL, heads=2, channel_hidden=12),
        families.feed_forward(**SMALL),
        ablations.mixer_untied(**SMALL, **HIDDEN),
        ablations.mixer_grouped(**SMALL, **HIDDEN, groups=2, views=True),
        ablations.resmlp_ablation(**SMALL, mixing="separable_conv", norm=NORM),
        families.sequence_mixer(**SEQUENCE, input=TokenIds(tokens=6, vocabulary=9)),
        families.sequence_mixer(**SEQUENCE, input=Vectors(tokens=6, channels=5)),
    ]


# --- metrics ----------------------------------------------------------------------------------


def test_the_worst_sample_is_not_diluted_by_the_others() -> None:
    oracle = np.ones((4, 10))
    found = oracle.copy()
    found[2] *= 1.5
    measured = deviation(found, oracle)
    assert measured == Deviation(0.5, 0.5, (2, 0))
    assert measured.pair == (1.0, 1.5)


def test_errors_are_relative_to_the_sample() -> None:
    oracle = np.array([[3.0, -4.0], [300.0, -400.0]])
    found = oracle + np.array([[0.5, 0.0], [0.5, 0.0]])
    size = math.sqrt(12.5)
    measured = deviation(found, oracle)
    assert measured.max == pytest.approx(0.5 / size)
    assert measured.rms == pytest.approx(0.5 / math.sqrt(2) / size)
    assert measured.worst == (0, 0)


@pytest.mark.parametrize("power", [-40, 40])
def test_a_power_of_two_changes_nothing(power: int) -> None:
    oracle = np.random.default_rng(0).normal(size=(2, 5, 3))
    found = oracle.astype(np.float32)
    scale = 2.0**power
    assert deviation(found * np.float32(scale), oracle * scale) == deviation(found, oracle)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["found", "oracle", "both"])
def test_exceptional_values_are_infinitely_far(bad: float, side: str) -> None:
    broken = np.ones((2, 3))
    broken[1, 2] = bad
    found = np.ones((2, 3)) if side == "oracle" else broken
    oracle = np.ones((2, 3)) if side == "found" else broken
    measured = deviation(found, oracle)
    assert measured == Deviation(math.inf, math.inf, (1, 2))
    assert not measured.finite


def test_a_zero_sample_must_be_met_exactly() -> None:
    oracle = np.array([[0.0, 0.0], [1.0, 1.0]])
    assert deviation(oracle.astype(np.float32), oracle) == Deviation(0.0, 0.0, (0, 0))
    assert deviation(oracle + np.array([[0.0, 1e-30], [0.0, 0.0]]), oracle).max > 1e250


def test_the_worst_of_several_runs_is_the_larger_of_each_metric() -> None:
    runs = [Deviation(1.0, 5.0, (0, 1)), Deviation(2.0, 4.0, (1, 0))]
    assert worst(runs) == Deviation(2.0, 5.0, (0, 1))


# --- the verdict ------------------------------------------------------------------------------


def judgement(rms: float, largest: float, *, yardstick: float, floor: float) -> Judgement:
    tolerance = Tolerance(Deviation(yardstick, 2 * yardstick, (0,)), floor, values=1000)
    return Judgement(Deviation(rms, largest, (0,)), tolerance)


def test_the_larger_of_yardstick_and_floor_counts() -> None:
    assert judgement(0, 0, yardstick=3.0, floor=1.0).tolerance.rms == K_RMS * 3.0
    assert judgement(0, 0, yardstick=1.0, floor=3.0).tolerance.rms == K_RMS * 3.0
    spread = math.sqrt(2 * math.log(1000))
    assert judgement(0, 0, yardstick=3.0, floor=0.1).tolerance.max == K_MAX * 6.0
    assert judgement(0, 0, yardstick=0.1, floor=3.0).tolerance.max == K_MAX * 3.0 * spread


def test_both_metrics_must_pass() -> None:
    assert judgement(K_RMS, 2 * K_MAX, yardstick=1.0, floor=0.0).passed
    assert not judgement(K_RMS * 1.001, 0.0, yardstick=1.0, floor=0.0).passed
    assert not judgement(0.0, 2 * K_MAX * 1.001, yardstick=1.0, floor=0.0).passed


def test_an_infinite_deviation_never_passes() -> None:
    failed = judgement(math.inf, math.inf, yardstick=1.0, floor=1.0)
    assert not failed.passed
    assert failed.margin == math.inf


def test_infinite_noise_excuses_nothing() -> None:
    assert not judgement(1.0, 1.0, yardstick=math.inf, floor=1.0).passed


def test_a_copy_must_be_exact() -> None:
    assert judgement(0.0, 0.0, yardstick=0.0, floor=0.0).passed
    assert not judgement(1e-30, 1e-30, yardstick=0.0, floor=0.0).passed


def test_bits_are_24_at_the_yardstick_and_infinite_when_exact() -> None:
    assert judgement(1.0, 0.0, yardstick=1.0, floor=9.0).bits == 24.0
    assert judgement(2.0**13, 0.0, yardstick=1.0, floor=9.0).bits == 11.0
    assert judgement(0.0, 0.0, yardstick=1.0, floor=1.0).bits == math.inf


def test_more_runs_for_smaller_models() -> None:
    runs = {name: yardstick_runs(variant(name).spec()) for name in ("S/32", "B/16", "L/16", "H/14")}
    assert runs == {"S/32": 8, "B/16": 3, "L/16": 1, "H/14": 1}
    assert default_batch(variant("L/16").spec()) == 2
    assert default_batch(variant("H/14").spec()) == 1


# --- floors -----------------------------------------------------------------------------------


def floor_of(node: Node, x: Array, y: Array) -> float:
    """In units of the roundoff, with weights of one."""
    weights = {name: np.ones(parameter.shape) for name, parameter in node.parameters()}
    return step_floor(node, weights, x, y) / UNIT_ROUNDOFF


def top_node(spec: ModelSpec, tap: str) -> Node:
    return next(step for step in spec.steps if step.tap == tap).nodes[-1]


ONES = np.ones((1, 6, 8))


def test_the_floor_of_a_sum_grows_with_its_root() -> None:
    spec = every_family()[0]
    for tap, x, terms in (
        ("stem", np.ones((1, *spec.input.shape)), 4 * 4 * 3),
        ("logits", ONES, 8),
    ):
        node = top_node(spec, tap)
        # With the bias, terms + 1 ones were added, whose squares add up to as much.
        added = math.sqrt(terms + 1) * np.ones((1, 7))
        assert floor_of(node, x, added) == pytest.approx(0.41 * math.sqrt(terms + 2))


def test_the_floor_of_a_sum_grows_with_cancellation() -> None:
    node = top_node(every_family()[0], "logits")
    whole, cancelled = (floor_of(node, ONES, size * ONES) for size in (3.0, 0.03))
    assert cancelled == pytest.approx(100 * whole)


def test_a_sum_in_which_nothing_cancels_has_no_smaller_floor() -> None:
    node = top_node(every_family()[0], "logits")
    assert floor_of(node, ONES, 9.0 * ONES) == pytest.approx(0.41 * math.sqrt(8 + 2))


def test_the_sample_that_cancels_most_decides() -> None:
    node = top_node(every_family()[0], "logits")
    two, result = np.ones((2, 8)), np.array([[3.0] * 7, [0.03] * 7])
    assert floor_of(node, two, result) == pytest.approx(floor_of(node, two[1:], result[1:]))


def test_every_kind_of_sum_counts_its_own_terms() -> None:
    untied, conv = every_family()[6], every_family()[8]
    layers = {node.path: node for spec in (untied, conv) for node in spec.nodes()}
    for path, terms in (
        ("blocks.0.token_mixing.dense_1", 5),  # the hidden tokens, once for each channel
        ("blocks.0.token_mixing.conv", 3 * 3),  # the window, whatever the grid
    ):
        found = floor_of(layers[path], ONES, ONES)
        assert found == 0.41 * math.sqrt(terms + 2), path


def test_a_norm_between_stages_counts_the_sums_of_its_statistics() -> None:
    spec = families.mixer(**SMALL, **HIDDEN)
    (stage,) = spec.stages
    for norm, terms in ((NORM, 8), (TokenNorm(epsilon=1e-6), 6)):
        behind = Stage(transition=(norm, ChannelDense(features=8)), block=stage.block, depth=1)
        pyramid = dataclasses.replace(spec, stages=(behind,))
        node = pyramid.steps[1].nodes[0]
        assert floor_of(node, ONES, ONES) == math.hypot(0.41 * math.sqrt(terms + 2), 4)


def test_a_table_that_is_looked_up_or_rearranged_is_a_copy() -> None:
    words, grouped = every_family()[9], every_family()[7]
    (branch,) = (n for n in grouped.nodes() if n.path == "blocks.0.token_mixing")
    rearranged = [node for node in branch.children if "group" in node.name]
    assert [node.name for node in rearranged] == ["group", "ungroup"]
    for node in (top_node(words, "stem"), *rearranged):
        assert floor_of(node, ONES, ONES) == 0.0


def test_the_floor_of_a_branch_counts_by_its_share_of_the_stream() -> None:
    node = top_node(every_family()[0], "blocks.0.token_mixing")
    branch = math.sqrt(4**2 + 0.41**2 * (6 + 2) + 4**2 + 0.41**2 * (5 + 2))
    for share in (0.0, 0.5, 1.0):
        found = floor_of(node, ONES * (1 - share), ONES)
        assert found == pytest.approx(math.hypot(branch * share, 1.0))


def test_the_floor_of_a_mean_grows_with_cancellation() -> None:
    node = top_node(every_family()[0], "pooled")
    assert floor_of(node, ONES, ONES[:, 0]) == pytest.approx(0.41 * math.sqrt(6 + 2))
    cancelled = floor_of(node, ONES, ONES[:, 0] / 100)
    assert cancelled == pytest.approx(41 * math.sqrt(6 + 2))


def test_taking_a_token_has_no_floor() -> None:
    assert floor_of(top_node(every_family()[4], "pooled"), ONES, ONES[:, 0]) == 0.0


def test_independent_errors_add_as_the_root_of_squares() -> None:
    assert root_sum_square(3.0, 4.0) == 5.0
    assert root_sum_square() == 0.0


def test_every_layer_kind_of_every_family_has_a_floor_near_the_measured_noise() -> None:
    seen = set()
    for spec in every_family():
        seen |= {type(node.layer) for node in spec.nodes()}
        for tap, floor, noise in _floors_and_noise(spec):
            if noise:
                assert 0.2 < floor / noise < 100, tap
    assert seen == set(COMPUTE)


def _floors_and_noise(spec: ModelSpec) -> list[tuple[str, float, float]]:
    """Each node's floor, and what one float32 evaluation of it deviates."""
    generator = np.random.default_rng(3)
    found = []
    for step in spec.steps:
        for node in step.nodes:
            one = Step(step.tap, (node,))
            weights = {
                name: (generator.normal(size=p.shape) / math.sqrt(p.fan_in or 4)).astype(np.float32)
                for name, p in node.parameters()
            }
            shape = (8, *node.incoming.shape)
            x: Array = generator.normal(size=shape).astype(np.float32)
            if isinstance(node.incoming, TokenIds):
                x = generator.integers(node.incoming.vocabulary, size=shape)
            y = run_step(one, weights, x)
            noisy = run_step(one, weights, x, Shuffled(0))
            found.append((node.path, step_floor(node, weights, x, y), deviation(noisy, y).rms))
    return found
