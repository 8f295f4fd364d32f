"""``mixer-spec list``: the published variants."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from mixer_spec.variants import VARIANTS, Variant

from .output import Json, console, print_json, table


def list_variants(json: Json = False) -> None:
    """List the published variants with their size and source."""
    rows = [_describe(variant) for variant in VARIANTS.values()]
    if json:
        print_json(rows)
        return
    right = ("parameters", "GFLOPs")
    made = table("name", *right, "input", "source", right=right, folding=("source",))
    for row in rows:
        made.add_row(
            row["name"],
            f"{row['parameters']:,}",
            f"{row['gflops']:.2f}",
            "x".join(map(str, row["input"])),
            Text(row["source"], no_wrap=True, overflow="ellipsis"),
        )
    out = console()
    out.print(made)
    out.print("\n1000 classes. GFLOPs of one image: 2 x multiply-adds of the matrix products.")


def _describe(variant: Variant) -> dict[str, Any]:
    spec = variant.spec()
    return {
        "name": variant.name,
        "aliases": list(variant.aliases),
        "parameters": spec.parameter_count,
        "multiply_adds": spec.multiply_adds,
        "gflops": 2e-9 * spec.multiply_adds,
        "input": list(spec.input.shape),
        "preprocessing": variant.preprocessing,
        "source": variant.source,
    }
