"""The spec as data: JSON, validation, normalisation, fingerprint, names and cost."""

from __future__ import annotations

import dataclasses
import json
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer_spec import VARIANTS, ModelSpec, SpecError, Stage, families, variant
from mixer_spec.layers import (
    AnyLayer,
    Attention,
    ChannelDense,
    ClassToken,
    DepthwiseConv,
    GatedUnit,
    Gelu,
    GroupChannels,
    Head,
    LayerNorm,
    LinearEmbed,
    MeanPool,
    PatchEmbed,
    PositionEmbedding,
    Residual,
    Silu,
    SpatialGate,
    TakeToken,
    TokenDense,
    TokenEmbed,
    TokenNorm,
    UngroupChannels,
    UntiedTokenDense,
)
from mixer_spec.shapes import Image, TokenIds, Vectors

TINY = families.mixer(
    image_size=8, patch=4, channels=6, depth=2, token_hidden=5, channel_hidden=7, classes=3
)


NORM = LayerNorm(epsilon=1e-6)

KINDS = get_args(AnyLayer)


def with_block(*layers, channels: int = 6, name: str = "token_mixing") -> ModelSpec:
    """An 8 x 8 model of four tokens with one block of one branch."""
    return ModelSpec(
        input=Image(height=8, width=8, channels=3),
        stem=PatchEmbed(patch=(4, 4), features=channels),
        embeddings=(),
        stages=(Stage(transition=(), block=(Residual(name=name, layers=layers),), depth=1),),
        norm=LayerNorm(epsilon=1e-6),
        pool=MeanPool(),
        head=Head(classes=2),
    )


# --- JSON -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_round_trips_through_json(name):
    spec = variant(name).spec()
    again = ModelSpec.from_json(spec.to_json(indent=2))
    assert again == spec
    assert again.fingerprint == spec.fingerprint
    assert again.to_json() == spec.to_json()


def test_fingerprints_of_all_variants_differ():
    assert len({v.spec().fingerprint for v in VARIANTS.values()}) == len(VARIANTS)


def test_fingerprint_does_not_depend_on_how_numbers_were_written():
    data = json.loads(TINY.to_json())
    data["stem"]["patch"] = [4.0, 4]
    data["norm"]["epsilon"] = 0.000001
    reordered = json.dumps(dict(reversed(data.items())))
    assert ModelSpec.from_json(reordered).fingerprint == TINY.fingerprint


@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    patch=st.integers(1, 5),
    channels=st.integers(1, 9),
    depth=st.integers(0, 3),
    hidden=st.integers(1, 9),
    classes=st.integers(1, 9),
    gelu=st.sampled_from(["tanh", "none"]),
)
def test_any_mixer_round_trips_and_counts_its_parameters(
    rows, columns, patch, channels, depth, hidden, classes, gelu
):
    spec = families.mixer(
        image_size=(rows * patch, columns * patch),
        patch=patch,
        channels=channels,
        depth=depth,
        token_hidden=hidden,
        channel_hidden=hidden,
        classes=classes,
        gelu=gelu,
    )
    assert ModelSpec.from_json(spec.to_json()) == spec
    tokens = rows * columns
    stem = 3 * patch * patch * channels + channels
    block = 2 * tokens * hidden + hidden + tokens + 2 * channels * hidden + hidden + channels
    ends = 2 * channels + channels * classes + classes
    assert spec.parameter_count == stem + depth * (block + 4 * channels) + ends


def test_newer_version_is_refused_with_advice_to_upgrade():
    data = json.loads(TINY.to_json()) | {"spec_version": 2}
    with pytest.raises(SpecError, match=r"expected at most 1, got 2; upgrade mixer-spec"):
        ModelSpec.from_json(json.dumps(data), where="model.json")


@pytest.mark.parametrize("version", [None, 0, "1", True, 1.5])
def test_missing_or_odd_version_is_refused(version):
    data = json.loads(TINY.to_json()) | {"spec_version": version}
    with pytest.raises(SpecError, match="spec_version must be 1"):
        ModelSpec.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"spec_version": 1}', "[" * 100_000])
def test_text_that_is_no_spec_is_refused(text):
    with pytest.raises(SpecError):
        ModelSpec.from_json(text)


def test_repeated_key_is_refused():
    text = TINY.to_json().replace('"kind":"model"', '"kind":"model","kind":"model"', 1)
    with pytest.raises(SpecError, match=r"the keys \['kind'\] twice"):
        ModelSpec.from_json(text)


