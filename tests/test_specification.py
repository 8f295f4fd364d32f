"""The specification in docs/ says what the code says: words, tables, fields, rules and shapes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from mixer_conformance import fingerprint
from mixer_conformance.cases import CASES, EFFORTS, fuzz, gradients, inputs, numbers, training
from mixer_conformance.document import TABLES, profiles, write, zoo_specs
from mixer_conformance.precision import PRECISIONS
from mixer_conformance.result import Result, Status
from mixer_conformance.suite import LIMITS
from mixer_spec import FileError, ModelSpec, SpecError, Stage, layers
from mixer_spec._fields import field_types
from mixer_spec.layers import Constant, Normal
from mixer_spec.markdown import with_tables
from mixer_spec.model import SPEC_VERSION
from mixer_spec.preprocess import (
    AsIs,
    FloatResample,
    PillowResample,
    Preprocessing,
    ResizeAndCrop,
    Squash,
)
from mixer_spec.shapes import Image, Table, TokenIds, Vectors
from tests.specification_text import (
    DOCS,
    INDEX,
    KINDS,
    NAMES,
    PAGES,
    SMALL,
    rows,
    run,
    section,
    spec_of,
)


@pytest.fixture(scope="module")
def text() -> dict[str, Any]:
    return run(PAGES)


# --- the text and its tables ----------------------------------------------------------------


def test_text_needs_nothing_but_the_standard_library() -> None:
    imports = re.findall(r"^(?:import|from) (\w+)", "\n".join(PAGES.values()), re.MULTILINE)
    assert set(imports) == {"math", "hashlib", "json", "struct"}


@pytest.mark.parametrize("name", NAMES)
def test_generated_tables_are_up_to_date(name: str) -> None:
    expected = with_tables(PAGES[name], name, TABLES)
    assert expected == PAGES[name], "run: python -m mixer_conformance.document"


def test_specs_of_the_zoo_are_up_to_date(text: dict[str, Any]) -> None:
    written = (DOCS / "specification" / "zoo.json").read_text(encoding="utf-8")
    assert written == zoo_specs(), "run: python -m mixer_conformance.document"
    for name, document in json.loads(written).items():
        assert text["fingerprint"](document) == spec_of(name).fingerprint


def test_program_writes_tables_and_specs_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(
        "a\n<!-- profiles: begin -->\nold\n<!-- profiles: end -->\nb\n"
    )
    write(tmp_path)
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert page == f"a\n<!-- profiles: begin -->\n{profiles()}\n<!-- profiles: end -->\nb\n"
    assert (tmp_path / "zoo.json").read_text(encoding="utf-8") == zoo_specs()
    with pytest.raises(FileError, match="there is no such folder; run this at the root"):
        write(tmp_path / "docs")


@pytest.mark.parametrize("name", NAMES)
def test_links_of_a_page_lead_somewhere(name: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", PAGES[name], flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", prose)
    assert links
    for target, anchor in links:
        path = (DOCS / name).parent / target if target else DOCS / name
        headings = re.findall(r"^#+ (.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
        assert not anchor or anchor in slugs, (target, anchor)


# --- the document ---------------------------------------------------------------------------


def test_json_of_the_text_is_a_valid_spec_with_that_fingerprint(text: dict[str, Any]) -> None:
    page = PAGES["specification/document.md"]
    (example,) = re.findall(r"^```json\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    spec = ModelSpec.from_json(example)
    assert spec == spec_of("mixer")
    assert text["fingerprint"](json.loads(example)) == spec.fingerprint
    assert spec.fingerprint in page
    canonical = text["canonical"](json.loads(example))
    assert f"has {len(canonical)} characters" in page
    assert canonical.startswith(re.findall(r"form begins with `(.*?)`", page)[0])
    assert f"has {spec.parameter_count}" in PAGES["specification/model.md"]
    assert f"`spec_version` in the document | {SPEC_VERSION} |" in INDEX


def test_every_kind_and_field_is_in_the_document_chapter() -> None:
    page = PAGES["specification/document.md"]
    for kind in (ModelSpec, Stage, Image, TokenIds, Vectors, *KINDS.values()):
        assert f"`{kind.kind}`" in page
        for field in field_types(kind):
            assert f"`{field}`" in page, (kind, field)
    for field in field_types(ModelSpec):
        assert f"`{field}`" in page
    (name,) = (a for a in field_types(layers.Residual)["name"].__metadata__)
    assert name.pattern.replace("|", r"\|") in page


def test_every_field_of_preprocessing_is_in_its_chapter() -> None:
    page = PAGES["specification/preprocessing.md"]
    for kind in (Preprocessing, AsIs, Squash, ResizeAndCrop, PillowResample, FloatResample):
        assert f"`{kind.kind}`" in page
        for field, annotation in field_types(kind).items():
            assert f"`{field}`" in page, (kind, field)
            for choice in get_args(annotation) if get_origin(annotation) is Literal else ():
                assert f"`{choice}`" in page, (kind, choice)


def _changed(change: Callable[[dict[str, Any]], None], name: str = "mixer") -> str:
    data = spec_of(name).to_data()
    change(data)
    return json.dumps(data)


def _branch(data: dict[str, Any], index: int, more: dict[str, Any]) -> None:
    data["stages"][0]["block"][index]["layers"].insert(1, more)


BROKEN: dict[str, Callable[[], str]] = {
    "1": lambda: _changed(lambda d: d.update(stem={"kind": "token_embed", "features": 8})),
    "2": lambda: _changed(lambda d: d["stages"][0]["block"][1].update(name="token_mixing")),
    "2, in a list": lambda: _changed(lambda d: _branch(d, 0, {"kind": "affine"})),
    "3": lambda: _changed(lambda d: d["stem"].update(patch=[4, 5])),
    "4": lambda: _changed(lambda d: _branch(d, 1, {"kind": "attention", "heads": 3})),
    "4, groups": lambda: _changed(lambda d: _branch(d, 1, {"kind": "group_channels", "groups": 3})),
    "5": lambda: _changed(
        lambda d: _branch(d, 0, {"kind": "spatial_gate", "layers": []}), "one_channel"
    ),
    "6": lambda: _changed(lambda d: _branch(d, 1, {"kind": "depthwise_conv", "window": [3, 2]})),
    "7": lambda: _changed(lambda d: d.update(pool={"kind": "take_token", "index": 6})),
    "8": lambda: _changed(lambda d: d["stages"][0]["block"][0]["layers"].pop()),
    "9": lambda: _changed(
        lambda d: d["stages"][0].update(transition=[{"kind": "token_dense", "features": 7}])
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_code_refuses_what_the_rules_of_the_text_refuse(rule: str) -> None:
    page = section(PAGES["specification/document.md"], "Rules")
    assert re.search(rf"^{rule[0]}\. ", page, re.MULTILINE)
    with pytest.raises(SpecError):
        ModelSpec.from_json(BROKEN[rule]())


CONSTANTS = {
    "F09": ["2^-130", "2^-126"],
    "F11": [str(size) for size in inputs._BATCHES],
    "F18": [f"{gradients._NOTHING:g}"],
    "F19": [f"{training._SMOOTHING:g}"],
    "F26": [f"{x:g}" for x in fingerprint._XS],
    "F28": [f"{numbers._BIAS:g}"],
    "F30": [str(count) for count in fuzz._MODELS.values()],
}


@pytest.mark.parametrize("case", CONSTANTS)
def test_constants_of_a_case_are_in_its_paragraph(case: str) -> None:
    paragraph = section(PAGES["specification/cases.md"], case)
    for constant in CONSTANTS[case]:
        assert re.search(rf"(?<![\d.]){re.escape(constant)}(?![\d.]\d)", paragraph), constant


# --- layers ---


def test_every_layer_has_a_section() -> None:
    headings = re.findall(r"^### `(\w+)`", PAGES["specification/layers.md"], re.MULTILINE)
    assert sorted(headings) == sorted(KINDS)


def test_labels_are_those_of_the_code(text: dict[str, Any]) -> None:
    labels = {kind: cls.label for kind, cls in KINDS.items() if cls.label and kind != "residual"}
    assert text["LABELS"] == labels
    assert {*text["COUNTED"]} == {cls.label for cls in KINDS.values() if cls.numbered}


def check_shapes(text: dict[str, Any], page: str) -> None:
    """Weights and outgoing shapes of every layer of the zoo, from the text's expressions."""
    table = rows(page, "kind | weight | axes")
    seen = set()
    for name in SMALL:
        for node in spec_of(name).nodes():
            known = {f.name: getattr(node.incoming, f.name) for f in fields(node.incoming)}
            known |= {"S": known.get("tokens"), "C": known.get("channels")}
            known |= node.layer.to_data()
            mine = {row[1].strip("`"): row for row in table if row[0] == f"`{node.layer.kind}`"}
            assert mine.keys() == node.own_parameters.keys(), node.layer.kind
            for weight, parameter in node.own_parameters.items():
                _, _, axes, shape, initial, fan_in = (cell.strip("`") for cell in mine[weight])
                seen.add((node.layer.kind, weight))
                assert tuple(axes.split(", ")) == parameter.axes
                assert eval(f"({shape},)", {}, known) == parameter.shape
                assert (eval(fan_in, {}, known) if fan_in else None) == parameter.fan_in
                match parameter.initial:
                    case Constant(value):
                        assert initial == f"{value:g}"
                    case Normal(stddev):
                        assert initial == f"normal {stddev:g}"
                    case _:
                        assert initial == "LeCun normal"
            if not node.children and not isinstance(node.layer, layers.Attention):
                sums = [p.fan_in for p in node.own_parameters.values() if p.fan_in]
                size = math.prod(node.outgoing.shape)
                assert node.multiply_adds == sum(size * fan_in for fan_in in sums)
            if isinstance(node.incoming, Table) and isinstance(node.outgoing, Table):
                left = text["after"](node.layer.to_data(), *node.incoming.shape)
                assert left == node.outgoing.shape, node.layer
    assert len(seen) == len(table)


