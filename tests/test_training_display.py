"""What a file gets of a run's display: whole lines, however narrow the terminal was."""

from __future__ import annotations

import pytest

from mixer_jax.training import display


def test_lines_in_a_file_are_not_folded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(display, "_BETWEEN_LINES", 0.0)
    with display.display(steps=92_897, step=0) as shown:
        shown.at(92_897, loss=1.25, accuracy=0.5, images_per_second=12_345.0, mfu=0.4)
    line, bar = capsys.readouterr().err.splitlines()
    words = "loss 1.250  held out 50.0%  12,345 images/s  MFU 40%"
    assert line == f"step 92,897 of 92,897  {words}  0:00:00 left"
    assert f"92897/92897 {words}" in bar