def test_deep_nesting_is_refused_without_a_crash():
    gate = {"kind": "spatial_gate", "layers": []}
    for _ in range(5000):
        gate = {"kind": "spatial_gate", "layers": [gate]}
    data = json.loads(TINY.to_json())
    text = json.dumps(data)
    try:
        nested = json.dumps(gate)
    except RecursionError:
        nested = '{"kind":"spatial_gate","layers":[' * 5000 + "]}" * 5000
    text = text.replace('{"kind": "gelu", "approximation": "tanh"}', nested, 1)
    with pytest.raises(SpecError, match=r"deep|JSON|recursion"):
        ModelSpec.from_json(text)


def test_every_fault_of_a_document_is_named_at_once():
    data = json.loads(TINY.to_json())
    data["colour"] = "red"
    data["norm"] = {"kind": "layer_norm", "epsilon": -1.0}
    data["pool"] = {"kind": "max_pool"}
    del data["head"]["classes"]
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_json(json.dumps(data), where="model.json")
    message = str(caught.value)
    assert message.startswith("model.json: 4 rules broken")
    assert "unknown field 'colour'" in message
    assert "norm: epsilon is too small; expected above 0.0, got -1.0" in message
    assert "pool: unknown kind; expected one of ['mean_pool', 'take_token']" in message
    assert "head: missing field 'classes'" in message


# --- values ---------------------------------------------------------------------------------


def test_numbers_and_sequences_are_normalised():
    layer = PatchEmbed(patch=[np.int64(4), 4.0], features=6.0)
    assert layer == PatchEmbed(patch=(4, 4), features=6)
    assert hash(layer) == hash(PatchEmbed(patch=(4, 4), features=6))
    assert repr(layer) == "PatchEmbed(patch=(4, 4), features=6)"


@pytest.mark.parametrize("bad", [0, -1, 2.5, True, "6", None, 2**31, float("nan")])
def test_bad_counts_are_refused(bad):
    with pytest.raises(SpecError, match="features"):
        ChannelDense(features=bad)


@pytest.mark.parametrize("bad", [0.0, -1e-6, float("nan"), float("inf"), "1e-6", None, True])
def test_bad_epsilons_are_refused(bad):
    with pytest.raises(SpecError, match="epsilon"):
        LayerNorm(epsilon=bad)


def test_what_changes_a_number_has_no_default():
    for cls in KINDS:
        for field in dataclasses.fields(cls):
            assert field.default is dataclasses.MISSING, (cls, field.name)
            assert field.default_factory is dataclasses.MISSING, (cls, field.name)


def test_every_kind_has_a_name_of_its_own_and_says_what_it_takes():
    assert len(KINDS) == 24
    assert len({kind.kind for kind in KINDS}) == len(KINDS)
    for kind in KINDS:
        assert kind.accepts.noun, kind


def test_gelu_has_two_forms_only():
    with pytest.raises(SpecError, match=r"one of \['none', 'tanh'\], got 'erf'"):
        Gelu(approximation="erf")


def test_specs_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY.norm = LayerNorm(epsilon=1e-5)


def test_unbounded_depth_is_refused():
    with pytest.raises(SpecError, match="depth is too large; expected at most 10000"):
        families.mixer(
            image_size=8, patch=4, channels=6, depth=10**9, token_hidden=5, channel_hidden=7
        )


# --- rules between layers -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((TokenDense(features=5),), r"must end in the table that it began with; .*4.*5"),
        ((ChannelDense(features=5),), r"expected \[token 4, channel 6\], got \[token 4, channel 5"),
        ((NORM, NORM), "two layers are called 'norm'"),
        ((Attention(heads=4),), r"expected 6 % 4 == 0, got 2"),
        ((ChannelDense(features=5), SpatialGate(layers=())), "even number of channels, got 5"),
        (
            (
                TokenDense(features=3),
                GatedUnit(axis="token", gate="second", activation=Silu()),
            ),
            "even number of tokens, got 3",
        ),
        (
            (
                ChannelDense(features=12),
                SpatialGate(layers=(TokenDense(features=5),)),
            ),
            "a spatial_gate must end in the table",
        ),
        (
            (GroupChannels(groups=4),),
            r"groups must divide the channels; expected 6 % 4 == 0, got 2",
        ),
        (
            (UngroupChannels(groups=3),),
            r"groups must divide the tokens; expected 4 % 3 == 0, got 1",
        ),
        (
            (GroupChannels(groups=2),),
            r"expected \[token 4, channel 6\], got \[token 8, channel 3\]",
        ),
        ((UntiedTokenDense(features=5),), r"must end in the table that it began with; .*4.*5"),
        (
            (DepthwiseConv(window=(3, 2)),),
            r"a window has a middle; expected odd sides, got \(3, 2\)",
        ),
        (
            (TokenDense(features=4), DepthwiseConv(window=(3, 3))),
            r"needs tokens that lie on a grid; .* got \[token 4, channel 6\]",
        ),
        (
            (GroupChannels(groups=2), UngroupChannels(groups=2), DepthwiseConv(window=(3, 3))),
            "needs tokens that lie on a grid",
        ),
        ((TokenNorm(epsilon=1e-6), NORM), "two layers are called 'norm'"),
    ],
)
def test_layers_that_do_not_fit_are_refused_with_both_values(layers, message):
    with pytest.raises(SpecError, match=message) as caught:
        with_block(*layers)
    assert "blocks.0.token_mixing" in str(caught.value)


