"""The demo's verdict, on answers that are wrong on purpose."""

import copy
import importlib
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

GOOD = {
    "backends": {
        name: {"examples": 100, "correct": 98, "accuracy": 0.98}
        for name in ("jax", "torch", "onnxruntime")
    },
    "good": True,
    "same_predictions": True,
    "not_installed": {},
    "verdict": {
        "conformant": True,
        "backends": [
            {"name": name, "conformant": True} for name in ("jax", "torch", "onnxruntime")
        ],
    },
}


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``examples/digits.py``."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    return importlib.import_module("digits")


def verdict(digits: ModuleType, deployment: dict) -> list[str]:
    with Console(quiet=True) as out:
        return digits.compare(deployment, out)


def test_right_answers_pass(digits):
    assert verdict(digits, GOOD) == []


def test_other_answers_in_a_framework_are_a_problem(digits):
    found = verdict(digits, GOOD | {"same_predictions": False})
    assert found == ["the frameworks give some digits different classes"]


def test_less_than_97_percent_is_a_problem_even_when_all_agree(digits):
    poor = copy.deepcopy(GOOD)
    for run in poor["backends"].values():
        run.update(correct=96, accuracy=0.96)
    assert verdict(digits, poor) == [
        f"{name}: accuracy 96.0%; expected 97%" for name in ("JAX", "PyTorch", "ONNX Runtime")
    ]


def test_a_framework_that_is_not_conformant_is_a_problem(digits):
    off = copy.deepcopy(GOOD)
    off["verdict"]["backends"][1]["conformant"] = False
    assert verdict(digits, off) == ["PyTorch: is not conformant"]


def test_a_framework_that_is_missing_is_a_problem(digits):
    assert verdict(digits, GOOD | {"not_installed": {"torch": "needs torch"}}) == [
        "PyTorch: needs torch"
    ]
