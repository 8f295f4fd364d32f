"""The tables of the layouts: nothing forgotten, nothing twice, and every row its own inverse."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from mixer_converters.layouts import LAYOUTS, Layout
from mixer_converters.layouts.document import markdown
from mixer_converters.layouts.infer import family_of, infer_spec, variant_of
from mixer_converters.layouts.layout import known_sizes, plain
from mixer_converters.layouts.rearrange import rearrangement
from mixer_converters.match import holds
from mixer_converters.provenance import PUBLISHED
from mixer_converters.semantics import Semantics, same_but_for_semantics, semantics_of
from mixer_spec import VARIANTS, ModelSpec, families

ROOT = Path(__file__).parents[1]


def title(layout: Layout) -> str:
    return f"{layout.name}-{layout.families[0]}"


def specs_of(layout: Layout) -> list[ModelSpec]:
    """Every published architecture that the layout is meant for, and a tiny one of no square."""
    found = [v.spec() for v in VARIANTS.values() if family_of(v.spec()) in layout.families]
    if "vit_mean" in layout.families:
        found.append(
            families.vit(
                image_size=8, patch=4, channels=6, depth=2, heads=3, channel_hidden=5, pool="mean"
            )
        )
    return [spec for spec in found if holds(layout, spec)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=title)
def test_every_weight_of_every_variant_has_exactly_one_place(layout: Layout) -> None:
    specs = specs_of(layout)
    assert specs
    for spec in specs:
        parameters = spec.parameters()
        entries = list(layout.entries(spec.depth))
        canonical = [name for entry in entries for name in entry.canonical]
        assert sorted(canonical) == sorted(parameters)
        foreign = [plain(entry.foreign) for entry in entries]
        assert len(set(foreign)) == len(foreign)
        assert layout.depth(foreign) == spec.depth
        shapes = layout.shapes(spec)
        assert shapes is not None
        for entry in entries:
            for name in entry.canonical:
                back = entry.canonical_shape(shapes[entry.foreign], known_sizes(spec))
                assert back == parameters[name].shape


@pytest.mark.parametrize("layout", LAYOUTS, ids=title)
def test_a_missing_row_is_noticed(layout: Layout) -> None:
    spec = specs_of(layout)[0]
    for row in layout.table[:3]:
        shorter = dataclasses.replace(layout, table=tuple(r for r in layout.table if r != row))
        assert shorter.shapes(spec) is None


ABLATIONS = ("ff_", "_untied", "_grouped", "_views", "_pyramid", "_mlp", "conv", "_layernorm")
HELD = [name for name in VARIANTS if not any(mark in name for mark in ABLATIONS)]


def test_every_family_has_a_layout_and_no_layout_takes_an_ablation() -> None:
    able = [n for n, v in VARIANTS.items() if any(holds(layout, v.spec()) for layout in LAYOUTS)]
    assert able == HELD


@pytest.mark.parametrize("name", HELD)
def test_the_spec_is_inferred_from_the_shapes_alone(name: str) -> None:
    spec = VARIANTS[name].spec(classes=7)
    shapes = {n: parameter.shape for n, parameter in spec.parameters().items()}
    found = infer_spec(shapes, semantics_of(spec), where="shapes")
    assert found == spec
    assert variant_of(found) == name


def test_a_rearrangement_and_its_inverse_are_the_identity_bit_for_bit() -> None:
    rows = {how for layout in LAYOUTS for _, _, how in layout.table if how != "="}
    assert len(rows) > 10
    for text in rows:
        moved = rearrangement(text)
        assert moved is not None
        words = sorted({word for axis in moved.before for word in axis})
        sizes = dict(zip(words, (2, 3, 5, 7), strict=False))
        shape = [int(np.prod([sizes[w] for w in axis])) for axis in moved.before]
        array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        there = moved(array, sizes)
        assert there.shape == moved.shape(tuple(shape), sizes)
        np.testing.assert_array_equal(moved.inverse(there, sizes), array)


@pytest.mark.parametrize("text", ["a b -> a", "a -> a b", "a a -> a a"])
def test_a_rearrangement_that_loses_axes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="same words"):
        rearrangement(text)


def test_semantics_are_put_in_and_read_off() -> None:
    wanted = Semantics(gelu="tanh", epsilon=3e-4, gate_epsilon=2e-3)
    for name in ("mixer_s32", "gmlp_ti16", "vit_b16"):
        spec = VARIANTS[name].spec()
        changed = wanted.within(spec)
        assert changed != spec
        assert same_but_for_semantics(changed, spec)
        assert semantics_of(changed).gelu == "tanh"
        assert semantics_of(changed).epsilon == 3e-4
    assert semantics_of(wanted.within(VARIANTS["gmlp_ti16"].spec())) == wanted
    assert not same_but_for_semantics(VARIANTS["mixer_s32"].spec(), VARIANTS["mixer_s16"].spec())


def test_the_published_checkpoints_are_of_known_variants_and_pipelines() -> None:
    assert len({one.name for one in PUBLISHED}) == len(PUBLISHED)
    names = [file for one in PUBLISHED for file in one.files]
    assert len(set(names)) == len(names)
    for one in PUBLISHED:
        assert VARIANTS[one.variant].spec(classes=one.classes).classes == one.classes
        assert one.preprocessing.source
        assert one.source
    wrong = {one.name for one in PUBLISHED if one.mislabelled}
    assert wrong == {
        "mixer_b16_224.goog_in21k_ft_in1k",
        "mixer_l16_224.goog_in21k_ft_in1k",
    }


def test_every_layout_has_a_test_on_a_file_of_an_independent_writer() -> None:
    marks = re.compile(r'@pytest\.mark\.written_by_others\("(\w+)", "(\w+)"\)')
    files = sorted((ROOT / "tests").glob("test_layout_*.py"))
    found = {pair for path in files for pair in marks.findall(path.read_text("utf-8"))}
    assert found == {(layout.name, family) for layout in LAYOUTS for family in layout.families}


def test_the_page_of_layouts_is_up_to_date() -> None:
    assert (ROOT / "docs" / "layouts.md").read_text(encoding="utf-8") == markdown(), (
        "run `python -m mixer_converters.layouts.document > docs/layouts.md`"
    )
