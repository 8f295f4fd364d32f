"""``mixer-spec schema``: the JSON Schema of a spec or of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from mixer_spec.schema import json_schema_text, recipe_schema_text


def schema(
    of: Annotated[
        Literal["spec", "recipe"], typer.Argument(help="Of which kind of file.")
    ] = "spec",
) -> None:
    """Print the JSON Schema of a spec file, or of a recipe file."""
    print(json_schema_text() if of == "spec" else recipe_schema_text(), end="")
