"""A backend that breaks a rule of the protocol is reported with the rule, and harms no other."""

from __future__ import annotations

import numpy as np
import pytest

from mixer_conformance import verify
from mixer_conformance.measure import Array
from mixer_conformance.mutants import Mutant
from mixer_conformance.mutants.broken_rules import replaced, without
from mixer_spec import families

SPEC = families.mixer(
    image_size=(8, 12), patch=4, channels=8, depth=2, token_hidden=5, channel_hidden=12, classes=7
)


@pytest.mark.parametrize(
    ("mutant", "place", "rule"),
    [
        (Mutant(taps=without("pooled")), "pooled", "was not returned"),
        (Mutant(taps=without("logits")), "logits", "was not returned"),
        (
            Mutant(taps=replaced("norm", lambda y: y.mean(axis=1))),
            "norm",
            "wrong shape; expected [3, 6, 8], got [3, 8]",
        ),
        (
            Mutant(taps=replaced("stem", lambda y: y[:1])),
            "stem",
            "wrong shape; expected [3, 6, 8], got [1, 6, 8]",
        ),
        (
            Mutant(taps=replaced("logits", lambda y: y.astype(np.float64))),
            "logits",
            "wrong dtype; expected a NumPy array of float32, got float64",
        ),
        (
            Mutant(taps=replaced("logits", lambda y: y.tolist())),
            "logits",
            "wrong dtype; expected a NumPy array of float32, got list",
        ),
        (
            Mutant(exported=without("head.bias")),
            "head.bias",
            "is missing from the exported weights",
        ),
        (
            Mutant(exported=lambda weights: weights | {"head.gain": weights["head.bias"]}),
            "head.gain",
            "was exported but never loaded",
        ),
        (
            Mutant(exported=replaced("stem.kernel", lambda k: np.nextafter(k, np.float32(9)))),
            "stem.kernel",
            "its exported bits differ from those that were loaded",
        ),
        (
            Mutant(exported=replaced("head.kernel", lambda k: k.astype(np.float64))),
            "head.kernel",
            "its exported bits differ from those that were loaded",
        ),
    ],
)
def test_a_broken_rule_is_reported(mutant: Mutant, place: str, rule: str) -> None:
    report = verify(SPEC, [mutant], batch=3).backends[0]
    assert not report.conformant
    assert report.problems == {place: rule}
    if place in SPEC.taps:
        assert report.first_bad_stage == place


def test_a_crash_is_reported_and_the_others_are_still_judged() -> None:
    def crash(images: Array) -> Array:
        raise RuntimeError("out of memory\non device 0")

    broken = Mutant(images=crash)
    report = verify(SPEC, [broken, Mutant()], batch=2)
    assert report.backends[0].crash == "forward raised RuntimeError: out of memory\non device 0"
    assert report.backends[0].taps == ()
    assert not report.backends[0].conformant
    assert report.backends[1].conformant
    assert not report.conformant


def test_a_backend_that_writes_into_its_input_does_not_harm_the_others() -> None:
    def overwrite(images: Array) -> Array:
        images *= np.float32(2.0)
        return images

    vandal, honest = verify(SPEC, [Mutant(images=overwrite), Mutant()], batch=2).backends
    assert vandal.first_bad_stage == "stem"
    assert honest.conformant
