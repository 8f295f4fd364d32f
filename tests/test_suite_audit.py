"""The suite judged: every mutant is killed by its family, located and named; no right one is."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mixer_conformance.audit import accuses, examine, honest_margins, trial_of
from mixer_conformance.diagnosis import diagnose
from mixer_conformance.locate import locate, prefix, write_reproduction
from mixer_conformance.mutants import EQUIVALENT, MUTANTS, Mutant
from mixer_conformance.mutants.changes import at
from mixer_conformance.mutants.trainer import Trained, Trainer
from mixer_conformance.suite import run
from mixer_spec import load_backend

# A branch that reads what a later branch made cannot be fitted at its own stage.
UNNAMED = {"branches in the other order"}


def test_there_are_a_hundred_mutants_of_every_part() -> None:
    assert len(MUTANTS) >= 100
    assert {known.killer for known in MUTANTS.values()} >= {
        *("F01", "F02", "F04", "F05", "F06", "F07", "F08", "F10", "F11", "F12"),
        *("F17", "F19", "F21", "F23", "F24", "F25", "F26", "F27", "F28", "F29"),
    }


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed_and_located_by_its_family(name: str) -> None:
    verdict = examine(MUTANTS[name], [MUTANTS[name].killer])
    assert verdict.killed
    assert verdict.margin >= 3
    assert verdict.located_rightly, verdict.located
    assert verdict.named_rightly or not verdict.nameable or name in UNNAMED, verdict.named


@pytest.mark.parametrize("equivalent", EQUIVALENT, ids=lambda equivalent: equivalent.name)
def test_an_equivalent_mutant_is_not_accused(equivalent: object) -> None:
    assert not accuses(equivalent)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "answer", "message"),
    [
        ("vjp", None, "vjp must return Gradients, got NoneType"),
        ("train_step", None, "train_step must return a number and a TrainState, got NoneType"),
        ("train_step", (0.5, {}), "train_step must return a number and a TrainState, got (float,"),
        ("train_step", (None, None), "a TrainState, got (NoneType, NoneType)"),
    ],
)
def test_an_answer_of_another_type_is_a_finding(
    call: str, answer: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trained, call, lambda self, *given, **named: answer)
    case = "F17" if call == "vjp" else "F19"
    (result,) = run(Trainer(), level=4, scales=["mixer"], cases=[case])
    assert result.status == "fail"
    assert message in result.message


def test_the_mutant_without_a_mistake_is_not_accused() -> None:
    found = honest_margins([Mutant()], range(2), ["Z1"])
    assert sum(worst.runs for worst in found) > 100
    assert not any(worst.alarms for worst in found)


@pytest.mark.parametrize("backend", ["torch", "jax", "onnxruntime"])
def test_a_right_backend_raises_no_false_alarm(backend: str) -> None:
    found = honest_margins([load_backend(backend)], range(2), ["one_class", "mixer", "vit"])
    assert sum(worst.runs for worst in found) == 2 * (5 + 5 + 5)  # F04 has a model of its own
    assert not any(worst.alarms for worst in found)


def test_the_audit_counts_alarms_and_keeps_the_worst() -> None:
    wrong = MUTANTS["epsilon 1e-5"].backend
    found = {
        w.result.case: w for w in honest_margins([wrong], range(3), ["mixer"], cases=["F01", "F05"])
    }
    assert found["F05"].alarms == found["F05"].runs == 3
    margins = [
        run(wrong, cases=["F01"], scales=["mixer"], seed=seed)[0].margin or 0 for seed in range(3)
    ]
    assert found["F01"].margin == max(margins)
    assert found["F01"].seed == margins.index(max(margins))


def test_a_diagnosis_names_the_mistake_and_its_runner_up() -> None:
    trial = trial_of(MUTANTS["gelu by erf"].backend, "mixer", profile="f32-strict", limit=20)
    found = diagnose(trial)
    assert found is not None
    assert found.names == ("gelu by erf",)
    assert found.best is not None
    assert found.best.explained > 0.9999
    assert found.runner_up is not None
    assert found.runner_up.explained < 0.5


@pytest.mark.parametrize(
    ("name", "case", "stage"),
    [
        ("a branch detached", "F17", "blocks.0.token_mixing"),
        ("decay in the gradient", "F19", "first_moment stem.kernel"),
    ],
)
def test_what_is_wrong_in_going_back_is_named_beside_a_right_forward_pass(
    name: str, case: str, stage: str
) -> None:
    level = 3 if case == "F17" else 4
    backend = MUTANTS[name].backend
    found = {r.case: r for r in run(backend, level=level, scales=["mixer"], cases=["F01", case])}
    assert (found["F01"].status, found[case].status) == ("pass", "fail")
    diagnosis = found[case].diagnosis
    assert diagnosis is not None
    assert (diagnosis.mistake, diagnosis.stage) == (name, stage)
    trial = trial_of(backend, "mixer", profile="f32-strict", limit=20)
    assert locate(trial) is None
    location = locate(trial, level)
    assert location is not None
    assert (location.stage, location.plain) == (stage, False)
    assert "of its size, tolerance" in location.message


def test_a_wrong_forward_pass_is_told_before_the_gradients_that_follow_from_it() -> None:
    forward = MUTANTS["head's bias dropped"].backend

    class Both(Mutant):
        def load(self, spec: Any, weights: Any, *, profile: str) -> Any:
            model = Trainer(gradients=lambda g: {n: 2 * a for n, a in g.items()}).load(
                spec, weights, profile=profile
            )
            wrong = forward.load(spec, weights, profile=profile)
            object.__setattr__(model, "forward", wrong.forward)
            return model

    found = diagnose(trial_of(Both(), "mixer", profile="f32-strict", limit=20), 4)
    assert found is not None
    assert (found.stage, found.names) == ("logits", ("head's bias dropped",))


def test_nothing_is_diagnosed_where_nothing_is_wrong() -> None:
    trial = trial_of(Trainer(), "mixer", profile="f32-strict", limit=20)
    assert diagnose(trial, 4) is None
    assert locate(trial, 4) is None


@pytest.mark.parametrize("block", [0, 5, 11])
@pytest.mark.parametrize("branch", ["token_mixing", "channel_mixing"])
def test_an_opaque_engine_is_located_by_its_prefixes(block: int, branch: str) -> None:
    stage = f"blocks.{block}.{branch}"
    opaque = Mutant(after=at(stage, lambda x, y: y - x), sees_taps=False)
    found = locate(trial_of(opaque, "deep", profile="f32-strict", limit=20))
    assert found is not None
    assert found.stage == stage
    assert found.runs <= 8


def test_an_opaque_engine_with_a_wrong_head_is_not_blamed_on_a_block() -> None:
    opaque = dataclasses.replace(MUTANTS["head's bias dropped"].backend, sees_taps=False)
    found = locate(trial_of(opaque, "deep", profile="f32-strict", limit=20))
    assert found is not None
    assert found.stage == "stem, norm, pooled or logits"


def test_a_prefix_keeps_the_transition_of_its_stage() -> None:
    spec = trial_of(Mutant(), "pyramid", profile="f32-strict", limit=20).spec
    for tap in spec.taps[1:-3]:
        assert prefix(spec, tap).taps == (*spec.taps[: spec.taps.index(tap) + 1], *spec.taps[-3:])


def test_a_reproduction_is_small_and_runs_alone(tmp_path: Path) -> None:
    name = "mixer_conformance.mutants.hostile:DropsInputs"
    trial = trial_of(
        Mutant(after=at("norm", lambda x, y: x)), "deep", profile="f32-strict", limit=9
    )
    path = tmp_path / "repro.py"
    spec = write_reproduction(path, trial, name, "norm")
    assert spec.depth == 0
    assert spec.parameter_count < trial.spec.parameter_count / 4
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    assert "logits" in done.stdout
