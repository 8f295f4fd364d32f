"""Every benchmark runs, in its smallest configuration, and prints what RESULTS.md reports."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mixer_conformance.trained import trained_examples
from mixer_spec import reference

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALLEST = {
    "converting": "--variant mixer_s32 --rounds 1 --tries 1",
    "false_alarms": "--seeds 1 --scales mixer --threads 1,2",
    "families": "--variants resmlp_12,vit_s16 --batch 1 --rounds 1 --tries 1 --repeats 1",
    "int8": "--variant mixer_s32 --rounds 1 --repeats 1 --tries 1",
    "import_time": "--rounds 1 --tries 1",
    "loading": "--variant mixer_s32 --rounds 1 --tries 1",
    "onnx_files": "--variant mixer_s32 --rounds 1 --tries 1",
    "throughput": "--variant mixer_s32 --batch 2 --rounds 1 --tries 1 --repeats 1",
    "training": "--compiled mixer_s32 --trained mixer_s32 --batch 1 --steps 1 --rounds 1 --tries 1",
    "verify_scales": "--scale mixer_s32 --small mixer_s32",
}


def document(name: str, *more: str) -> dict[str, Any]:
    """What a benchmark prints with --json, after the checks that hold for all of them."""
    arguments = [*SMALLEST[name].split(), *more, "--json"]
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["machine"]["cores"] >= 1
    assert found["cores_used_by_others"] >= 0
    assert found["targets"]
    for target in found["targets"]:
        assert set(target) == {"what", "wanted", "measured", "reached"}
        assert isinstance(target["reached"], bool)
    return found


def test_every_benchmark_is_under_test() -> None:
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == set(SMALLEST)


def test_throughput_times_each_contender_and_its_product() -> None:
    found = document("throughput")
    assert {name: len(each) for name, each in found["contenders"].items()} == {
        "torch": 2,
        "jax": 2,
        "onnx": 3,
    }
    for contenders in found["contenders"].values():
        for timing in contenders.values():
            assert timing["best_seconds"] > 0
            # mixer_s32 is 0.98 G multiply-adds for each image.
            work = timing["gflops"] * timing["median_seconds"]
            assert work == pytest.approx(2 * 2 * 0.98, rel=0.05)
            assert timing["share"] == pytest.approx(timing["gflops"] / timing["product_gflops"])
    for rivals in found["speedups"].values():
        for speedup in rivals.values():
            assert speedup["by_round"] == [pytest.approx(speedup["of_medians"])]


def test_families_are_timed_beside_their_plain_modules() -> None:
    found = document("families")
    assert set(found["variants"]) == {"resmlp_12", "vit_s16"}
    assert len(found["targets"]) == 2
    for measured in found["variants"].values():
        ours, plain = (measured[contender]["median_seconds"] for contender in ("ours", "plain"))
        assert measured["speedup"]["of_medians"] == pytest.approx(plain / ours)
        assert measured["speedup"]["by_round"] == [pytest.approx(plain / ours)]


def idx(array: NDArray[np.uint8]) -> bytes:
    """The file of MNIST's format."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_int8_reports_its_gain_and_its_cost(tmp_path: Path) -> None:
    images, labels = trained_examples()
    for split in ("train", "t10k"):
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(idx(labels))
    found = document("int8", "--fashion-mnist", str(tmp_path))
    forms = {"float32", "int8 dynamic", "int8 static"}
    assert set(found["gains"]) == forms
    for batch in ("1", "8"):
        seconds = {form: own[batch] for form, own in found["seconds"].items()}
        for form, own in found["gains"].items():
            assert own[batch] == pytest.approx(seconds["float32"] / seconds[form])
    assert set(found["accuracy"]) == {"digits", "Fashion-MNIST"}
    for cost in found["accuracy"].values():
        assert set(cost) == forms
        assert cost["float32"]["equal_top1"] == 1
        for form in forms - {"float32"}:
            assert cost[form]["equal_top1"] >= 0.99
            assert 10 < cost[form]["worst_sqnr"] <= cost[form]["logits_sqnr"] < 60


