"""The README does what it says: every block runs, every link and every figure leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mixer_converters.layouts import LAYOUTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PATH": path, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_every_block_is_of_a_kind_that_is_run():
    assert {name for name, _ in BLOCKS} == {"python", "console", "make"}
    assert len(blocks("python")) >= 1
    assert len(blocks("console")) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_block_prints_what_it_says(number, tmp_path):
    text = blocks("python")[number]
    done = run([sys.executable, "-c", text], tmp_path)
    assert done.returncode == 0, done.stderr
    promised = [line[2:] for line in text.splitlines() if line.startswith("# ")]
    assert done.stdout.splitlines() == promised


@pytest.mark.slow
def test_console_commands_run_in_order_in_one_folder(tmp_path):
    photo(tmp_path / "photo.jpg")
    google_checkpoint(tmp_path / "imagenet1k" / "Mixer-B_16.npz")
    commands = [
        line.removeprefix("$ ")
        for block in blocks("console")
        for line in block.splitlines()
        if line.startswith("$ mixer-spec")
    ]
    assert len(commands) >= 6
    for command in commands:
        done = run(["bash", "-c", command], tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), command
        printed = [stage(line) for line in done.stdout.splitlines()]
        assert [line for line in shown(command) if stage(line) not in printed] == []


def shown(command: str) -> list[str]:
    """What the README shows that a command prints; the rule of a table is as long as it may be."""
    (block,) = [text for text in blocks("console") if f"$ {command}\n" in text]
    answer = block.partition(f"$ {command}\n")[2].partition("$ ")[0]
    return [line for line in answer.splitlines() if line.strip("─")]


def test_the_readme_shows_stages_and_what_is_not_printed_is_found():
    assert len(shown("mixer-spec verify mixer.safetensors --backends torch")) == 7
    assert stage("stem                          23.2  0.17") == "stem"
    assert stage("stem                          23.2  0.17 @7  oops") != "stem"


def stage(line: str) -> str:
    """The words of a row without its figures."""
    return re.sub(r"\s+(\d+\.\d+\s+\d+\.\d+( @\d+)?\s*)+$", "", line.rstrip())


def google_checkpoint(path: Path) -> None:
    """A file of the official names and axes, as NumPy writes it: nothing of ours is in it."""
    import numpy as np

    from mixer_conformance import conformance_weights
    from mixer_spec import variant

    layout = next(each for each in LAYOUTS if each.name == "google" and "mixer" in each.families)
    spec = variant("mixer_b16").spec()
    weights = conformance_weights(spec)
    arrays = {
        e.foreign: e.to_foreign([weights[n] for n in e.canonical], {}) for e in layout.entries(12)
    }
    path.parent.mkdir()
    np.savez(path, **arrays)


def photo(path: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_sample_image

    Image.fromarray(load_sample_image("china.jpg")).save(path)


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", "\n".join(blocks("make")), flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_links_into_the_repository_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    local = [link for link in links if "://" not in link]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []
