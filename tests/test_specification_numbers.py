"""The Python in the specification computes what the code computes, and a wrong constant is found."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, get_args

import numpy as np
import pytest

from mixer_conformance import conformance_inputs, conformance_weights
from mixer_conformance.cases import exact
from mixer_conformance.cases.zoo import PROBE
from mixer_conformance.floors import step_floor
from mixer_conformance.measure import Deviation, deviation
from mixer_conformance.tolerance import Judgement, Tolerance, default_batch, yardstick_runs
from mixer_spec import layers
from mixer_spec._fields import field_types
from mixer_spec.graph import place
from mixer_spec.layers import AnyLayer
from mixer_spec.preprocess import (
    PIPELINES,
    FloatResample,
    PillowResample,
    Preprocessing,
    ResizeAndCrop,
    Squash,
    preprocess,
)
from mixer_spec.reference import FLOAT64, backward, forward, gradient_sizes
from mixer_spec.reference.forward import run_node
from mixer_spec.reference.optimisers import UPDATE
from mixer_spec.reference.training import cross_entropy
from mixer_spec.shapes import Table
from mixer_spec.training import AdamW, CrossEntropy, Momentum, Sgd
from mixer_spec.weights import digest
from tests.specification_text import (
    KINDS,
    PAGES,
    SMALL,
    close,
    rows,
    run,
    spec_of,
    text_weight,
)


@pytest.fixture(scope="module")
def text() -> dict[str, Any]:
    return run(PAGES)


# --- layers and models ----------------------------------------------------------------------

ODD_LAYERS: dict[str, tuple[AnyLayer, tuple[int, int]]] = {
    "epsilon": (layers.LayerNorm(epsilon=0.5), (3, 5)),
    "token epsilon": (layers.TokenNorm(epsilon=0.5), (3, 5)),
    "erf": (layers.Gelu(approximation="none"), (3, 5)),
    "tanh": (layers.Gelu(approximation="tanh"), (3, 5)),
    "first token half": (
        layers.GatedUnit(axis="token", gate="first", activation=layers.Silu()),
        (6, 3),
    ),
    "second channel half": (
        layers.GatedUnit(axis="channel", gate="second", activation=layers.Silu()),
        (3, 6),
    ),
    "three groups": (layers.GroupChannels(groups=3), (4, 6)),
    "three groups back": (layers.UngroupChannels(groups=3), (6, 4)),
    "one head": (layers.Attention(heads=1), (4, 6)),
    "six heads": (layers.Attention(heads=6), (4, 6)),
    "a low window": (layers.DepthwiseConv(window=(1, 5)), (6, 2)),
    "last token": (layers.TakeToken(index=3), (4, 6)),
}


def check_layers(text: dict[str, Any]) -> None:
    """Each layer by itself on numbers up to 4."""
    generator = np.random.default_rng(0)
    for layer, (tokens, channels) in ODD_LAYERS.values():
        table = Table(tokens=tokens, channels=channels, grid=(2, tokens // 2))
        problems: list[str] = []
        (node,) = place([layer], table, "", problems) or ()
        weights = {
            name: generator.uniform(-2, 2, parameter.shape) for name, parameter in node.parameters()
        }
        x = generator.uniform(-4, 4, (1, tokens, channels))
        expected = run_node(node, weights, x, FLOAT64)[0]
        own = {name.removeprefix(f"{node.path}."): w.tolist() for name, w in weights.items()}
        found = text["KINDS"][layer.kind](layer.to_data(), own, x[0].tolist(), table.grid)
        assert close(np.reshape(found, expected.shape), expected), layer


def check_models(text: dict[str, Any], names: list[str]) -> None:
    """Every tap of the text's own forward pass, with the text's own weights and inputs."""
    for name in names:
        spec = spec_of(name)
        weights, inputs = conformance_weights(spec), conformance_inputs(spec, 1)
        lists = {n: text_weight(text, spec, n).tolist() for n in weights}
        expected = forward(spec, weights, inputs, spec.taps)
        found = text["forward"](json.loads(spec.to_json()), lists, inputs[0].tolist())
        assert list(found) == list(spec.taps)
        for tap, table in found.items():
            assert close(table, expected[tap][0]), (name, tap)


def test_layers_are_those_of_the_reference(text: dict[str, Any]) -> None:
    assert text["KINDS"].keys() == KINDS.keys()
    check_layers(text)


def test_models_of_the_zoo_are_those_of_the_reference(text: dict[str, Any]) -> None:
    used = {node.layer.kind for name in SMALL for node in spec_of(name).nodes()}
    assert used == KINDS.keys()
    check_models(text, SMALL)


def test_constants_of_layers_are_those_of_mathematics(text: dict[str, Any]) -> None:
    assert text["SQRT_2_OVER_PI"] == math.sqrt(2 / math.pi)
    assert text["SQRT_HALF"] == math.sqrt(0.5)


# --- weights --------------------------------------------------------------------------------


def check_weights(text: dict[str, Any]) -> None:
    """The bits of conformance weights, inputs and digests."""
    for name in ("mixer", "resmlp", "vit", "words", "conv"):
        spec = spec_of(name)
        for weight, array in conformance_weights(spec).items():
            assert np.array_equal(text_weight(text, spec, weight), array), weight
    for seed in (0, 5, -1):
        numbers = conformance_inputs(spec_of("mixer"), 2, seed).ravel()
        assert text["conformance_numbers"](seed, "images", numbers.size) == numbers.tolist()


def test_conformance_weights_are_those_of_the_suite(text: dict[str, Any]) -> None:
    check_weights(text)


def test_digest_and_logits_of_the_text_are_those_of_the_code(text: dict[str, Any]) -> None:
    page, spec = PAGES["specification/weights.md"], spec_of("mixer")
    weights = conformance_weights(spec)
    stored = {n: ("float32", list(w.shape), w.tobytes()) for n, w in weights.items()}
    assert text["digest"](stored) == digest(weights)
    assert f"```text\n{digest(weights)}\n```" in page
    told = [float(word) for word in re.findall(r"```text\n([-\d. \n]+)```", page)[0].split()]
    logits = forward(spec, weights, conformance_inputs(spec, 1))["logits"]
    np.testing.assert_allclose(told, logits[0], rtol=1e-13)


def check_whole_numbers(text: dict[str, Any], page: str) -> None:
    """The weights of the exact probes, as the table of F02 has them."""
    spec, checked = spec_of(PROBE), 0
    probes: dict[str, Any] = {
        "stem": exact._stem(spec)[0],
        "a branch of block 1": exact._branch(spec, "channel_mixing")[0],
        "head": exact._head(spec)[0],
    }
    for probe, told, values, _ in rows(page, "probe | tensor"):
        factor, width, least = re.fullmatch(r"`([\d^]+ )?whole\((\d+), (-?\d+)\)`", values).groups()
        for name in re.findall(r"`([\w.]+)`", told):
            path = f"blocks.1.channel_mixing.{name}" if "branch" in probe else name
            array = exact._stem(spec)[1] if name == "pixels" else probes[probe][path]
            mine = text["whole"](path, array.size, int(width), int(least))
            base, _, power = (factor or "1").partition("^")
            expected = np.multiply(mine, int(base) ** int(power or 1))
            assert np.array_equal(expected, array.ravel()), name
            checked += 1
    assert checked == 11


def test_whole_numbers_are_those_of_the_exact_probes(text: dict[str, Any]) -> None:
    check_whole_numbers(text, PAGES["specification/cases.md"])
    wrong = PAGES["specification/cases.md"].replace("`8 whole(3, 1)`", "`8 whole(3, 2)`")
    with pytest.raises(AssertionError):
        check_whole_numbers(text, wrong)


# --- measure and training -------------------------------------------------------------------


def check_measure(text: dict[str, Any]) -> None:
    """Deviation, floors, tolerance and margin."""
    generator = np.random.default_rng(1)
    oracle = generator.normal(size=(3, 7))
    oracle[2] = 0.0
    found = oracle + 1e-5 * generator.normal(size=oracle.shape) * (oracle != 0)
    for one in (found, np.where(oracle > 1, np.nan, found)):
        measured = deviation(one, oracle)
        assert text["deviation"](one.tolist(), oracle.tolist()) == pytest.approx(
            (measured.rms, measured.max), rel=1e-12
        )
    for yardstick, floor in ((Deviation(1e-7, 3e-7, ()), 2e-7), (Deviation(1e-6, 9e-6, ()), 2e-7)):
        allowed = Tolerance(yardstick, floor, 40)
        mine = text["tolerance"]((yardstick.rms, yardstick.max), floor, 40)
        assert mine == pytest.approx((allowed.rms, allowed.max), rel=1e-12)
        judged = Judgement(Deviation(2e-6, 2e-6, ()), allowed)
        assert text["margin"]((2e-6, 2e-6), mine) == pytest.approx(judged.margin, rel=1e-12)
    for adds in (0, 4_999_999, 5_000_000, 9 * 10**9, 10**11, 10**11 + 1):
        fake: Any = type("Spec", (), {"multiply_adds": adds})
        assert text["yardstick_runs"](adds) == yardstick_runs(fake)
        assert text["batch_size"](adds) == (3 if adds < 5_000_000 else default_batch(fake))


def check_floors(text: dict[str, Any]) -> None:
    for name in SMALL:
        spec = spec_of(name)
        weights, x = conformance_weights(spec), conformance_inputs(spec, 2)
        x = x.astype(np.float64) if x.dtype == np.float32 else x  # words are whole numbers
        for step in spec.steps:
            for node in step.nodes:
                y = run_node(node, weights, x, FLOAT64)
                shape = getattr(node.incoming, "shape", (1, 1))
                tokens, channels = shape if len(shape) == 2 else (1, shape[0])
                if isinstance(node.layer, layers.PatchEmbed):
                    channels = math.prod(node.own_parameters["kernel"].shape[:3])
                added = y
                if isinstance(node.layer, layers.PatchEmbed | layers.LinearEmbed | layers.Head):
                    squares = {name: np.square(w, dtype=np.float64) for name, w in weights.items()}
                    added = np.sqrt(
                        run_node(node, squares, np.square(x, dtype=np.float64), FLOAT64)
                    )
                rows = [a.reshape(len(a), -1).tolist() for a in (x, y, added)]
                floor = text["layer_floor"](node.layer.to_data(), tokens, channels, *rows)
                expected = step_floor(node, weights, x, y)
                # Both add up squares, in other orders: one rounding of a float64 for each of them.
                rounded = max(x.size, y.size, added.size) * 2**-53
                assert floor == pytest.approx(expected, rel=rounded, abs=0), node.path
                x = y


def check_training(text: dict[str, Any]) -> None:
    """Loss and updates, value by value."""
    generator = np.random.default_rng(2)
    logits = generator.normal(size=(3, 5))
    labels = np.array([4, 0, 2])
    for smoothing in (0.0, 0.125):
        mine = text["cross_entropy"](logits.tolist(), labels.tolist(), smoothing)
        right = cross_entropy(CrossEntropy(label_smoothing=smoothing), logits, labels)
        assert mine[0] == pytest.approx(right[0], rel=1e-13)
        assert close(mine[1], right[1])
    made: Any
    for made in (
        Sgd(learning_rate=0.25),
        Momentum(learning_rate=0.25, decay=0.9, form="classical"),
        Momentum(learning_rate=0.25, decay=0.9, form="nesterov"),
        AdamW(learning_rate=0.25, beta1=0.9, beta2=0.99, epsilon=1e-2, weight_decay=0.5,
              decayed=("kernel",)),
    ):  # fmt: skip
        for name in ("head.kernel", "head.bias"):
            w, g, *slots = generator.uniform(0.1, 1, 2 + len(made.slots))
            after, remembered = UPDATE[type(made)](
                made, name, 3, np.float64(w), np.float64(g), tuple(slots)
            )
            mine = text[made.kind](made.to_data(), name, 3, w, g, *slots)
            mine = mine if isinstance(mine, tuple) else (mine,)
            assert close(mine, [after, *remembered]), made


def test_measure_is_that_of_the_suite(text: dict[str, Any]) -> None:
    check_measure(text)
    check_floors(text)


def test_training_is_that_of_the_reference(text: dict[str, Any]) -> None:
    check_training(text)
    spec = spec_of("mixer")
    given = (spec, conformance_weights(spec), conformance_inputs(spec, 3))
    cotangent = np.arange(21.0).reshape(3, 7) - 9
    pooled = forward(*given, ["pooled"])["pooled"]
    exact = backward(*given, {"logits": cotangent}).weights
    sizes = gradient_sizes(*given, {"logits": cotangent})
    products = list(zip(pooled[:, 2], cotangent[:, 4], strict=True))
    assert text["gradient"](products) == pytest.approx(exact["head.kernel"][2, 4])
    assert text["gradient_size"](products) == pytest.approx(sizes["head.kernel"][2, 4])
    for part in (CrossEntropy, Sgd, Momentum, AdamW):
        (row,) = (r for r in rows(PAGES["specification/training.md"], "kind | fields")
                  if r[0] == f"`{part.kind}`")  # fmt: skip
        for word in (*(f.name for f in fields(part)), *getattr(part, "slots", ())):
            assert f"`{word}`" in " ".join(row)


# --- preprocessing --------------------------------------------------------------------------


def photo(*size: int) -> Any:
    return np.random.default_rng(size[0]).integers(0, 256, (*size, 3)).astype(np.uint8)


def every_way() -> Iterator[Preprocessing]:
    """The official pipelines, and every filter there is."""
    yield from PIPELINES.values()
    half = PIPELINES["timm_inception"]
    filters = get_args(field_types(PillowResample)["filter"])
    hows: list[Any] = [PillowResample(filter=name) for name in filters]
    for name in get_args(field_types(FloatResample)["filter"]):
        for antialias in ("off",) if name in ("nearest", "area") else ("off", "on"):
            hows.append(FloatResample(filter=name, antialias=antialias, values="kept"))
    for how in hows:
        yield dataclasses.replace(half, geometry=Squash(resample=how))


def check_preprocessing(text: dict[str, Any]) -> None:
    """Photos that are high, wide and small: the same pixels, but for float32's last bit."""
    for size in ((32, 21), (17, 43), (5, 7)):
        for how in every_way():
            expected = preprocess(photo(*size), how, (8, 12))
            found = text["preprocess"](photo(*size).tolist(), (8, 12), how.to_data())
            moved = np.abs(np.array(found) - expected).max()
            assert moved <= 2.0**-21, (size, how)


