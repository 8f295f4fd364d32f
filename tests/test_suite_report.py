"""A run's JSON and its page: the schema holds, what is stored is checked, nothing is markup."""

from __future__ import annotations

import copy
import json
import math
import re
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from mixer_conformance import run as run_suite
from mixer_conformance.audit import trial_of
from mixer_conformance.cases import CASES, EFFORTS
from mixer_conformance.cases.liveness import detection_limits
from mixer_conformance.mutants import MUTANTS, Mutant, hostile
from mixer_conformance.outputs import SCHEMA_VERSION, SuiteRun, to_data
from mixer_conformance.page import read_runs, render
from mixer_conformance.page.depth import depth_plot
from mixer_conformance.page.findings import causes
from mixer_conformance.page.overview import columns, matrix
from mixer_conformance.page.stages import stages
from mixer_conformance.page.stored import SCHEMA
from mixer_conformance.result import Status
from mixer_spec import FileError
from mixer_spec.backend import PROFILES, Backend, Profile
from mixer_spec.reference import ReferenceBackend, forward

Data = dict[str, Any]
SCHEMA_DATA = json.loads(SCHEMA.read_text(encoding="utf-8"))
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}\u202e; rm -rf ~"


def data_of(
    backend: Backend,
    named: str = "reference",
    *,
    level: int = 2,
    profile: Profile = "f32-strict",
    **chosen: Any,
) -> Data:
    """The JSON of a run, through its text."""
    results = run_suite(backend, level=level, profile=profile, **chosen)
    found = SuiteRun(
        backend=named,
        info=backend.info(),
        level=level,
        profile=profile,
        effort="quick",
        seed=0,
        results=results,
    )
    return json.loads(json.dumps(to_data(found), allow_nan=False))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def right() -> Data:
    return data_of(ReferenceBackend())


@pytest.fixture(scope="module")
def wrong() -> Data:
    return data_of(MUTANTS["gelu by erf"].backend, "acme.engine:Backend")


def result_of(run: Data, case: str, model: str = "mixer") -> Data:
    (found,) = [r for r in run["results"] if (r["case"], r["model"]) == (case, model)]
    return found  # type: ignore[no-any-return]


# --- the JSON and its schema ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "chosen"),
    [
        (ReferenceBackend(), {"level": 4, "scales": ["mixer", "words"]}),
        (ReferenceBackend(), {"profile": "f64", "scales": ["mixer"]}),
        (ReferenceBackend(), {"scales": ["no_block"], "cases": ["F28"]}),
        (MUTANTS["head's bias dropped"].backend, {"scales": ["mixer"]}),
        (MUTANTS["a tap missing"].backend, {"scales": ["mixer"]}),
        (hostile.RefusesEverything(), {"scales": ["mixer"]}),
    ],
)
def test_every_run_satisfies_the_schema(backend: Backend, chosen: dict[str, Any]) -> None:
    run = data_of(backend, **chosen)
    assert list(Draft202012Validator(SCHEMA_DATA).iter_errors(run)) == []


def test_every_field_of_the_schema_is_required_and_no_other_is_let_in() -> None:
    Draft202012Validator.check_schema(SCHEMA_DATA)
    objects = [
        SCHEMA_DATA,
        *SCHEMA_DATA["$defs"].values(),
        SCHEMA_DATA["properties"]["not_run"]["items"],
    ]
    closed = [one for one in objects if "properties" in one]
    assert len(closed) == 5
    for one in closed:
        assert set(one["required"]) == set(one["properties"])
        assert one["additionalProperties"] is False


def test_the_schema_has_the_same_words_as_the_code() -> None:
    definitions = SCHEMA_DATA["$defs"]
    assert SCHEMA_DATA["properties"]["schema_version"]["const"] == SCHEMA_VERSION
    assert tuple(definitions["profile"]["enum"]) == PROFILES
    assert set(definitions["status"]["enum"]) == set(get_args(Status))
    assert tuple(SCHEMA_DATA["properties"]["effort"]["enum"]) == EFFORTS