def test_patch_that_does_not_divide_names_both_axes():
    with pytest.raises(SpecError) as caught:
        variant("mixer_b16").spec(image_size=(225, 230))
    assert "height must be a multiple of the patch's; expected 225 % 16 == 0, got 1" in str(
        caught.value
    )
    assert "width must be a multiple of the patch's; expected 230 % 16 == 0, got 6" in str(
        caught.value
    )


@pytest.mark.parametrize("size", [0, -32, "224", (224,), 2.5])
def test_senseless_image_sizes_are_refused(size):
    with pytest.raises(SpecError):
        variant("mixer_b16").spec(image_size=size)


def test_convolution_beside_a_class_token_is_refused():
    fits = with_block(DepthwiseConv(window=(3, 3)))
    with pytest.raises(SpecError, match=r"got \[token 5, channel 6\] with 1 in front of the grid"):
        dataclasses.replace(fits, embeddings=(ClassToken(),))


@pytest.mark.parametrize(
    ("entering", "stem", "message"),
    [
        (
            TokenIds(tokens=4, vocabulary=9),
            PatchEmbed(patch=(4, 4), features=6),
            r"stem: .* expected an image, got ids of words \[token 4\] of 9 words",
        ),
        (
            Vectors(tokens=4, channels=3),
            TokenEmbed(features=6),
            r"expected ids of words, got vectors \[token 4, channel 3\]",
        ),
        (
            Image(height=8, width=8, channels=3),
            TokenEmbed(features=6),
            r"expected ids of words, got an image \[height 8, width 8, channel 3\]",
        ),
        (
            Image(height=8, width=8, channels=3),
            LinearEmbed(features=6),
            "expected vectors, got an image",
        ),
    ],
)
def test_stem_that_does_not_take_the_input_is_refused(entering, stem, message):
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(TINY, input=entering, stem=stem)


def test_convolution_of_a_sequence_is_refused():
    block = (Residual(name="token_mixing", layers=(DepthwiseConv(window=(3, 3)),)),)
    with pytest.raises(SpecError, match="needs tokens that lie on a grid"):
        dataclasses.replace(
            TINY,
            input=Vectors(tokens=4, channels=3),
            stem=LinearEmbed(features=6),
            stages=(Stage(transition=(), block=block, depth=1),),
        )


def test_pyramid_that_grows_is_refused_with_both_counts():
    stage = dataclasses.replace(TINY.stages[0], transition=(TokenDense(features=5),))
    with pytest.raises(SpecError) as caught:
        dataclasses.replace(TINY, stages=(*TINY.stages, stage))
    assert "transitions.1: a pyramid does not grow; expected at most 4 tokens, got 5" in str(
        caught.value
    )


def test_token_beyond_the_table_is_refused():
    with pytest.raises(SpecError, match="expected an index below 4, got 4"):
        dataclasses.replace(TINY, pool=TakeToken(index=4))


def test_transition_needs_a_block_behind_it():
    residual = TINY.stages[0].block[0]
    with pytest.raises(SpecError, match="a transition needs a block"):
        Stage(transition=(TokenDense(features=2),), block=(residual,), depth=0)
    with pytest.raises(SpecError, match="a stage needs a block"):
        Stage(transition=(), block=(), depth=1)


def test_two_residuals_of_one_name_in_a_block_are_refused():
    one, other = TINY.stages[0].block
    renamed = dataclasses.replace(other, name=one.name)
    with pytest.raises(SpecError, match="two residuals are called 'token_mixing'"):
        Stage(transition=(), block=(one, renamed), depth=1)


