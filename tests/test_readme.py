"""The README does what it says: every block runs, every link and every figure leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_verify_prints_the_stages_that_the_readme_shows(tmp_path):
    (shown,) = [text for text in blocks("console") if "$ mixer-spec verify" in text]
    command, *table = shown.splitlines()
    done = run(["bash", "-c", command.removeprefix("$ ")], tmp_path)
    assert done.returncode == 0, done.stderr
    printed = [stage(line) for line in done.stdout.splitlines()]
    assert [stage(line) for line in table if stage(line) not in printed] == []
    assert len(table) > 6


def stage(line: str) -> str:
    """The words of a row without its figures."""
    return re.sub(r"\s+(\d+\.\d+\s+\d+\.\d+( @\d+)?\s*)+$", "", line.rstrip())


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