def test_the_stages_of_a_run_are_stored_with_the_first_bad_one(wrong: Data) -> None:
    taps = result_of(wrong, "F01")["taps"]
    assert [tap["tap"] for tap in taps][:2] == ["stem", "blocks.0.token_mixing"]
    assert taps[0]["local_margin"] < 1 < taps[1]["local_margin"]
    assert taps[0]["bits"] > 22 > taps[1]["bits"]
    # The token branch's mistake goes on from the inputs; the norm's own step is right.
    norm = next(tap for tap in taps if tap["tap"] == "norm")
    assert norm["local_margin"] < 1 < norm["margin"]
    assert norm["noise"] < norm["tolerance"] < norm["error"]


def test_a_failure_of_taps_is_diagnosed_and_another_is_not(wrong: Data) -> None:
    found = result_of(wrong, "F01")["diagnosis"]
    assert found["mistake"] == "gelu by erf"
    assert found["stage"] == "blocks.0.token_mixing"
    assert found["explained"] > 0.999
    assert result_of(wrong, "F26", "probe")["diagnosis"] is None
    assert result_of(wrong, "F21")["diagnosis"] is None


def test_what_was_not_looked_for_is_stored_with_its_reason() -> None:
    run = data_of(ReferenceBackend(), level=1, scales=["mixer"], cases=["F01", "F03"])
    left = {family["case"]: family["why"] for family in run["not_run"]}
    assert left.keys() == CASES.keys() - {"F01", "F03"}
    assert left["F17"] == "level 3 was not asked for"
    assert left["F05"] == "none of its models was run"
    refused = data_of(hostile.RefusesEverything(), scales=["mixer"], cases=["F01"])
    left = {family["case"]: family["why"] for family in refused["not_run"]}
    assert left["F01"] == "the backend does not support it"


# --- the smallest change that is seen -------------------------------------------------------


def test_a_change_of_the_limit_is_found_and_half_of_it_is_not() -> None:
    trial = trial_of(ReferenceBackend(), "mixer", profile="f32-strict", limit=20)
    problem, taps = trial.standard, trial.spec.taps
    limits = detection_limits(problem, taps)
    assert limits.keys() == problem.weights.keys()
    assert max(limits.values()) < 1e-4
    for name in ("stem.kernel", "blocks.1.token_mixing.dense_0.bias", "head.bias"):
        for change, found in ((limits[name], True), (limits[name] / 2, False)):
            weights = dict(problem.weights) | {
                name: problem.weights[name].astype(np.float64) * (1 + change)
            }
            judged = problem.judge(forward(problem.spec, weights, problem.inputs, taps))
            assert found == (not all(tap.passed for tap in judged)), name


def test_an_engine_without_taps_cannot_show_the_last_bias_of_token_mixing() -> None:
    run = data_of(Mutant(sees_taps=False), scales=["mixer"], cases=["F03"], level=1)
    limits = result_of(run, "F03")["limits"]
    hidden = [name for name, limit in limits.items() if limit == "infinite"]
    assert hidden == [f"blocks.{i}.token_mixing.dense_1.bias" for i in (0, 1)]
    page = render([run])
    assert "2 of 30 weights are invisible" in page
    assert page.count("not at 1/64") == 2


# --- stored runs ----------------------------------------------------------------------------


def stored(path: Path, run: object) -> Path:
    path.write_text(json.dumps(run), encoding="utf-8")
    return path


def test_what_is_stored_is_read_again(tmp_path: Path, right: Data, wrong: Data) -> None:
    paths = [stored(tmp_path / f"{i}.json", run) for i, run in enumerate((right, wrong))]
    assert read_runs(paths) == [right, wrong]


def _without(run: Data, key: str) -> Data:
    return {name: value for name, value in run.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: [run], r"schema_version: expected 2, got None; do make the report anew"),
        (lambda run: run | {"schema_version": 1}, "schema_version: expected 2, got 1"),
        (lambda run: _without(run, "device"), r"\$: 'device' is a required property"),
        (lambda run: run | {"extra": 1}, "'extra' was unexpected"),
        (lambda run: run | {"level": 9}, r"\$\.level: 9 is greater than the maximum"),
        (lambda run: run | {"exit_code": 1}, "its own results make it 0 and not 1"),
        (lambda run: run | {"conformant": False}, "its own results make it 0"),
    ],
)
def test_a_report_that_breaks_its_schema_is_refused(
    change: Callable[[Data], object], message: str, tmp_path: Path, right: Data
) -> None:
    path = stored(tmp_path / "run.json", change(right))
    with pytest.raises(FileError, match=message):
        read_runs([path])


