"""The page ``docs/layouts.md``, from the tables: ``python -m mixer_converters.layouts.document``."""

from __future__ import annotations

from collections.abc import Iterator

from mixer_converters.containers import ENDINGS
from mixer_converters.provenance import PUBLISHED

from . import LAYOUTS, Layout

_HEAD = """# Layouts of weights

Generated from the tables in `converters/mixer_converters/layouts/` by
`python -m mixer_converters.layouts.document > docs/layouts.md`; edit the tables, not this page.

Every row is a weight under its canonical name and under the layout's, and how its axes move from
the canonical array to the layout's: `a b -> b a` is a transpose, a group in brackets is one axis,
`1` is an axis of length one, `=` is no change. Reading goes the other way. No value ever changes.
`{i}` is the number of a block, `{depth}` the number of blocks. Several canonical names in a row are
stacked along the axis `stacked`.

A layout does not say which function its weights are for. *Trained with* is what is known of that;
where it is more than one function, `mixer-spec convert` asks for `--gelu`, unless the file's name
or its `config.json` is that of a published checkpoint. What else a file does not say, `convert`
takes too: `--epsilon`, `--preprocessing`, `--labels`. It all travels in what `convert` writes
(msgpack alone has no place for it), and what a file says of its function is not overruled.
"""


def markdown() -> str:
    """The page as text."""
    return "\n".join([_HEAD, *_overview(), *_published(), *_tables()])


def _overview() -> Iterator[str]:
    yield "## All layouts\n"
    yield "| `--to` | holds | kinds of file | its framework runs | trained with |"
    yield "|---|---|---|---|---|"
    for layout in LAYOUTS:
        trained = ", or ".join(map(str, layout.trained))
        yield (
            f"| `{layout.name}` | {', '.join(layout.families)} | {', '.join(layout.containers)} "
            f"| {layout.runs} | {trained} |"
        )
    endings = ", ".join(f"`{ending}` {kind}" for ending, kind in ENDINGS.items())
    yield "\nThe ending of a name to write to says the kind of file: " + endings + "."
    yield "A name without one is a folder: of Hugging Face, or of Orbax.\n"


def _published() -> Iterator[str]:
    yield "## Published checkpoints\n"
    yield "| published as | variant | trained on | GELU | preprocessing | top-1 | source |"
    yield "|---|---|---|---|---|---|---|"
    for one in PUBLISHED:
        top1 = "" if one.top1 is None else f"{one.top1:g}"
        yield (
            f"| `{one.name}` | {one.variant} | {one.trained_on} | {one.gelu} | {one.pipeline} "
            f"| {top1} | {one.source} |"
        )
    yield ""
    for one in PUBLISHED:
        if one.mislabelled:
            yield f"`{one.name}` is mislabelled: {one.mislabelled} ({one.source}).\n"


def _tables() -> Iterator[str]:
    for layout in LAYOUTS:
        yield f"## {layout.name}: {', '.join(layout.families)}\n"
        yield f"{layout.origin}, `{layout.source}`. {_sentence(layout.because)}\n"
        if layout.squeezed:
            yield "Arrays may carry further axes of length one, which reading drops.\n"
        yield "| canonical | here | axes |"
        yield "|---|---|---|"
        yield from _rows(layout)
        yield ""


def _rows(layout: Layout) -> Iterator[str]:
    for canonical, foreign, how in layout.table:
        names = (canonical,) if isinstance(canonical, str) else canonical
        yield f"| {', '.join(f'`{name}`' for name in names)} | `{foreign}` | `{how}` |"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


if __name__ == "__main__":
    print(markdown(), end="")