def test_pyramid_of_two_stages_can_be_said():
    def stage(tokens: int, *transition) -> Stage:
        layers = (NORM, TokenDense(features=3), Gelu(approximation="tanh"))
        branch = Residual(name="token_mixing", layers=(*layers, TokenDense(features=tokens)))
        return Stage(transition=transition, block=(branch,), depth=2)

    spec = dataclasses.replace(TINY, stages=(stage(4), stage(2, TokenDense(features=2))))
    assert spec.taps[1:5] == tuple(f"blocks.{i}.token_mixing" for i in range(4))
    assert spec.parameters()["transitions.1.dense_0.kernel"].shape == (2, 4)
    assert spec.parameters()["blocks.3.token_mixing.dense_1.kernel"].shape == (2, 3)
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("name", ["forward", "TokenMixing", "norm", "", "mixing.a", "training"])
def test_residual_names_that_a_framework_may_own_are_refused(name):
    with pytest.raises(SpecError, match="name must match"):
        Residual(name=name, layers=())


# --- names, shapes, cost --------------------------------------------------------------------


def test_canonical_names_are_what_one_would_guess():
    assert {name: p.shape for name, p in TINY.parameters().items() if "blocks.1" not in name} == {
        "stem.kernel": (4, 4, 3, 6),
        "stem.bias": (6,),
        "blocks.0.token_mixing.norm.scale": (6,),
        "blocks.0.token_mixing.norm.bias": (6,),
        "blocks.0.token_mixing.dense_0.kernel": (5, 4),
        "blocks.0.token_mixing.dense_0.bias": (5,),
        "blocks.0.token_mixing.dense_1.kernel": (4, 5),
        "blocks.0.token_mixing.dense_1.bias": (4,),
        "blocks.0.channel_mixing.norm.scale": (6,),
        "blocks.0.channel_mixing.norm.bias": (6,),
        "blocks.0.channel_mixing.dense_0.kernel": (6, 7),
        "blocks.0.channel_mixing.dense_0.bias": (7,),
        "blocks.0.channel_mixing.dense_1.kernel": (7, 6),
        "blocks.0.channel_mixing.dense_1.bias": (6,),
        "norm.scale": (6,),
        "norm.bias": (6,),
        "head.kernel": (6, 3),
        "head.bias": (3,),
    }


def test_nested_lists_nest_their_names():
    names = set(variant("gmlp_ti16").spec().parameters())
    assert "blocks.29.gated_mixing.gate.norm.scale" in names
    assert "blocks.29.gated_mixing.gate.dense_0.kernel" in names
    names = set(variant("vit_b16").spec().parameters())
    assert "blocks.11.token_mixing.attention.query.kernel" in names
    assert {"stem.class_token.embedding", "stem.position.embedding"} <= names


def test_taps_are_the_stream_after_every_residual():
    assert TINY.taps == (
        "stem",
        "blocks.0.token_mixing",
        "blocks.0.channel_mixing",
        "blocks.1.token_mixing",
        "blocks.1.channel_mixing",
        "norm",
        "pooled",
        "logits",
    )


def test_class_token_and_positions_stand_in_front_of_the_stem_tap():
    spec = families.vit(
        image_size=8, patch=4, channels=6, depth=1, heads=2, channel_hidden=7, classes=3
    )
    assert isinstance(spec.embeddings[0], ClassToken)
    assert isinstance(spec.embeddings[1], PositionEmbedding)
    assert spec.steps[0].outgoing.shape == (5, 6)


def test_cost_of_a_tiny_mixer_is_the_sum_of_its_products():
    stem = 4 * (4 * 4 * 3) * 6
    token_mixing = 6 * (4 * 5 + 5 * 4)
    channel_mixing = 4 * (6 * 7 + 7 * 6)
    assert TINY.multiply_adds == stem + 2 * (token_mixing + channel_mixing) + 6 * 3
    block = 6 * (4 + 5 + 5 + 4 + 4) + 4 * (6 + 7 + 7 + 6 + 6)
    assert TINY.activation_bytes == 4 * (24 + 2 * block + 24 + 6 + 3)


def test_cost_per_layer_adds_up_to_the_total():
    for name in ("mixer_s16", "gmlp_ti16", "vit_b16"):
        spec = variant(name).spec()
        own = sum(n.multiply_adds - sum(c.multiply_adds for c in n.children) for n in spec.nodes())
        assert own == spec.multiply_adds
        sizes = sum(p.size for node in spec.nodes() for p in node.own_parameters.values())
        assert sizes == spec.parameter_count