@pytest.mark.parametrize("text", ["", "{", '{"a": NaN}', "[" * 100_000, "\xff\xfe"])
def test_a_file_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FileError, match=r"run\.json: (is no JSON|schema_version)"):
        read_runs([path])


def test_a_number_that_is_none_is_refused(tmp_path: Path, right: Data) -> None:
    run = copy.deepcopy(right)
    run["results"][0]["taps"][0]["error"] = 1.5
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run).replace("1.5", "1e999", 1), encoding="utf-8")
    with pytest.raises(FileError, match=r"taps\[0\]\.error"):
        read_runs([path])


def test_every_wrong_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileError) as caught:
        read_runs([tmp_path / "a.json", stored(tmp_path / "b.json", {}), tmp_path])
    assert len(caught.value.problems) == 3


# --- the page -------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Every element of a page and its attributes, and all of its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def foreign(page: str) -> list[str]:
    """Everything of a page that could run, or load anything."""
    found = []
    for tag, attributes in Elements(page).found:
        if tag in {"script", "img", "link", "iframe", "object", "embed", "base", "form", "video"}:
            found.append(tag)
        for name, value in attributes.items():
            leads = name in {"src", "href", "action", "xlink:href"} and (value or "")[:1] != "#"
            if leads or name.startswith("on"):
                found.append(f"{tag} {name}")
    return found + re.findall(r"@import|url\(", page)


def spoiled(value: Any) -> Any:
    """Every text of third parties in a report replaced by one that attacks the page."""
    if isinstance(value, dict):
        free = {"named", "backend", "device", "model", "culprit", "message", "tap", "case"}
        free |= {"id", "mistake", "sentence", "stage", "catches", "why", "date"}
        return {
            key + HOSTILE if key in {"numpy", "stem.kernel"} else key: HOSTILE
            if key in free and isinstance(item, str)
            else spoiled(item)
            for key, item in value.items()
        }
    return [spoiled(item) for item in value] if isinstance(value, list) else value


def test_the_page_needs_nothing_and_runs_nothing(right: Data, wrong: Data) -> None:
    assert foreign(render([right, wrong])) == []


@pytest.mark.parametrize(
    "bad",
    ["<script></script>", "<p onclick=x>", "<a href=//x>", "<link>", "<style>@import 'x'</style>"],
)
def test_what_could_run_or_load_would_be_found(bad: str) -> None:
    assert foreign(bad)


def test_names_of_third_parties_stay_text(wrong: Data, right: Data) -> None:
    run = spoiled(wrong)
    assert list(Draft202012Validator(SCHEMA_DATA).iter_errors(run)) == []
    page = render([run, spoiled(right)])
    assert foreign(page) == []
    assert "\u202e" not in page
    shown = HOSTILE.replace("\u202e", "?")
    text = Elements(page).text
    assert text.count(shown) > 50
    assert "{{ 7 * 7 }}" in text  # and not 49


def test_a_command_keeps_a_hostile_name_in_quotes(wrong: Data) -> None:
    for cause in causes(spoiled(wrong)):
        for found in cause.found:
            words = shlex.split(found.again)
            assert words[:5] == ["mixer-spec", "conformance", "run", "--backend", HOSTILE]


def test_the_page_tells_verdicts_findings_and_limits(right: Data, wrong: Data) -> None:
    text = Elements(render([right, wrong])).text
    for told in (
        "mutant is not conformant",
        "L2 · f32-strict · spec 1",
        "gelu by erf explains 100 % of the error",
        "mixer-spec conformance locate --backend acme.engine:Backend",
        "What these runs could not have detected",
        "blocks.1.token_mixing.dense_0.bias",
        "√depth",
    ):
        assert told in text, told
    assert "reference is conformant" in Elements(render([right])).text


def test_findings_of_one_mistake_stand_together(wrong: Data) -> None:
    first, *others = causes(wrong)
    assert first.mistake == "gelu by erf"
    assert len(first.found) > 10
    assert [cause.mistake for cause in others] == [None]
    failed = sum(result["status"] == "fail" for result in wrong["results"])
    assert sum(len(cause.found) for cause in (first, *others)) == failed
    assert first.found[0].result["model"] == "mixer"


