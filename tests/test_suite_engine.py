"""The suite's engine: statuses, exit codes, excuses, hostile backends, profiles, the zoo."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mixer_conformance import Excuse, Result, read_excuses, run
from mixer_conformance.audit import trial_of
from mixer_conformance.cases import CASES, ZOO, chosen
from mixer_conformance.cases.fuzz import drawn_spec
from mixer_conformance.excuses import excused, stale
from mixer_conformance.findings import Finding, of_bits, summed_up
from mixer_conformance.fingerprint import fingerprint
from mixer_conformance.measure import Array
from mixer_conformance.mutants import MUTANTS, Mutant, hostile
from mixer_conformance.mutants.changes import at, rounded_at, to_bfloat16, to_float16, to_tf32
from mixer_conformance.outputs import SuiteRun, verdict
from mixer_conformance.precision import PRECISIONS, to_int8
from mixer_conformance.result import Status, exit_code
from mixer_conformance.subject import Violation, limited
from mixer_conformance.suite import run_case
from mixer_spec import FileError, InputError, UnknownNameError, layers
from mixer_spec.backend import PROFILES, Profile
from mixer_spec.reference import Arithmetic, ReferenceBackend, Shuffled

TOMORROW = datetime.date.today() + datetime.timedelta(days=1)
YESTERDAY = datetime.date.today() - datetime.timedelta(days=1)


def statuses(results: Sequence[Result]) -> set[str]:
    return {result.status for result in results}


@pytest.mark.parametrize("backend", ["reference", "torch", "onnxruntime"])
def test_a_right_backend_passes_every_quick_case_far_from_the_limit(backend: str) -> None:
    results = run(backend)
    photos = {r.status for r in results if r.case == "F29"}
    assert photos == {"unsupported" if backend == "torch" else "pass"}
    others = [r for r in results if r.case != "F29"]
    assert statuses(others) == {"pass"}, [r for r in others if r.status != "pass"]
    assert {r.case for r in results} == {c.id for c in CASES.values() if c.level <= 2} - {"F28"}
    assert max(r.margin for r in results if r.margin is not None) < 0.6


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_float64_is_judged_as_float64(backend: str) -> None:
    results = run(backend, profile="f64", level=4, scales=["mixer", "probe"])
    assert statuses(results) <= {"pass", "unsupported"}, [r for r in results if r.status == "fail"]
    assert {r.case for r in results if r.status == "pass"} >= {"F01", "F02", "F17", "F19", "F26"}


def test_every_layer_kind_stands_in_a_model_of_the_zoo() -> None:
    kinds = {type(n.layer) for m in ZOO.values() if m.group < "Z4" for n in m.build().nodes()}
    assert kinds == {getattr(layers, name) for name in layers.__all__} & kinds
    assert len(kinds) >= 24


def test_a_backend_that_refuses_everything_has_not_passed() -> None:
    results = run(hostile.RefusesEverything(), scales=["mixer"])
    assert statuses(results) <= {"unsupported", "fail", "error"}
    assert exit_code([r for r in results if r.status == "unsupported"]) == 4


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ([], 4),
        (["unsupported"], 4),
        (["pass", "unsupported"], 0),
        (["pass", "expected_fail"], 0),
        (["pass", "unexpected_pass"], 1),
        (["pass", "fail"], 1),
        (["pass", "fail", "error"], 3),
    ],
)
def test_the_exit_code_tells_the_worst_status(given: list[str], code: int) -> None:
    results = [_result(status) for status in given]
    assert exit_code(results) == code


def _result(status: str = "fail") -> Result:
    return Result(
        case="F06",
        model="mixer",
        profile="f32-strict",
        level=1,
        status=status,  # type: ignore[arg-type]
        message="wrong",
    )


def _excuse(case: str = "F06/mixer", expires: datetime.date = TOMORROW) -> Excuse:
    return Excuse(case=case, reason="one pass", issue="https://example.org/1", expires=expires)


def test_an_excused_failure_is_expected() -> None:
    assert excused(_result(), [_excuse()]).status == "expected_fail"


def test_an_excuse_for_another_model_excuses_nothing() -> None:
    assert excused(_result(), [_excuse("F06/mix")]).status == "fail"


def test_an_excused_case_that_passes_fails_loudly() -> None:
    found = excused(_result("pass"), [_excuse()])
    assert found.status == "unexpected_pass"
    assert "remove the excuse" in found.message


def test_an_excuse_that_ran_out_excuses_nothing() -> None:
    found = excused(_result(), [_excuse(expires=YESTERDAY)])
    assert found.status == "fail"
    assert "ran out" in found.message


def test_an_excuse_for_nothing_is_stale() -> None:
    assert stale([_excuse("F99"), _excuse()], [_result()]) == [_excuse("F99")]


def test_excuses_are_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "excuses.toml"
    path.write_text(
        '[[excuse]]\ncase = "F06"\nreason = "one pass"\nissue = "https://example.org/1"\n'
        "expires = 2999-01-01\n"
    )
    assert [excuse.case for excuse in read_excuses(path)] == ["F06"]


@pytest.mark.parametrize(
    "text",
    [
        "[[excuse]]\ncase = 'F06'\n",
        "[[excuse]]\ncase = 'F06'\nreason = ''\nissue = 'x'\nexpires = 2999-01-01\n",
        "[[excuse]]\ncase = 'F06'\nreason = 'x'\nissue = 'x'\nexpires = 'never'\n",
        "excuses = 1\n",
        "not toml",
    ],
)
def test_an_excuse_that_is_not_filled_in_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "excuses.toml"
    path.write_text(text)
    with pytest.raises(FileError):
        read_excuses(path)


def test_a_call_that_does_not_return_is_left_behind() -> None:
    with pytest.raises(Violation, match=r"within 0\.2 s") as caught:
        limited("forward", lambda: hostile.threading.Event().wait(2), 0.2)
    assert caught.value.kind == "error"


def test_every_finding_of_a_hostile_backend_stands_beside_the_others() -> None:
    results = run(MUTANTS["a tap missing"].backend, scales=["mixer"])
    found = {result.case: result for result in results}
    assert found["F01"].status == "fail"
    assert found["F01"].culprit == "pooled"
    assert found["F21"].status == "pass"


def test_a_backend_that_writes_into_its_input_spoils_no_other_case() -> None:
    assert "fail" in statuses(run(hostile.WritesInput(), scales=["mixer"]))
    assert statuses(run("reference", scales=["mixer"])) == {"pass"}


@pytest.mark.parametrize(
    ("profile", "rounding"),
    [("f32-tf32", to_tf32), ("f32-bf16mm", to_bfloat16), ("int8", to_int8)],
)
def test_an_arithmetic_passes_under_its_own_name_and_not_under_float32s(
    profile: Profile, rounding: object
) -> None:
    weak = Mutant(arithmetic=rounded_at(by=rounding), profiles=(profile, "f32-strict"))  # type: ignore[arg-type]
    assert "fail" not in statuses(run(weak, profile=profile, cases=["F01", "F02", "F26"]))
    assert "fail" in statuses(run(weak, cases=["F01"]))


@pytest.mark.parametrize(("profile", "storage"), [("bf16", to_bfloat16), ("fp16", to_float16)])
def test_a_stored_arithmetic_passes_under_its_own_name(profile: Profile, storage: object) -> None:
    weak = Mutant(
        arithmetic=rounded_at(by=storage),  # type: ignore[arg-type]
        after=lambda tap, x, y: storage(y),  # type: ignore[operator]
        profiles=(profile,),
    )
    assert "fail" not in statuses(run(weak, profile=profile, cases=["F01"]))


def test_every_profile_has_a_precision() -> None:
    assert set(PRECISIONS) == set(PROFILES)


@pytest.mark.parametrize(
    ("mutant", "bits"),
    [(Mutant(), 24), (Mutant(arithmetic=rounded_at(by=to_tf32)), 11)],
)
def test_a_fingerprint_counts_the_bits_of_every_product(mutant: Mutant, bits: int) -> None:
    trial = trial_of(mutant, "probe", profile="f32-strict", limit=20)
    found = fingerprint(trial.subject, trial.spec)
    assert set(found.bits.values()) == {bits}
    assert found.gelu is not None
    assert found.gelu.startswith("tanh")
    assert found.epsilon == pytest.approx(1e-6, rel=1e-2)


def test_whole_numbers_are_exact_in_float64_too() -> None:
    (right,) = run("reference", profile="f64", cases=["F02"])
    assert right.status == "pass"
    mistaken = replace(
        MUTANTS["gelu ignored"].backend, arithmetic=lambda tap: Arithmetic(), profiles=("f64",)
    )
    (wrong,) = run(mistaken, profile="f64", cases=["F02"])
    assert (wrong.status, wrong.culprit) == ("fail", "blocks.1.token_mixing")


@pytest.mark.parametrize("profile", ["f32-strict", "f64"])
@pytest.mark.parametrize(
    "tap", ["stem", "blocks.1.token_mixing", "blocks.1.channel_mixing", "logits"]
)
def test_a_whole_number_off_by_one_unit_in_its_last_place_is_rejected(
    tap: str, profile: Profile
) -> None:
    def off(x: Array, y: Array) -> Array:
        y = y.copy()
        y.flat[-1] = np.nextafter(y.flat[-1], y.dtype.type(0))
        return y

    dtype = PRECISIONS[profile].dtype
    mutant = Mutant(
        arithmetic=lambda tap: Arithmetic(dtype), after=at(tap, off), profiles=(profile,)
    )
    (wrong,) = run(mutant, profile=profile, cases=["F02"])
    assert (wrong.status, wrong.culprit) == ("fail", tap)
    assert "1 of " in wrong.message


def _kept_in_float32(found: Array) -> Array:
    return found.astype(np.float32)


@pytest.mark.parametrize(
    "right",
    [
        Mutant(arithmetic=lambda tap: Shuffled(3)),
        # Wide inside of a step, and wide all along.
        Mutant(arithmetic=lambda tap: Arithmetic(), after=lambda tap, x, y: _kept_in_float32(y)),
        Mutant(
            arithmetic=lambda tap: Arithmetic(np.float64 if "mixing" in tap else np.float32),
            taps=lambda found: {tap: _kept_in_float32(y) for tap, y in found.items()},
        ),
    ],
    ids=["another order", "float64 steps", "float64 between float32 steps"],
)
def test_whole_numbers_are_whole_in_every_right_arithmetic(right: Mutant) -> None:
    (result,) = run(right, cases=["F02"])
    assert (result.status, result.margin) == ("pass", 0.0)


def test_a_backend_that_computes_in_float64_conforms_in_float32() -> None:
    wide = Mutant(
        arithmetic=lambda tap: Arithmetic(),
        taps=lambda found: {tap: table.astype(np.float32) for tap, table in found.items()},
    )
    results = run(wide, scales=["mixer", "vit", "probe"])
    assert {r.id for r in results if r.status != "pass"} == {"F29/mixer/f32-strict"}
    assert "F02/probe/f32-strict" in {r.id for r in results}


def test_a_backend_that_returns_nothing_but_nan_fails_without_a_warning() -> None:
    results = run(Mutant(after=lambda tap, x, y: y * np.float32(np.nan)), scales=["deep"])
    margins = {result.case: result.margin for result in results if result.status == "fail"}
    assert {"F01", "F28"} <= margins.keys()
    assert set(margins.values()) == {math.inf}


class _NotImplementedHere(hostile.Honest):
    """Runs its models, but for what raises ``NotImplementedError`` by accident."""

    def load(self, spec: Any, weights: Any, *, profile: str) -> Any:
        if any(w.dtype != np.float32 for w in weights.values()):
            raise NotImplementedError("bfloat16")
        right = super().load(spec, weights, profile=profile)
        if spec.classes == 32:
            raise NotImplementedError("32 classes")

        def forward(inputs: Array, taps: Sequence[str] = ()) -> Any:
            if not inputs.dtype.isnative:
                raise NotImplementedError("big-endian")
            return type(right).forward(right, inputs, taps)

        return SimpleNamespace(forward=forward, export_weights=right.export_weights)


def test_a_refusal_of_one_call_is_an_error_and_of_a_model_is_unsupported() -> None:
    results = run(_NotImplementedHere(), scales=["mixer", "probe"], cases=["F01", "F12", "F22"])
    found = {r.id: (r.status, r.message) for r in results if r.status != "pass"}
    otherwise = "; expected an answer, since it runs this model otherwise"
    assert found == {
        "F12/mixer/f32-strict": (
            "error",
            f"forward raised NotImplementedError: big-endian{otherwise}",
        ),
        "F22/mixer/f32-strict": (
            "error",
            f"load raised NotImplementedError: bfloat16{otherwise}",
        ),
        "F01/probe/f32-strict": ("unsupported", "load raised NotImplementedError: 32 classes"),
    }


def test_what_was_found_before_a_refusal_stays_found() -> None:
    def refusing(trial: object) -> Iterator[Finding]:
        yield Finding(2.0, "wrong", "stem")
        raise Violation("no more", "unsupported")

    trial = trial_of(Mutant(), "mixer", profile="f32-strict", limit=20)
    result = run_case(replace(CASES["F01"], check=refusing), trial)
    assert (result.status, result.culprit, result.message) == ("fail", "stem", "wrong")


def test_a_profile_that_is_not_claimed_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="f32-tf32"):
        run("reference", profile="f32-tf32")


@pytest.mark.parametrize("wrong", [{"level": 5}, {"cases": ["F99"]}, {"scales": ["Z9"]}])
def test_an_unknown_choice_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        run("reference", **wrong)  # type: ignore[arg-type]


def test_drawn_models_are_of_many_kinds() -> None:
    kinds = {type(node.layer) for seed in range(26) for node in drawn_spec(seed).nodes()}
    assert len(kinds) >= 22


def test_a_quick_run_is_part_of_a_full_one() -> None:
    assert set(chosen("quick")) < set(chosen("full")) < set(chosen("nightly"))


def test_a_case_that_looked_at_nothing_has_not_passed() -> None:
    assert not summed_up([]).passed


def test_one_bit_is_seen() -> None:
    one = np.array([1.0, 2.0], np.float32)
    assert of_bits(one, one.copy(), "x").passed
    assert not of_bits(np.nextafter(one, np.float32(9)), one, "x").passed


def test_the_first_failure_is_told_and_the_worst_margin_kept() -> None:
    found = summed_up([Finding(0.1, "a"), Finding(2.0, "b", "stem"), Finding(math.inf, "c")])
    assert (found.margin, found.message, found.culprit) == (math.inf, "b", "stem")


def test_an_engine_without_taps_is_judged_at_its_logits() -> None:
    blind = replace(MUTANTS["gelu by erf"].backend, sees_taps=False)
    (result,) = run(blind, cases=["F01"], scales=["mixer"])
    assert (result.status, result.culprit, result.diagnosis) == ("fail", "logits", None)


def test_verdict_names_the_level_that_was_reached() -> None:
    def sentence(*results: tuple[int, Status]) -> str:
        shown = [
            Result(case="F01", model="mixer", profile="f32-strict", level=level, status=status)
            for level, status in results
        ]
        info = ReferenceBackend().info()
        return verdict(
            SuiteRun(
                backend="reference",
                info=info,
                level=4,
                profile="f32-strict",
                effort="quick",
                seed=0,
                results=shown,
            )
        )

    assert "conformant at level 2 (4 was asked for)" in sentence((2, "pass"), (4, "unsupported"))
    assert "conformant at level 4 in" in sentence((2, "pass"), (4, "pass"))
    assert "NOT conformant at level 4 in" in sentence((2, "pass"), (4, "fail"))
