"""The variants as Markdown tables, and the pages that hold them, kept up to date.

``python -m mixer_spec.markdown README.md docs/families.md`` writes the tables anew, each between

    <!-- variants: begin -->
    <!-- variants: end -->

where names behind ``begin``, as in ``begin mixer_s32 mixer_s16``, choose those variants only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from .errors import InputError, MixerSpecError
from .variants import VARIANTS, variant

Tables = Mapping[str, Callable[[Sequence[str]], str]]
"""The word in a mark, as ``variants``, to what makes the table, of the names in the mark."""

_MIB = 2**20


def variants_table(names: Iterable[str] = tuple(VARIANTS)) -> str:
    """A Markdown table of variants at 224 pixels and 1000 classes.

    Raises:
        UnknownNameError: if there is no such variant.

    Example:
        >>> print(variants_table(["mixer_b16"]))
        | variant | parameters | without head | GFLOPs | MiB | source |
        | :-- | --: | --: | --: | --: | :-- |
        | `mixer_b16` | 59,880,472 | 59,111,472 | 25.20 | 124.6 | arXiv:2105.01601v4, table 1; \
google-research/vision_transformer, vit_jax/configs/models.py |
    """
    lines = [
        "| variant | parameters | without head | GFLOPs | MiB | source |",
        "| :-- | --: | --: | --: | --: | :-- |",
    ]
    for name in names:
        found = variant(name)
        spec = found.spec()
        cells = (
            f"`{found.name}`",
            f"{spec.parameter_count:,}",
            f"{spec.parameter_count_without_head:,}",
            f"{2e-9 * spec.multiply_adds:.2f}",
            f"{spec.activation_bytes / _MIB:.1f}",
            found.source,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES: Tables = {"variants": lambda names: variants_table(names or tuple(VARIANTS))}
"""The tables of this module; pages of other packages have others."""


def with_tables(page: str, where: str = "page", tables: Tables = TABLES) -> str:
    """``page`` with a new table between each pair of marks.

    Args:
        page: Markdown.
        where: its name for the message.
        tables: what the marks may ask for; the marks of others stay as they are.

    Raises:
        InputError: if a mark lacks its other half.
        UnknownNameError: if a mark names a variant that does not exist.
    """
    for word, table in tables.items():
        page = _with_table(page, where, word, table)
    return page


def _with_table(page: str, where: str, word: str, table: Callable[[Sequence[str]], str]) -> str:
    mark = re.compile(rf"<!-- {word}: (begin|end)((?: [a-z0-9_]+)*) -->")
    place = re.compile(
        rf"(?P<begin><!-- {word}: begin(?P<names>(?: [a-z0-9_]+)*) -->\n)"
        rf"(?:(?!<!-- {word}: ).)*"
        rf"(?P<end><!-- {word}: end -->)",
        re.DOTALL,
    )
    marks, places = len(mark.findall(page)), len(place.findall(page))
    if marks != 2 * places:
        raise InputError(
            where,
            f"a mark lacks its other half; expected `<!-- {word}: begin -->` and "
            f"`<!-- {word}: end -->` in turn, got {marks} marks and {places} pairs",
        )
    return place.sub(
        lambda found: f"{found['begin']}{table(found['names'].split())}\n{found['end']}", page
    )


def main(paths: Sequence[str], tables: Tables = TABLES) -> None:
    """Write the tables of these pages anew."""
    for path in map(Path, paths):
        page = path.read_text(encoding="utf-8")
        path.write_text(with_tables(page, str(path), tables), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MixerSpecError as error:
        sys.exit(f"error: {error}")