def test_unknown_variant_is_refused_before_anything_is_measured() -> None:
    command = [sys.executable, str(BENCHMARKS / "families.py"), "--variants", "vit_s16,resnet50"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "resnet50" in done.stderr


@pytest.mark.parametrize("name", ["resmlp_12", "gmlp_s16", "gmixer_12", "vit_s16", "ff_ti16"])
def test_plain_module_computes_its_variant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from measuring import with_torch
    from measuring.contender import task_of

    task = task_of(name, batch=1, threads=1, folder=BENCHMARKS)
    expected = reference.forward(task.spec, task.weights, task.images)["logits"]
    np.testing.assert_allclose(with_torch.family(task).forward(), expected, atol=1e-5)


def test_different_functions_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from measuring.contest import check_same_answer

    check_same_answer("mixer_torch", "rival", [[0.5, 1.0]], [[0.5, 1.0 + 1e-6]])
    with pytest.raises(RuntimeError, match="mixer_torch and rival compute different functions"):
        check_same_answer("mixer_torch", "rival", [[0.5, 1.0]], [[0.5, 1.1]])
    with pytest.raises(RuntimeError, match="got a difference of nan"):
        check_same_answer("mixer_torch", "rival", [[0.5, 1.0]], [[0.5, float("nan")]])


def clock_of(*readings: float) -> Callable[[], SimpleNamespace]:
    """Stands for ``Noise``: each clock that is made reads the next number."""
    coming = iter(readings)
    return lambda: SimpleNamespace(cores=next(coming))


def test_disturbed_rounds_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from measuring import machine

    monkeypatch.setattr(machine, "Noise", clock_of(0.5, 0.0, 1.5, 0.05, 0.3))
    results = iter("abcde")
    assert machine.quietest(lambda: next(results), 2, tries=9) == (["b", "d"], 0.05)
    assert next(results) == "e"


def test_quietest_rounds_are_kept_where_none_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from measuring import machine

    monkeypatch.setattr(machine, "Noise", clock_of(1.5, 0.4, 0.9))
    results = iter("abc")
    assert machine.quietest(lambda: next(results), 2, tries=3) == (["b", "c"], 0.9)


def test_converting_is_timed_by_the_copy_and_its_memory_by_the_file() -> None:
    found = document("converting")
    copy = found["ways"]["copy"]["seconds"]
    assert set(found["ways"]) == {"copy", "canonical to timm", "timm to canonical"}
    assert len(found["targets"]) == 4
    for label, way in found["ways"].items():
        assert way["copies"] == pytest.approx(way["seconds"] / copy)
        # The file is mapped, so that the pages of it count, and are not anonymous.
        assert label == "copy" or way["peak_files"] - way["anonymous_files"] > 0.9


def test_loading_tells_the_copies_apart() -> None:
    ways = document("loading")["ways"]
    assert len(ways) == 4
    assert ways["canonical file, mixer_torch.build"]["copies"] < 0.1
    # What reads the whole file into memory of its own must show as a copy.
    assert ways["torch.load"]["copies"] > 0.9


def test_onnx_files_are_weighed_and_loaded() -> None:
    files = document("onnx_files")["files"]
    assert len(files) == 5
    for file in files.values():
        assert file["bytes"] > 4 * 19_104_624  # the weights of mixer_s32, wherever they are
        assert file["best_seconds"] <= file["median_seconds"]


def test_start_up_is_reported_with_its_spread() -> None:
    seconds = document("import_time")["seconds"]
    assert {"import mixer_spec", "mixer-spec list"} < set(seconds)
    for found in seconds.values():
        assert 0 < found["min"] <= found["median"] <= found["max"]


def test_verify_reports_cost_and_the_worst_margin_of_each_backend() -> None:
    found = document("verify_scales")
    scale = found["scales"]["mixer_s32"]
    assert set(scale["margins"]) == {"jax", "torch", "onnxruntime"}
    for backend in scale["margins"].values():
        assert backend["conformant"] is True
        assert 0 < backend["margin"] <= 1
    assert scale["taps"] == 20  # stem, two for each of eight blocks, norm, pooled, logits
    assert found["all"]["peak_gb"] > 0.1
    assert found["small"]["seconds"] > 0


def test_false_alarms_counts_runs_at_each_number_of_threads() -> None:
    found = document("false_alarms")
    assert [audit["threads"] for audit in found["audits"]] == [1, 2]
    for audit in found["audits"]:
        assert audit["runs"] == 3 * 5  # backends, families of cases that suit the model
        assert audit["false_alarms"] == 0
        assert {worst["backend"] for worst in audit["worst"]} == {"torch", "jax", "onnxruntime"}
        assert all(0 < worst["margin"] < 1 for worst in audit["worst"])
        assert audit["cpu_seconds"] > 0.1
