"""A campaign against false alarms goes on from its record, also after it was killed in a line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def campaign(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from measuring import campaign

    return campaign


def run(seed: int, threads: int = 1) -> dict[str, Any]:
    return {"threads": threads, "backend": "torch", "model": "mixer", "seed": seed, "worst": []}


def test_what_is_recorded_is_not_measured_again(campaign: Any, tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    for one in (run(0), run(1), run(0, threads=2)):
        campaign.append(record, one)
    found = list(campaign.measure(["torch"], ["mixer"], range(2), 1, record))
    assert found == [run(0), run(1)]
    assert campaign.read(record) == [run(0), run(1), run(0, threads=2)]


def test_half_a_line_is_measured_again(campaign: Any, tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    campaign.append(record, run(0))
    whole = record.read_bytes()
    record.write_bytes(whole + b'{"threads": 1, "ba')
    assert campaign.read(record) == [run(0)]
    assert record.read_bytes() == whole


def test_what_is_left_is_measured_and_added(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    options = "--seeds 1 --scales no_block --threads 1 --backends reference --json --record"
    command = [sys.executable, str(BENCHMARKS / "false_alarms.py"), *options.split(), str(record)]
    first, second = (
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(2)
    )
    assert len(record.read_text().splitlines()) == 1
    assert first["audits"] == second["audits"]
    assert first["audits"][0]["runs"] == 5
    assert first["audits"][0]["false_alarms"] == 0