def test_preprocessing_is_that_of_the_code(text: dict[str, Any]) -> None:
    check_preprocessing(text)


def test_sizes_of_resize_and_crop_are_those_of_the_code(text: dict[str, Any]) -> None:
    for long_side, offset in itertools.product(("floor", "half_even"), repeat=2):
        geometry = ResizeAndCrop(
            crop_fraction=0.9,
            long_side=long_side,
            offset=offset,
            resample=FloatResample(filter="nearest", antialias="off", values="kept"),
        )
        how = dataclasses.replace(PIPELINES["vit_jax"], geometry=geometry)
        for old in itertools.product(range(1, 20, 3), repeat=2):
            expected = preprocess(photo(*old), how, (6, 7))
            found = text["preprocess"](photo(*old).tolist(), (6, 7), how.to_data())
            assert np.array_equal(found, expected), (old, geometry)


# --- a text that is wrong is found ----------------------------------------------------------

FALSE: list[tuple[str, str, Callable[[dict[str, Any]], None]]] = [
    ("CUBIC = 0.044715", "CUBIC = 0.044714", check_layers),
    ("math.sqrt(variance + epsilon)", "(math.sqrt(variance) + epsilon)", check_layers),
    ("for v in values) / len(values)\n    return", "for v in values) / (len(values) - 1)\n    return",
     check_layers),
    ("score / math.sqrt(size)", "score / size", check_layers),
    ("i - height // 2, c + j", "i - height // 2, c - j", check_layers),
    ("halves[::-1]", "halves", check_layers),
    ('f"transitions.{number}"', '"transitions.0"', lambda text: check_models(text, ["pyramid"])),
    ("return w[\"embedding\"] + x", "return x + w[\"embedding\"]",
     lambda text: check_models(text, ["vit"])),
    ('"scale": (1.0, 32, 7)', '"scale": (1.0, 32, 8)', check_weights),
    ("0xBF58476D1CE4E5B9", "0xBF58476D1CE4E5B8", check_weights),
    ("K_RMS = 4.0", "K_RMS = 5.0", check_measure),
    ("math.log(values)", "math.log(values + 1)", check_measure),
    ("return 0.41 * math.sqrt(n + 2)", "return 0.41 * math.sqrt(n)", check_floors),
    ("summed(C) * max(1.0, ratio(added, outgoing))", "summed(C)", check_floors),
    ("(math.sqrt(second) + o[\"epsilon\"])", "math.sqrt(second + o[\"epsilon\"])", check_training),
    ("target = [smoothing / len(row)", "target = [smoothing", check_training),
    ("2.5) * x * x + 1", "2.5) * x * x + 1.01", check_preprocessing),
    ("+ 2**21) >> 22", "+ 2**20) >> 22", check_preprocessing),
    ("max(0, 2 * fewer_columns)", "2 * old[0]", check_preprocessing),
    ("columns = list(zip(*b))", "columns = list(b)", check_layers),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(FALSE)))
def test_wrong_text_is_found(number: int) -> None:
    right, wrong, check = FALSE[number]
    pages = {name: page.replace(right, wrong) for name, page in PAGES.items()}
    assert pages != PAGES
    with pytest.raises((AssertionError, KeyError)):
        check(run(pages))
