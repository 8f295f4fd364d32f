"""``mixer-spec compare`` and the measuring behind it; no timing is judged."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixer_spec import MissingExtraError, SpecError, UnknownNameError, families, variant
from mixer_spec import throughput as throughput_module
from mixer_spec.shapes import TokenIds, Vectors
from mixer_spec.throughput import measure

MIXER = families.mixer(
    image_size=8, patch=4, channels=6, depth=1, token_hidden=5, channel_hidden=7, classes=3
)
_SIZES = {"channels": 4, "depth": 1, "token_hidden": 3, "channel_hidden": 7, "classes": 2}
WORDS = families.sequence_mixer(input=TokenIds(tokens=5, vocabulary=9), **_SIZES)
SIGNAL = families.sequence_mixer(input=Vectors(tokens=5, channels=3), **_SIZES)


Run = Callable[..., Any]


@pytest.fixture
def run(run: Run) -> Run:
    """Run ``mixer-spec compare`` with arguments."""
    return functools.partial(run, "compare")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Spec files, by a short name."""
    found = {}
    for name, spec in {"mixer": MIXER, "words": WORDS, "signal": SIGNAL}.items():
        path = tmp_path / f"{name}.json"
        path.write_text(spec.to_json())
        found[name] = str(path)
    return found


# --- costs and published figures ------------------------------------------------------------


def test_costs_stand_side_by_side_with_the_papers_figures(run: Run) -> None:
    outcome = run("mixer_b16", "ViT-B/16", "resmlp_24", "--backends", "none")
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.out.split()[:3] == ["mixer_b16", "vit_b16", "resmlp_24"]
    rows = _rows(outcome.out, columns=3)
    assert rows["input"] == ["224x224x3"] * 3
    assert rows["parameters"] == ["59,880,472", "86,567,656", "30,020,680"]
    assert rows["without head"] == ["59,111,472", "85,798,656", "29,635,680"]
    assert rows["GFLOPs"] == ["25.20", "35.13", "11.92"]
    assert rows["TPUv3 images/s"] == ["1,384", "861", "-"]
    assert "2 x multiply-adds" in outcome.out
    assert "80.64  85.80  92.50     -  1,384  ~150" in outcome.out
    assert "arXiv:2105.01601v4" in outcome.out
    assert "inputs a second" not in outcome.out


def _rows(out: str, columns: int) -> dict[str, list[str]]:
    """The cells of the first table by their row's label."""
    lines = out[: out.index("\n\n")].splitlines()[2:]
    split = [line.rsplit(maxsplit=columns) for line in lines]
    return {label.strip(): cells for label, *cells in split}


def test_json_holds_costs_and_published_figures(run: Run) -> None:
    told = run("mixer_l16", "resmlp_12", "--backends", "none", "--json").data
    assert told["backends"] == {}
    mixer, resmlp = told["architectures"]
    spec = variant("mixer_l16").spec()
    assert mixer["name"] == "mixer_l16"
    assert mixer["fingerprint"] == spec.fingerprint
    assert mixer["parameters"] == spec.parameter_count == 208_196_168
    assert mixer["parameters_without_head"] == 207_171_168
    assert mixer["gflops"] == 2e-9 * mixer["multiply_adds"] == 2e-9 * spec.multiply_adds
    assert mixer["activation_bytes"] == spec.activation_bytes
    assert mixer["inputs_per_second"] == {}
    assert mixer["published"]["specification"]["millions"] == 207
    assert len(mixer["published"]["results"]) == 7
    assert {row["table"] for row in mixer["published"]["results"]} == {2, 3}
    assert resmlp["published"]["specification"] is None
    assert resmlp["published"]["results"] == []


def test_papers_throughput_stands_only_beside_its_own_size(run: Run) -> None:
    arguments = ["mixer_b16", "--image-size", "64", "--backends", "none"]
    rows = _rows(run(*arguments).out, columns=1)
    assert rows["input"] == ["64x64x3"]
    assert rows["TPUv3 images/s"] == ["-"]


def test_spec_files_can_be_compared_and_have_no_published_figures(
    run: Run, files: dict[str, str]
) -> None:
    outcome = run(files["mixer"], files["words"], "--backends", "none")
    assert outcome.code == 0
    counts = [f"{spec.parameter_count:,}" for spec in (MIXER, WORDS)]
    assert _rows(outcome.out, columns=2)["parameters"] == counts
    assert "pre-training" not in outcome.out
    told = json.loads(run(*files.values(), "--backends", "none", "--json").out)
    assert [found["input"] for found in told["architectures"]] == [[8, 8, 3], [5], [5, 3]]
    assert [found["published"] for found in told["architectures"]] == [None] * 3


# --- measuring ------------------------------------------------------------------------------


def _speeds(told: dict[str, Any]) -> Iterator[dict[str, float]]:
    for architecture in told["architectures"]:
        yield from architecture["inputs_per_second"].values()


def test_throughput_of_every_model_is_measured(run: Run, files: dict[str, str]) -> None:
    arguments = [*files.values(), "--backends", "reference", "--batch", "2"]
    told = run(*arguments, "--json").data
    assert told["batch"] == 2
    assert told["rounds"] >= 3
    assert told["machine"]["cores"] == os.cpu_count()
    assert told["backends"]["reference"]["versions"] == {"numpy": np.__version__}
    assert told["backends"]["reference"]["crash"] is None
    speeds = list(_speeds(told))
    assert len(speeds) == 3
    for speed in speeds:
        assert 0 < speed["lowest"] <= speed["median"] <= speed["highest"]


