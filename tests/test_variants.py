"""The published variants: parameter counts, cost, resolutions and the names that people type."""

from __future__ import annotations

import re

import pytest

from mixer_spec import VARIANTS, UnknownNameError, variant
from mixer_spec.layers import Constant, Normal
from mixer_spec.preprocess import PIPELINES

# Millions of weights without the head: arXiv:2105.01601v4, table 1 in the paper's own convention.
HEADLESS = {
    "mixer_s32": 18.59,
    "mixer_s16": 18.02,
    "mixer_b32": 59.52,
    "mixer_b16": 59.11,
    "mixer_l32": 205.91,
    "mixer_l16": 207.17,
    "mixer_h14": 431.07,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_count_is_the_published_one(name):
    assert VARIANTS[name].spec().parameter_count == VARIANTS[name].parameters


@pytest.mark.parametrize("name", HEADLESS)
def test_parameter_count_without_head_is_the_papers(name):
    spec = variant(name).spec()
    head = sum(p.size for key, p in spec.parameters().items() if key.startswith("head."))
    assert spec.parameter_count_without_head == spec.parameter_count - head
    assert round((spec.parameter_count - head) / 1e6, 2) == HEADLESS[name]


def test_multiply_adds_of_the_largest_and_of_the_base_mixer():
    # 12.6 and 121 billion products: the figures that timm's tables call GMACs.
    assert round(variant("mixer_b16").spec().multiply_adds / 1e9, 1) == 12.6
    assert round(variant("mixer_h14").spec().multiply_adds / 1e9) == 121


@pytest.mark.parametrize("name", VARIANTS)
def test_any_resolution_that_the_patch_divides_can_be_said(name):
    found = variant(name)
    patch = found.spec().stem.patch[0]
    for size in (patch, 2 * patch, (3 * patch, 5 * patch)):
        spec = found.spec(image_size=size, classes=7)
        rows, columns = (s // patch for s in (size if isinstance(size, tuple) else (size, size)))
        assert spec.steps[0].outgoing.grid == (rows, columns)
        assert spec.classes == 7


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("mixer_b16", "mixer_b16"),
        ("B/16", "mixer_b16"),
        ("b16", "mixer_b16"),
        ("Mixer-B/16", "mixer_b16"),
        ("MLP-Mixer-B/16", "mixer_b16"),
        ("mixer_b16_224", "mixer_b16"),
        (" mixer b16 ", "mixer_b16"),
        ("H/14", "mixer_h14"),
        ("ResMLP-24", "resmlp_24"),
        ("resmlp_24_224", "resmlp_24"),
        ("resmlp_big_24_224", "resmlp_b24"),
        ("ResMLP-B24", "resmlp_b24"),
        ("gMLP-Ti/16", "gmlp_ti16"),
        ("gmixer_12_224", "gmixer_12"),
        ("ViT-B/16", "vit_b16"),
        ("vit_base_patch16_224", "vit_b16"),
        ("ViT-H/14", "vit_h14"),
        ("ff_base", "ff_b16"),
        ("linear_tiny", "ff_ti16"),
        ("Mixer-S/32-untied", "mixer_s32_untied"),
        ("mixer_s16_pyramid_224", "mixer_s16_pyramid"),
        ("ResMLP-12-sepconv", "resmlp_12_sepconv"),
    ],
)
def test_names_that_people_type_are_understood(typed, name):
    assert variant(typed).name == name


def test_unknown_variant_is_refused_with_the_nearest_names():
    with pytest.raises(UnknownNameError) as caught:
        variant("mixer_b15")
    message = str(caught.value)
    assert message.startswith("variant 'mixer_b15': there is no such variant; expected a name like")
    assert "mixer_b16" in message
    assert "mixer-spec list" in message


@pytest.mark.parametrize("typed", ["", "   ", "224", "/", "resnet50", "mixer_b16_384"])
def test_names_that_mean_nothing_are_refused(typed):
    with pytest.raises(UnknownNameError):
        variant(typed)


@pytest.mark.parametrize("name", VARIANTS)
def test_source_is_a_paper_or_a_file_of_a_repository(name):
    source = VARIANTS[name].source
    assert re.search(r"arXiv:\d{4}\.\d{5}|^[\w-]+/[\w-]+, \w+\.py$", source), source


@pytest.mark.parametrize("name", VARIANTS)
def test_initial_values_and_preprocessing_are_those_of_something(name):
    found = VARIANTS[name]
    parameters = found.spec().parameters()
    for suffix in found.initial:
        assert any(key.endswith(suffix) for key in parameters), suffix
    assert found.preprocessing in PIPELINES


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("resmlp_12", 0.1),
        ("resmlp_24", 1e-5),
        ("resmlp_36", 1e-6),
        ("resmlp_b24", 1e-6),
        ("resmlp_12_mlp", 0.1),
    ],
)
def test_layer_scale_begins_as_published(name, scale):
    assert VARIANTS[name].initial == {".scale.scale": Constant(scale)}


def test_gate_begins_as_the_identity():
    found = VARIANTS["gmlp_s16"]
    assert found.initial[".gate.dense_0.kernel"] == Normal(1e-6)
    assert found.initial[".gate.dense_0.bias"] == Constant(1.0)


@pytest.mark.parametrize("name", VARIANTS)
def test_head_begins_at_zero(name):
    head = VARIANTS[name].spec().parameters()
    assert head["head.kernel"].initial == head["head.bias"].initial == Constant(0.0)
