"""The published JSON Schema: equal to the dataclasses, and as strict as they are."""

from __future__ import annotations

import copy
import importlib.resources
import json
from collections.abc import Callable
from typing import Any, get_args

import jsonschema
import pytest

from mixer_spec import VARIANTS, ModelSpec, SpecError, families, variant
from mixer_spec.layers import AnyLayer
from mixer_spec.schema import json_schema, json_schema_text
from mixer_spec.shapes import TokenIds, Vectors

VALIDATOR = jsonschema.Draft202012Validator(json_schema())

Document = dict[str, Any]


def test_shipped_schema_equals_the_generated_one() -> None:
    shipped = importlib.resources.files("mixer_spec").joinpath("spec.schema.json")
    assert shipped.read_text(encoding="utf-8") == json_schema_text(), (
        "run: python -m mixer_spec schema > mixer_spec/spec.schema.json"
    )


def test_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_satisfies_the_schema(name: str) -> None:
    VALIDATOR.validate(variant(name).spec().to_data())


@pytest.mark.parametrize(
    "entering", [TokenIds(tokens=4, vocabulary=9), Vectors(tokens=4, channels=3)]
)
def test_specs_of_sequences_satisfy_the_schema(entering: TokenIds | Vectors) -> None:
    spec = families.sequence_mixer(
        input=entering, channels=6, depth=1, token_hidden=5, channel_hidden=7, classes=2
    )
    VALIDATOR.validate(spec.to_data())


def test_schema_has_every_kind_of_layer() -> None:
    kinds = {kind.kind for kind in get_args(AnyLayer)}
    assert len(kinds) == 24
    others = {"image", "token_ids", "vectors", "stage"}
    assert json_schema()["$defs"].keys() == kinds | others


def test_every_object_is_closed_and_complete() -> None:
    schema = json_schema()
    for name, definition in [("model", schema), *schema["$defs"].items()]:
        assert definition["additionalProperties"] is False, name
        assert definition["required"] == list(definition["properties"]), name
        assert definition["description"], name


def _unknown_field(document: Document) -> None:
    document["head"]["dropout"] = 0.1


def _unknown_field_at_the_top(document: Document) -> None:
    document["name"] = "mine"


def _unknown_kind(document: Document) -> None:
    document["norm"]["kind"] = "batch_norm"


def _kind_in_the_wrong_place(document: Document) -> None:
    document["pool"] = {"kind": "gelu", "approximation": "none"}


def _missing_kind(document: Document) -> None:
    del document["stem"]["kind"]


def _missing_field(document: Document) -> None:
    del document["norm"]["epsilon"]


def _missing_version(document: Document) -> None:
    del document["spec_version"]


def _newer_version(document: Document) -> None:
    document["spec_version"] += 1


def _negative_epsilon(document: Document) -> None:
    document["norm"]["epsilon"] = -1e-6


def _zero_epsilon(document: Document) -> None:
    document["norm"]["epsilon"] = 0


def _negative_classes(document: Document) -> None:
    document["head"]["classes"] = -1


def _too_many_classes(document: Document) -> None:
    document["head"]["classes"] = 2**31


def _broken_number(document: Document) -> None:
    document["head"]["classes"] = 10.5


def _number_as_text(document: Document) -> None:
    document["head"]["classes"] = "10"


def _truth_as_number(document: Document) -> None:
    document["head"]["classes"] = True


def _unknown_gelu(document: Document) -> None:
    document["stages"][0]["block"][0]["layers"][2]["approximation"] = "sigmoid"


def _framework_name_for_a_residual(document: Document) -> None:
    document["stages"][0]["block"][0]["name"] = "forward"


def _residual_name_with_more_behind_it(document: Document) -> None:
    document["stages"][0]["block"][0]["name"] = "token_mixing.scale"


def _patch_of_one_number(document: Document) -> None:
    document["stem"]["patch"] = [16]


def _patch_of_three_numbers(document: Document) -> None:
    document["stem"]["patch"] = [16, 16, 3]


def _stages_as_an_object(document: Document) -> None:
    document["stages"] = document["stages"][0]


def _unknown_input(document: Document) -> None:
    document["input"]["kind"] = "sound"


def _empty_vocabulary(document: Document) -> None:
    document["input"] = {"kind": "token_ids", "tokens": 4, "vocabulary": 0}


def _window_of_one_number(document: Document) -> None:
    layers = document["stages"][0]["block"][0]["layers"]
    layers[1] = {"kind": "depthwise_conv", "window": [3]}


def _no_groups(document: Document) -> None:
    document["stages"][0]["block"][0]["layers"][1] = {"kind": "group_channels", "groups": 0}


def _nothing_where_a_layer_stands(document: Document) -> None:
    document["norm"] = None


BREAKS: tuple[Callable[[Document], None], ...] = (
    _unknown_field,
    _unknown_field_at_the_top,
    _unknown_kind,
    _kind_in_the_wrong_place,
    _missing_kind,
    _missing_field,
    _missing_version,
    _newer_version,
    _negative_epsilon,
    _zero_epsilon,
    _negative_classes,
    _too_many_classes,
    _broken_number,
    _number_as_text,
    _truth_as_number,
    _unknown_gelu,
    _framework_name_for_a_residual,
    _residual_name_with_more_behind_it,
    _patch_of_one_number,
    _patch_of_three_numbers,
    _stages_as_an_object,
    _unknown_input,
    _empty_vocabulary,
    _window_of_one_number,
    _no_groups,
    _nothing_where_a_layer_stands,
)


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda f: f.__name__.strip("_"))
def test_broken_document_is_refused_by_schema_and_reader(
    break_it: Callable[[Document], None],
) -> None:
    document = variant("mixer_s32").spec().to_data()
    broken = copy.deepcopy(document)
    break_it(broken)
    assert VALIDATOR.is_valid(document)
    assert not VALIDATOR.is_valid(broken)
    with pytest.raises(SpecError):
        ModelSpec.from_json(json.dumps(broken))


def test_whole_number_written_as_a_fraction_is_the_same_spec_to_both() -> None:
    spec = variant("mixer_s32").spec()
    document = spec.to_data()
    document["head"]["classes"] = 1000.0
    VALIDATOR.validate(document)
    assert ModelSpec.from_json(json.dumps(document)) == spec
