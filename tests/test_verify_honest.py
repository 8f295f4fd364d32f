"""Correct implementations pass with room to spare, and the report says what was done."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from mixer_conformance import verify
from mixer_spec import BackendInfo, InputError, ModelSpec, UnknownNameError, families
from mixer_spec.reference import Arithmetic, ReferenceBackend, Shuffled, forward
from mixer_spec.reference.layers import COMPUTE
from tests.small_models import SMALL_MODELS

Array = np.ndarray[Any, Any]
SPECS = SMALL_MODELS | {
    "one of each": families.mixer(
        image_size=4, patch=4, channels=1, depth=1, token_hidden=1, channel_hidden=1, classes=1
    ),
    "no blocks": families.mixer(
        image_size=8, patch=4, channels=6, depth=0, token_hidden=5, channel_hidden=7, classes=3
    ),
}


class OneArithmetic:
    """The reference in a given arithmetic, as a backend."""

    def __init__(self, arithmetic: Arithmetic, *, name: str = "other", taps: bool = True) -> None:
        self.arithmetic, self.name, self.taps = arithmetic, name, taps

    def info(self) -> BackendInfo:
        return BackendInfo(
            name=self.name,
            versions={"numpy": np.__version__},
            device="cpu",
            profiles=("f32-strict",),
            taps=self.taps,
        )

    def load(self, spec: ModelSpec, weights: Mapping[str, Array], *, profile: str) -> Any:
        return OneModel(self, spec, weights)


class OneModel:
    def __init__(
        self, backend: OneArithmetic, spec: ModelSpec, weights: Mapping[str, Array]
    ) -> None:
        self.backend, self.spec, self.weights = backend, spec, weights

    def forward(self, images: Array, taps: Sequence[str] = ()) -> Mapping[str, Array]:
        assert self.backend.taps or tuple(taps) == ("logits",)
        return forward(self.spec, self.weights, images, taps, arithmetic=self.backend.arithmetic)

    def export_weights(self) -> Mapping[str, Array]:
        return self.weights


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("seed", "batch"), [(0, 1), (1, 2), (2, 3), (-5, 2)])
def test_float32_in_any_order_passes(name: str, seed: int, batch: int) -> None:
    backends = [ReferenceBackend(), OneArithmetic(Shuffled(1000 + seed))]
    report = verify(SPECS[name], backends, seed=seed, batch=batch)
    assert report.conformant
    for backend in report.backends:
        assert backend.first_bad_stage is None
        assert backend.worst is not None
        assert backend.worst[1].margin < 0.75
        assert [tap.tap for tap in backend.taps] == list(SPECS[name].taps)
        assert all(tap.local and tap.end_to_end for tap in backend.taps)


def test_the_same_question_has_the_same_answer() -> None:
    one, other = (verify(SPECS["mixer"], ["reference"], batch=2).to_data() for _ in range(2))
    for data in (one, other):
        data.pop("seconds")
        data["backends"][0].pop("seconds")
    assert one == other


def test_an_engine_without_taps_is_judged_on_its_logits_and_the_report_says_so() -> None:
    report = verify(SPECS["mixer"], [OneArithmetic(Shuffled(9), taps=False), "reference"])
    blind, seeing = report.backends
    assert blind.conformant
    assert blind.to_data()["judged"] == "logits"
    assert seeing.to_data()["judged"] == "taps"
    assert [tap.tap for tap in blind.taps if tap.judgements] == ["logits"]
    assert blind.taps[-1].local is None


def test_the_report_is_json_with_every_number_and_its_derivation() -> None:
    report = verify(SPECS["mixer"], ["reference"], seed=4, batch=2, name="small")
    data = json.loads(json.dumps(report.to_data(), allow_nan=False))
    assert data["schema_version"] == 1
    assert data["name"] == "small"
    assert data["fingerprint"] == SPECS["mixer"].fingerprint
    assert (data["seed"], data["batch"], data["tolerance"]["yardstick_runs"]) == (4, 2, 8)
    (backend,) = data["backends"]
    assert [tap["tap"] for tap in backend["taps"]] == list(SPECS["mixer"].taps)
    for tap in backend["taps"]:
        for view in ("local", "end_to_end"):
            found, allowed = tap[view], tap[view]["tolerance"]
            noise = max(allowed["yardstick_rms"], allowed["floor_rms"])
            assert allowed["rms"] == pytest.approx(4 * noise)
            assert found["passed"]
            assert found["margin"] == pytest.approx(
                max(found["rms"] / allowed["rms"], found["max"] / allowed["max"])
            )
    margins = [tap[view]["margin"] for tap in backend["taps"] for view in ("local", "end_to_end")]
    assert backend["margin"] == max(margins)


def test_the_report_of_a_nan_is_json_too() -> None:
    class Poisoned(Arithmetic):
        def matmul(self, left: Array, right: Array) -> Array:
            return super().matmul(left, right) * np.float32(math.nan)

    report = verify(SPECS["mixer"], [OneArithmetic(Poisoned(np.float32))])
    assert report.backends[0].first_bad_stage == "stem"
    stem = json.loads(json.dumps(report.to_data(), allow_nan=False))["backends"][0]["taps"][0]
    assert stem["local"]["finite"] is False
    assert stem["local"]["rms"] is None
    assert stem["local"]["passed"] is False


def test_progress_is_told_of_every_backend_and_tap() -> None:
    told: list[str] = []
    verify(SPECS["no blocks"], ["reference"], progress=told.append)
    assert told == [
        "running reference",
        "judging stem",
        "judging norm",
        "judging pooled",
        "judging logits",
    ]


def test_no_backend_is_an_error() -> None:
    with pytest.raises(InputError, match="backends: nothing to verify; expected at least one"):
        verify(SPECS["mixer"], [])


def test_an_unknown_backend_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="backend 'refrence': is not registered"):
        verify(SPECS["mixer"], ["refrence"])


def test_a_backend_that_does_not_claim_float32_is_refused() -> None:
    class Weak(OneArithmetic):
        def info(self) -> BackendInfo:
            return BackendInfo(name="weak", versions={}, device="npu", profiles=("f64",))

    with pytest.raises(
        UnknownNameError,
        match=r"backend weak: does not claim the profile; expected one of \['f64'\], got 'f32-st",
    ):
        verify(SPECS["mixer"], [Weak(Arithmetic())])


def test_every_layer_kind_is_under_test() -> None:
    assert {type(node.layer) for spec in SPECS.values() for node in spec.nodes()} == set(COMPUTE)
