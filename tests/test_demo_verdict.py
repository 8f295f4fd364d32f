"""The demo's verdict, on answers that are wrong on purpose."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from rich.console import Console

LABELS = np.arange(100) % 10
RIGHT = np.eye(10)[LABELS]


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``examples/digits.py``."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    return importlib.import_module("digits")


def verdict(digits: ModuleType, jax: np.ndarray, exact: np.ndarray = RIGHT) -> list[str]:
    with Console(quiet=True) as out:
        return digits.compare({"NumPy in float64": exact, "JAX": jax}, LABELS, out)


def test_right_answers_pass(digits):
    assert verdict(digits, RIGHT + 1e-6) == []


def test_one_other_answer_in_a_framework_is_a_problem(digits):
    other = RIGHT.copy()
    other[3] = RIGHT[4]
    assert verdict(digits, other) == ["JAX: 1 predictions are not those of float64"]


def test_less_than_97_percent_is_a_problem_even_when_all_agree(digits):
    poor = RIGHT.copy()
    poor[:4] = RIGHT[1:5]
    assert verdict(digits, poor, poor) == [
        "NumPy in float64: accuracy 96.0%; expected 97%",
        "JAX: accuracy 96.0%; expected 97%",
    ]


def test_a_problem_makes_the_demo_exit_with_one(digits, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(digits, "train", lambda data, out: (_zeros(digits), 0.1))
    monkeypatch.setattr(digits, "prove", lambda *_: [])
    assert digits.main(tmp_path) == 1
    assert "FAILED  JAX: accuracy" in capsys.readouterr().out


def _zeros(digits: ModuleType) -> dict[str, np.ndarray]:
    parameters = digits.SPEC.parameters()
    return {name: np.zeros(p.shape, np.float32) for name, p in parameters.items()}
