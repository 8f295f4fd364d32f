"""docs/new-backend.md is walked from nothing to a judged backend; and the skeleton it begins with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from yaml import safe_load

from mixer_conformance import run_isolated
from mixer_conformance.skeleton import write_skeleton
from mixer_spec import FileError, InputError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "new-backend.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment of one's own that also sees what is installed here."""
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    here = sysconfig.get_path("purelib")
    (site,) = home.glob("lib/python*/site-packages")
    (site / "here.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    python = home / "bin" / "python"
    for name, run in {"mixer-spec": "mixer_spec", "pip": "pip"}.items():
        script = home / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{python}" -m {run} "$@"\n')
        script.chmod(0o755)
    return os.environ | {
        "PATH": os.pathsep.join(
            [str(home / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "VIRTUAL_ENV": str(home),
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # of a flag that begins with no: 0 sets it
        "PIP_NO_INDEX": "1",
        "COLUMNS": "200",
    }


def run(command: str, folder: Path, environment: dict[str, str]) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def without_figures(line: str) -> str:
    """A line in which every fraction is the same: its last digits are the machine's."""
    return re.sub(r"\d+\.\d+", "#", line.rstrip())


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert {kind for kind, _ in BLOCKS} == {"python", "console", "diff"}
    assert PAGE.count("```") == 2 * len(BLOCKS)


@pytest.mark.slow
def test_following_the_page_leads_to_a_judged_backend(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    folder, commands = tmp_path, 0
    for kind, text in BLOCKS:
        if kind == "diff":
            subprocess.run(
                ["git", "apply", "-p0", "-"], cwd=folder, input=text, text=True, check=True
            )
        elif kind == "python":
            (tmp_path / "block.py").write_text(text)
            run(f"python {tmp_path / 'block.py'}", folder, environment)
        else:
            for one in text.removeprefix("$ ").split("\n$ "):
                command, *shown = one.rstrip().splitlines()
                commands += 1
                if command.startswith("cd "):
                    folder /= command.removeprefix("cd ")
                    continue
                lines = [without_figures(l) for l in run(command, folder, environment).splitlines()]
                assert [l for l in shown if without_figures(l) not in lines] == [], lines
    assert commands == text_count("$ ")
    assert (folder / "conformance.md").read_text().startswith("### frob (cpu): conformant")
    assert "<testsuite" in (folder / "conformance.xml").read_text()


def text_count(prompt: str) -> int:
    return sum(line.startswith(prompt) for line in PAGE.splitlines())


def test_links_of_the_page_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGE) if "://" not in link]
    assert len(links) >= 5
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


# --- the skeleton ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x", "frob", "an_engine_with_quite_a_long_name"])
def test_a_skeleton_is_clean_and_its_backend_conformant(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_skeleton(name, tmp_path)
    root = tmp_path / f"mixer-{name}"
    assert sorted(paths) == sorted(path for path in root.rglob("*") if path.is_file())
    assert not any("NAME" in path.read_text() for path in paths)
    for tool in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy", "--strict", "."]):
        folder = root if tool[0] == "ruff" else root / f"mixer_{name}"
        done = subprocess.run(
            [sys.executable, "-m", *tool], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
    monkeypatch.syspath_prepend(str(root))
    _, results = run_isolated(f"mixer_{name}:Backend", scales=["mixer"], cases=["F01", "F22"])
    assert [result.status for result in results] == ["pass", "pass"]


def test_the_skeletons_workflow_runs_what_the_page_runs(tmp_path: Path) -> None:
    write_skeleton("frob", tmp_path)
    text = (tmp_path / "mixer-frob/.github/workflows/conformance.yml").read_text()
    steps = safe_load(text)["jobs"]["conformance"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands[:4] == [
        'pip install -e ".[test]"',
        "ruff check",
        "ruff format --check",
        "pytest",
    ]
    (judging,) = [command for command in commands if command.startswith("mixer-spec")]
    for option in ("--backend frob", "--excuses excuses.toml", "--junit", "--markdown"):
        assert option in judging
        assert option in PAGE


@pytest.mark.parametrize(
    "name", ["Frob", "9lives", "class", "a-b", "", "torch", "spec", "conformance"]
)
def test_a_name_that_cannot_be_a_package_or_is_one_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^name: "):
        write_skeleton(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_skeleton_overwrites_nothing_and_leaves_nothing_half(tmp_path: Path) -> None:
    write_skeleton("frob", tmp_path)
    with pytest.raises(FileError, match="exists already"):
        write_skeleton("frob", tmp_path)
    with pytest.raises(FileError, match="cannot be written"):
        write_skeleton("frob", tmp_path / "absent")
    assert [path.name for path in tmp_path.iterdir()] == ["mixer-frob"]