def test_table_has_a_row_for_every_backend(run: Run, files: dict[str, str]) -> None:
    outcome = run(files["mixer"], "--backends", "reference", "--batch", "1")
    assert outcome.code == 0
    assert len([line for line in outcome.out.splitlines() if "reference inputs/s" in line]) == 1
    assert "reference on cpu: inputs a second in batches of 1" in outcome.out


def test_rounds_alternate_between_models_and_backends_in_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    for name in ("first", "second"):
        _make_backend(
            tmp_path, name, f"open({str(log)!r}, 'a').write(f'{name} {{os.getpid()}}\\n')"
        )
    monkeypatch.syspath_prepend(tmp_path)
    told: list[str] = []
    names = ["first:Fake", "second:Fake"]
    measured = measure([MIXER, WORDS], names, batch=1, rounds=2, seconds=0.0, progress=told.append)
    assert [found.backend for found in measured] == names
    lines = [line.split() for line in log.read_text().splitlines()]
    turns = [name for name, _ in lines]
    warm_up = 2 * 2 * throughput_module.WARM_UP
    assert turns[warm_up:] == ["first", "second"] * 4  # two rounds of two models
    processes = {name: {pid for other, pid in lines if other == name} for name in turns}
    assert all(len(pids) == 1 for pids in processes.values())
    assert len(set.union(*processes.values()) | {str(os.getpid())}) == 3
    assert "round 2 of 2: model 1 of 2 on first:Fake" in told


@pytest.mark.parametrize(
    ("action", "reason"),
    [("raise ValueError('out of paper')", "out of paper"), ("os._exit(7)", "exit code 7")],
)
def test_backend_that_crashes_is_told_and_the_others_go_on(
    run: Run,
    files: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
    reason: str,
) -> None:
    _make_backend(tmp_path, "broken", action)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = [files["mixer"], "--backends", "broken:Fake,reference", "--batch", "1"]
    outcome = run(*arguments, "--json")
    assert outcome.code == 3
    told = outcome.data
    assert reason in told["backends"]["broken:Fake"]["crash"]
    assert list(told["architectures"][0]["inputs_per_second"]) == ["reference"]
    outcome = run(*arguments)
    assert outcome.code == 3
    assert "broken:Fake crashed" in outcome.out
    assert reason in outcome.out


def _make_backend(folder: Path, module: str, action: str) -> None:
    """A backend ``module:Fake`` whose forward pass is the statement ``action``."""
    (folder / f"{module}.py").write_text(
        "import os\n"
        "from mixer_spec import BackendInfo\n"
        "class Fake:\n"
        "    def info(self):\n"
        f"        return BackendInfo(name={module!r}, versions={{}}, device='air',\n"
        "                           profiles=('f32-strict',))\n"
        "    def load(self, spec, weights, *, profile='f32-strict'):\n"
        "        return self\n"
        "    def forward(self, inputs, taps=()):\n"
        f"        {action}\n"
    )


def _register_without_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered backend ``ghost`` whose framework is not installed."""
    information = folder / "ghost-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: ghost\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[mixer_spec.backends]\nghost = ghost:Ghost\n")
    (folder / "ghost.py").write_text("raise ModuleNotFoundError('no torch', name='torch')\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(throughput_module, "backend_names", lambda: ("ghost", "reference"))


def test_backend_without_its_extra_is_left_out_unless_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _register_without_its_extra(tmp_path, monkeypatch)
    assert measure([MIXER], None, batch=1) == []
    with pytest.raises(MissingExtraError, match=r"mixer-spec\[torch\]"):
        measure([MIXER], ["ghost"], batch=1)


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mixer_b17"], "variant 'mixer_b17': there is no such variant"),
        (["mixer_b16", "nothing.json"], "nothing.json: cannot be read"),
        (["mixer_b16", "--backends", "tourch"], "backend 'tourch': is not registered"),
        (["mixer_b16", "--backends", "torch,,jax"], "--backends: an empty name"),
        (["mixer_b16", "--image-size", "225"], "expected 225 % 16 == 0, got 1"),
        (["mixer_b16", "--image-size", "big"], "expected 224 or 224x320, got 'big'"),
        (["nothing.json", "--classes", "5"], "expected neither --image-size nor --classes"),
    ],
)
def test_bad_argument_is_one_message(run: Run, arguments: list[str], message: str) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert message in outcome.err


@pytest.mark.parametrize("arguments", [[], ["mixer_b16", "--batch", "0"]])
def test_missing_name_and_empty_batch_are_refused(run: Run, arguments: list[str]) -> None:
    assert run(*arguments).code == 2


def test_unknown_backend_ends_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    start = throughput_module._Worker.__init__

    def remember(self: Any, name: str) -> None:
        start(self, name)
        made.append(self._process)

    monkeypatch.setattr(throughput_module._Worker, "__init__", remember)
    with pytest.raises(UnknownNameError):
        measure([MIXER], ["reference", "nobody"], batch=1)
    assert len(made) == 2
    assert not any(process.is_alive() for process in made)


def test_refusal_of_a_spec_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "picky.py").write_text(
        "from mixer_spec import BackendInfo, SpecError\n"
        "class Picky:\n"
        "    def info(self):\n"
        "        return BackendInfo(name='picky', versions={}, device='cpu', profiles=())\n"
        "    def load(self, spec, weights, *, profile='f32-strict'):\n"
        "        raise SpecError('picky', 'not this one')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SpecError, match="picky: not this one"):
        measure([MIXER], ["picky:Picky"], batch=1)