def test_a_right_run_has_no_cause(right: Data) -> None:
    assert causes(right) == []
    assert 'id="found"' not in render([right])


def test_the_matrix_joins_runs_and_shows_the_worst(right: Data, wrong: Data) -> None:
    small = data_of(ReferenceBackend(), scales=["signal"], cases=["F01"])
    double = data_of(ReferenceBackend(), profile="f64", scales=["mixer"], cases=["F01"])
    runs = [right, wrong, small, double]
    seen = columns(runs)
    assert [(column.backend, column.profile) for column in seen] == [
        ("reference", "f32-strict"),
        ("mutant", "f32-strict"),
        ("reference", "f64"),
    ]
    rows = dict(matrix(runs, seen))
    good, bad, _ = rows["mixer"]
    assert good is not None
    assert bad is not None
    assert (good.status, bad.status) == ("pass", "fail")
    assert good.heat.startswith("h")
    assert bad.heat == "far"
    assert float(bad.text) > 100
    assert [cell is not None for cell in rows["signal"]] == [True, False, False]
    assert rows["probe"][1] is not None
    assert rows["probe"][1].text == "∞"


def test_a_strip_has_a_cell_for_every_stage_and_marks_the_wrong_one() -> None:
    def double(tap: str, x: Any, y: Any) -> Any:
        return y * 2 if tap == "blocks.5.channel_mixing" else y

    run = data_of(Mutant(after=double), scales=["deep"], cases=["F01"])
    (model,) = stages([run], columns([run]))
    assert model.failed
    assert (model.before, model.blocks) == (("stem",), tuple(range(12)))
    assert model.after == ("norm", "pooled", "logits")
    (strip,) = model.strips
    bad = [
        (branch, block)
        for branch, cells in strip.branches
        for block, cell in enumerate(cells)
        if cell and cell.heat in ("over", "far")
    ]
    assert bad == [("channel_mixing", 5)]


def test_the_stages_of_drawn_models_are_not_shown_as_the_model_that_stands_for_them() -> None:
    run = data_of(ReferenceBackend(), scales=["no_block"], cases=["F30"])
    assert result_of(run, "F30", "no_block")["status"] == "pass"
    assert stages([run], columns([run])) == []
    assert 'id="stages"' not in render([run])


def test_the_root_of_the_depth_is_a_straight_line_with_slope_one_half(right: Data) -> None:
    run = data_of(ReferenceBackend(), scales=["deep"], cases=["F01"])
    (model,) = stages([run], columns([run]))
    plot = depth_plot(model)
    assert plot is not None
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in plot.root.split())
    decade = abs(plot.up[1][0] - plot.up[0][0])
    octave = plot.across[1][0] - plot.across[0][0]
    slope = ((y0 - y1) / decade * math.log(10)) / ((x1 - x0) / octave * math.log(2))
    assert slope == pytest.approx(0.5, abs=0.01)
    (line,) = plot.lines
    assert len(line.marks) == 24
    assert all(44 <= x <= plot.width and 0 <= y <= plot.height for x, y in line.marks)


@pytest.mark.parametrize("value", [0, 5e-324, 1e-7, 1, 1e300, "infinite", None])
def test_any_number_that_the_schema_lets_in_makes_a_page(value: object, right: Data) -> None:
    run = copy.deepcopy(right)
    for result in run["results"]:
        if isinstance(value, int | float) or value is None or result["status"] != "pass":
            result["margin"] = value
        for tap in result["taps"]:
            tap |= dict.fromkeys(("error", "noise", "tolerance", "margin", "local_margin"), value)
            tap["tap"] = tap["tap"].replace("blocks.1", "blocks.999999")
    assert list(Draft202012Validator(SCHEMA_DATA).iter_errors(run)) == []
    page = render([run])
    assert len(page) < 400_000
    numbers = re.findall(r' (?:points|cx|cy|x|y|x1|y1)="([^"]+)"', page)
    assert all(math.isfinite(float(n)) for text in numbers for n in re.split("[ ,]", text))
    assert (len(numbers) > 20) == (value in (1e-7, 1))
