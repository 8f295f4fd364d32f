"""House rules that no tool checks, read from the sources themselves."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHELVES = ("backends", "converters", "conformance")
FOLDERS = ("mixer_spec", *SHELVES, "tests", "examples", "benchmarks", "docs", ".ci")
TEXT = {
    ".css",
    ".jinja",
    ".json",
    ".lock",
    ".md",
    ".py",
    ".sh",
    ".svg",
    ".toml",
    ".yaml",
    ".yml",
    "",
}

# Caches, and the file that stands in a git worktree for the repository itself.
NOT_OURS = {"__pycache__", ".git"}

LONGEST = 500
VAGUE_NAMES = {"common", "helpers", "manager", "misc", "utils"}

# Each pattern is written so that it does not match itself.
UNFINISHED = re.compile(r"\b(T[O]DO|FIX[M]E|X[X]X)\b")
MACHINE_PATH = re.compile(r"(?<![\w.}/-])/(work|tmp|opt|root|home)/")
REGISTRY = re.compile(r"pypi[.]org|python(?:hosted)[.]org")


def _files() -> list[Path]:
    inside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    return [
        path
        for path in (*inside, *ROOT.iterdir())
        if path.is_file() and path.suffix in TEXT and not NOT_OURS & {*path.relative_to(ROOT).parts}
    ]


def too_long(text: str) -> bool:
    """Whether a source is longer than one file should be."""
    return text.count("\n") > LONGEST


def unfinished(text: str) -> bool:
    """Whether a mark says that something is left to do."""
    return UNFINISHED.search(text) is not None


def names_the_machine(text: str) -> bool:
    """Whether a path of the machine it was written on, or a registry's host, stands in it."""
    return any(pattern.search(text) for pattern in (MACHINE_PATH, REGISTRY))


def undescribed(text: str) -> bool:
    """Whether a module does not say in its first line what it does."""
    first = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return len(first.split()) < 3


RULES: dict[str, tuple[Callable[[str], bool], tuple[str, ...], str, str]] = {
    "too long": (too_long, (".py",), "x = 1\n" * (LONGEST + 1), "x = 1\n" * LONGEST),
    "unfinished": (unfinished, (".py",), "x = 1  # TO" + "DO: two", "todos = 'METHODOLOGY'"),
    "names the machine": (
        names_the_machine,
        tuple(TEXT - {".svg"}),
        "see /wo" + "rk/shared/notes.md",
        "framework/tmp/file, see docs/work/notes.md and https://example.org/home/",
    ),
    "undescribed": (undescribed, (".py",), "import os", '"""Reads a canonical file."""'),
}


@pytest.mark.parametrize("rule", RULES)
def test_every_file_keeps_the_rule(rule: str) -> None:
    broken, suffixes, _, _ = RULES[rule]
    files = [path for path in _files() if path.suffix in suffixes]
    assert len(files) > 30
    found = [path for path in files if broken(path.read_text(encoding="utf-8"))]
    assert [str(path.relative_to(ROOT)) for path in found] == []


@pytest.mark.parametrize("rule", RULES)
def test_rule_refuses_what_breaks_it_and_nothing_else(rule: str) -> None:
    broken, _, bad, good = RULES[rule]
    assert broken(bad)
    assert not broken(good)


@pytest.mark.parametrize("shelf", SHELVES)
def test_shelf_is_a_folder_and_not_a_package(shelf: str) -> None:
    # With an __init__.py, `import backends.mixer_jax` would make a second module object.
    assert (ROOT / shelf).is_dir()
    assert list((ROOT / shelf).glob("*.py")) == []


def test_no_file_has_a_vague_name() -> None:
    vague = [path for path in _files() if path.stem.strip("_").lower() in VAGUE_NAMES]
    assert vague == []