def test_shapes_are_those_of_the_code(text: dict[str, Any]) -> None:
    check_shapes(text, PAGES["specification/layers.md"])


# --- cases and words ------------------------------------------------------------------------


def test_every_case_family_has_its_paragraph() -> None:
    headings = re.findall(r"^### (F\d\d)$", PAGES["specification/cases.md"], re.MULTILINE)
    assert headings == [f"F{number:02}" for number in range(1, 31)]
    assert CASES.keys() <= {*headings}


def test_words_of_the_code_are_in_the_text() -> None:
    cases, backend = PAGES["specification/cases.md"], PAGES["specification/backend.md"]
    for word in (*EFFORTS, *get_args(Status)):
        assert f"`{word}`" in cases, word
    (told,) = re.findall(r"^A result has at least (.*)$", cases, re.MULTILINE)
    result = Result(
        case="F01", model="mixer", profile="f64", level=1, status="pass", margin=math.inf
    )
    names = re.findall(r"`(\w+)`", told)
    assert {*names} - {"null"} <= {*result.to_data()}
    assert len(names) >= 10
    assert '`"infinite"`' in told
    assert result.to_data()["margin"] == "infinite"
    for profile in PRECISIONS:
        assert f"`{profile}`" in backend
    limits = [LIMITS[effort] for effort in EFFORTS]
    assert "may take {:g}, {:g} and {:g} seconds".format(*limits) in cases


def test_wrong_shape_in_the_table_is_found(text: dict[str, Any]) -> None:
    page = PAGES["specification/layers.md"]
    wrong = page.replace("token_out, token | `features, S`", "token_out, token | `S, features`")
    assert wrong != page
    with pytest.raises(AssertionError):
        check_shapes(text, wrong)
