"""Negative controls of `verify`: the catalogue's mistakes in what is computed, rejected and located."""

from __future__ import annotations

import dataclasses
import functools

import pytest

from mixer_conformance import BackendReport, verify
from mixer_conformance.cases import ZOO
from mixer_conformance.diagnosis import is_nameable
from mixer_conformance.mutants import MUTANTS, Mutant
from mixer_spec.reference.layers import COMPUTE

# What shows on conformance weights and inputs, which are all that `verify` runs.
SHOWN = {
    name: known
    for name, known in MUTANTS.items()
    if isinstance(known.backend, Mutant)
    and known.killer in ("F01", "F04")
    and known.profile == "f32-strict"
    and known.stage in ZOO[known.model].build().taps
}
MODELS = sorted({known.model for known in SHOWN.values()})


def run(mutant: Mutant, model: str) -> BackendReport:
    return verify(ZOO[model].build(), [mutant], batch=3).backends[0]


@functools.cache
def reports(model: str) -> dict[str, BackendReport]:
    """Of every mutant on one model, by its name; one oracle serves all."""
    names = [name for name, known in SHOWN.items() if known.model == model]
    found = verify(ZOO[model].build(), [SHOWN[name].backend for name in names], batch=3)
    return dict(zip(names, found.backends, strict=True))


@pytest.mark.parametrize("name", SHOWN)
def test_a_mutant_is_rejected_and_located(name: str) -> None:
    report = reports(SHOWN[name].model)[name]
    assert report.crash is None
    assert not report.conformant
    assert report.first_bad_stage == SHOWN[name].stage


@pytest.mark.parametrize("model", MODELS)
def test_the_mutant_without_a_mistake_is_conformant(model: str) -> None:
    assert run(Mutant(), model).conformant


def test_the_mutants_models_hold_every_layer_kind() -> None:
    covered = {type(node.layer) for model in MODELS for node in ZOO[model].build().nodes()}
    assert covered == set(COMPUTE)


def test_most_of_the_catalogue_is_run_here() -> None:
    mutants = [known.backend for known in MUTANTS.values() if isinstance(known.backend, Mutant)]
    computed = [mutant for mutant in mutants if is_nameable(mutant)]
    assert len(SHOWN) > 0.8 * len(computed)


def test_the_weakest_mutants_are_far_outside_the_tolerance() -> None:
    for name in ("gelu by erf", "TF32 in one branch", "gelu with 0.044"):
        report = run(SHOWN[name].backend, "mixer")
        (tap,) = (tap for tap in report.taps if tap.tap == SHOWN[name].stage)
        assert tap.local is not None
        assert tap.local.margin > 30, name


def test_a_mistake_leaves_the_later_stages_clean() -> None:
    report = run(SHOWN["stem's bias dropped"].backend, "mixer")
    assert [t.tap for t in report.taps if t.local and not t.local.passed] == ["stem"]
    assert all(not t.end_to_end.passed for t in report.taps if t.end_to_end)


def test_logits_alone_cannot_see_the_token_bias() -> None:
    mutant = SHOWN["token bias dropped"].backend
    blind = dataclasses.replace(mutant, sees_taps=False)
    assert run(blind, "mixer").conformant
    assert not run(mutant, "mixer").conformant


def test_a_wrong_engine_without_taps_is_rejected_at_its_logits() -> None:
    blind = dataclasses.replace(SHOWN["gelu by erf"].backend, sees_taps=False)
    report = run(blind, "mixer")
    assert not report.conformant
    assert report.first_bad_stage == "logits"
