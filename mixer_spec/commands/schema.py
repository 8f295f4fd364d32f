"""``mixer-spec schema``: the JSON Schema of a spec."""

from __future__ import annotations

from mixer_spec.schema import json_schema_text


def schema() -> None:
    """Print the JSON Schema of a spec file."""
    print(json_schema_text(), end="")
