"""Few-shot least squares against scikit-learn's Ridge; the choice of examples; the command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mixer_spec.cli import app
from mixer_spec.errors import InputError, SpecError
from mixer_spec.fewshot import BIG_VISION, FewShot, choose, classify, few_shot, least_squares

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(("examples", "width"), [(10, 40), (40, 10), (25, 25), (1, 7)])
@pytest.mark.parametrize("regularisation", [1e-2, 1.0, 1024.0])
def test_least_squares_are_scikit_learns_ridge(
    examples: int, width: int, regularisation: float
) -> None:
    from sklearn.linear_model import Ridge

    features, targets = (
        RANDOM.standard_normal((examples, width)),
        RANDOM.standard_normal((examples, 3)),
    )
    found = least_squares(features, targets, regularisation)
    ridge = Ridge(alpha=regularisation, fit_intercept=False, solver="svd").fit(features, targets)
    expected = ridge.coef_.reshape(3, width).T
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
    wrong = least_squares(features, targets, 1.01 * regularisation + 0.01)
    assert np.abs(wrong - expected).max() > 1e-6 * np.abs(expected).max()


def test_a_whole_classifier_is_scikit_learns() -> None:
    from sklearn.linear_model import Ridge

    labels = np.repeat(np.arange(4), 10)
    centres = RANDOM.standard_normal((4, 30))
    train = (centres[labels] + RANDOM.standard_normal((40, 30))).astype(np.float32)
    test_labels = RANDOM.integers(0, 4, 200)
    test = (centres[test_labels] + RANDOM.standard_normal((200, 30))).astype(np.float32)
    mean, scale = train.astype(float).mean(0), train.astype(float).std(0) + 1e-5

    def prepared(x: Any) -> Any:
        return np.c_[(x.astype(float) - mean) / scale, np.full(len(x), 100.0)]

    ridge = Ridge(alpha=1024.0, fit_intercept=False, solver="svd")
    ridge.fit(prepared(train), 2.0 * (labels[:, None] == np.arange(4)) - 1)
    found = classify(BIG_VISION, train, labels, test, 4)
    assert np.array_equal(found, ridge.predict(prepared(test)).argmax(1))
    assert (found == test_labels).mean() > 0.8
    assert len(set(classify(BIG_VISION, train, np.zeros(40, int), test, 4))) == 1


def test_the_choice_is_numpys_permutation_class_by_class() -> None:
    labels = RANDOM.integers(0, 3, 50)
    generator = np.random.default_rng(7)
    expected = [generator.permutation(np.flatnonzero(labels == c))[:4] for c in range(3)]
    chosen = choose(labels, 3, 4, 7)
    assert chosen.tolist() == np.concatenate(expected).tolist()
    assert labels[chosen].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert not np.array_equal(chosen, choose(labels, 3, 4, 8))
    fewer = choose(labels, 3, 2, 7).reshape(3, 2)
    assert np.array_equal(fewer, chosen.reshape(3, 4)[:, :2])


def test_classes_with_too_few_examples_are_named() -> None:
    with pytest.raises(
        InputError, match="expected 2 of each class, got class 1 has 1, class 2 has 0"
    ):
        choose(np.array([0, 0, 1]), 3, 2, 0)


def test_features_are_asked_for_once_and_only_those_that_are_needed() -> None:
    labels = np.repeat(np.arange(3), 50)
    features = np.eye(3)[labels] + RANDOM.standard_normal((150, 3)) * 0.1
    asked: list[Any] = []

    def train_features(numbers: Any) -> Any:
        asked.append(numbers)
        return features[numbers]

    found = few_shot(BIG_VISION, labels, labels, 3, train_features, features)
    assert len(asked) == 1
    assert len(asked[0]) == found.train_examples < 150
    assert list(found.accuracies) == [1, 5, 10, 25]
    assert all(len(seeds) == 3 for seeds in found.accuracies.values())
    assert found.mean(25) > 0.99
    noise = RANDOM.standard_normal((150, 3))
    control = few_shot(BIG_VISION, labels, labels, 3, lambda n: noise[n], noise)
    assert control.mean(25) < 0.6


def test_settings_are_data() -> None:
    assert FewShot.from_data(json.loads(json.dumps(BIG_VISION.to_data())), "x") == BIG_VISION
    for change in ({"shots": ()}, {"seeds": ()}, {"shots": (0,)}, {"regularisation": 0.0}):
        with pytest.raises(SpecError):
            dataclasses.replace(BIG_VISION, **change)


# --- the command ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Mixer for digits: random features are good ones for so small images."""
    from mixer_converters.canonical import save
    from mixer_spec import weights
    from mixer_spec.recipes import RECIPES

    recipe = RECIPES["digits"]
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    save(
        path,
        recipe.model,
        weights.initial(recipe.model),
        preprocessing=recipe.recipe.data.evaluation,
    )
    return path


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["fewshot", *arguments], catch_exceptions=True)


def test_the_command_measures_a_file_on_digits(model: Path) -> None:
    arguments = (str(model), "--data", "digits", "--backend", "torch")
    answer = _run(*arguments, "--shots", "1,10", "--json")
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)
    assert told["test_examples"] == 360
    assert [*told["accuracy"]] == ["1", "10"]
    one, ten = (told["accuracy"][shots] for shots in ("1", "10"))
    assert 0.3 < one["mean"] < ten["mean"] < 1
    assert len(one["seeds"]) == 3
    shown = _run(*arguments, "--shots", "1,10").stdout
    assert f"{ten['mean']:.2%}" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shots", "two"), "expected some like 1,5,10,25, got 'two'"),
        (("--shots", "5000"), "expected 5000 of each class, got class 0 has"),
        (("--test", "valid"), "expected train or test, got 'valid'"),
    ],
)
def test_the_command_refuses_bad_input(
    arguments: tuple[str, ...], message: str, model: Path
) -> None:
    answer = _run(str(model), "--data", "digits", "--backend", "torch", *arguments)
    assert message in str(answer.exception)


def test_a_file_that_does_not_say_how_to_preprocess_is_refused(tmp_path: Path) -> None:
    from mixer_converters.canonical import save
    from mixer_spec import weights
    from mixer_spec.recipes import RECIPES

    spec = RECIPES["digits"].model
    save(tmp_path / "bare.safetensors", spec, weights.initial(spec))
    answer = _run(str(tmp_path / "bare.safetensors"), "--data", "digits", "--backend", "torch")
    assert "does not say how its photos are preprocessed" in str(answer.exception)


def test_a_backend_that_crashes_is_told_from_bad_input(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mixer_torch

    def crash(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(mixer_torch.TorchBackend, "load", crash)
    assert _run(str(model), "--data", "digits", "--backend", "torch").exit_code == 3
