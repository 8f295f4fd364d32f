"""The pages of docs/: their Python runs, and their tables of variants are those of the specs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixer_spec import VARIANTS, InputError, UnknownNameError
from mixer_spec.cli import app
from mixer_spec.markdown import main, variants_table, with_tables

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]

_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run(page: str, name: str) -> int:
    """Run every Python block of a page, one after the other in one namespace; how many there are."""
    names: dict[str, object] = {}
    blocks = list(_PYTHON.finditer(page))
    for block in blocks:
        # Empty lines in front, so that a traceback has the page's own line numbers.
        lines_above = page.count("\n", 0, block.start(1))
        code = compile("\n" * lines_above + block[1], name, "exec")
        exec(code, names)  # noqa: S102 - our own pages
    return len(blocks)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_python_of_a_page_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = path.read_text(encoding="utf-8")
    assert run(page, str(path)) == page.count("```python")


def test_python_that_is_wrong_is_found_at_its_line() -> None:
    page = "# Title\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as caught:
        run(page, "page.md")
    assert caught.traceback[-1].lineno == page[: page.index("assert")].count("\n")


# --- tables of variants ---------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_tables_of_a_page_are_up_to_date(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert with_tables(page) == page, f"run: python -m mixer_spec.markdown {path.name}"


def test_page_of_the_families_has_every_variant_once() -> None:
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", page, re.MULTILINE)
    assert {name: int(count.replace(",", "")) for name, count in rows} == {
        name: variant.parameters for name, variant in VARIANTS.items()
    }
    assert len(rows) == len(VARIANTS)


def test_old_table_is_replaced_and_the_rest_stays() -> None:
    page = "above\n<!-- variants: begin -->\nold\n<!-- variants: end -->\nbelow\n"
    written = with_tables(page)
    assert written != page
    assert written == (
        f"above\n<!-- variants: begin -->\n{variants_table()}\n<!-- variants: end -->\nbelow\n"
    )
    assert with_tables(written) == written


def test_marks_choose_variants_by_name() -> None:
    page = (
        "<!-- variants: begin vit_b16 -->\n<!-- variants: end -->\n"
        "<!-- variants: begin mixer_s32 mixer_s16 -->\n<!-- variants: end -->\n"
    )
    rows = [line.split("`")[1] for line in with_tables(page).splitlines() if "| `" in line]
    assert rows == ["vit_b16", "mixer_s32", "mixer_s16"]


@pytest.mark.parametrize(
    "page",
    [
        "<!-- variants: begin -->\n",
        "<!-- variants: end -->\n",
        "<!-- variants: begin -->\n<!-- variants: begin -->\n<!-- variants: end -->\n",
        "<!-- variants: end -->\n<!-- variants: begin -->\n",
    ],
)
def test_mark_without_its_other_half_is_refused(page: str) -> None:
    with pytest.raises(InputError, match=r"^notes.md: a mark lacks its other half"):
        with_tables(page, "notes.md")


def test_mark_with_an_unknown_variant_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="mixer_b17"):
        with_tables("<!-- variants: begin mixer_b17 -->\n<!-- variants: end -->\n")


def test_program_writes_the_tables_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("<!-- variants: begin vit_b16 -->\n<!-- variants: end -->\n")
    main([str(path)])
    assert variants_table(["vit_b16"]) in path.read_text()


# --- commands ---------------------------------------------------------------------------------

_COMMAND = re.compile(r"^\$ mixer-spec (\w[\w-]*)(.*)$", re.MULTILINE)


def unknown_options(page: str) -> list[str]:
    """What the commands of a page ask for that the command line does not have."""
    unknown = []
    for command, rest in _COMMAND.findall(page):
        asked = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
        known = set(re.findall(r"--[a-z-]+", asked.stdout)) if asked.exit_code == 0 else set()
        options = re.findall(r"--[a-z-]+", rest)
        unknown += [f"{command} {option}" for option in options if option not in known]
        unknown += [] if known else [command]
    return unknown


def test_commands_of_the_page_on_training_exist() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert len(_COMMAND.findall(page)) > 8
    assert unknown_options(page) == []
    wrong = page.replace("--resolution", "--size").replace("mixer-spec plan", "mixer-spec budget")
    assert unknown_options(wrong)[0] == "finetune --size"
    assert "budget" in unknown_options(wrong)
