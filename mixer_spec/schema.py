"""The JSON Schemas of a spec and of a recipe, made from the dataclasses' annotations.

The schema says which kinds stand where and what each field may hold. Rules between layers (widths
that do not fit, a patch that does not divide the image) are for ``ModelSpec.from_json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from ._fields import Above, AtLeast, AtMost, Checked, Matches, alternatives, field_types
from .model import SPEC_VERSION, ModelSpec

_SCALARS = {int: "integer", float: "number", str: "string"}


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what ``ModelSpec.to_json`` writes.

    Example:
        >>> json_schema()["$defs"]["gelu"]["properties"]["approximation"]
        {'enum': ['none', 'tanh']}
    """
    return _document(ModelSpec, "spec", "architecture", SPEC_VERSION)


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what ``Recipe.to_json`` writes.

    Example:
        >>> recipe_schema()["properties"]["decay_scaling"]
        {'enum': ['learning_rate', 'schedule']}
    """
    from .recipe import RECIPE_VERSION, Recipe

    return _document(Recipe, "recipe", "recipe", RECIPE_VERSION)


def _document(cls: type[Checked], name: str, title: str, version: int) -> dict[str, Any]:
    """The schema of a whole file, which says its version."""
    definitions: dict[str, Any] = {}
    _define(cls, definitions)
    top = definitions.pop(cls.kind)
    field = {f"{name}_version": {"const": version}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:mixer-spec:{name}:{version}",
        "title": f"mixer_spec {title}, version {version}",
        **top,
        "properties": field | top["properties"],
        "required": [*field, *top["required"]],
        "$defs": dict(sorted(definitions.items())),
    }


def json_schema_text() -> str:
    """:func:`json_schema` as the text of the published file ``spec.schema.json``."""
    return json.dumps(json_schema(), indent=2) + "\n"


def recipe_schema_text() -> str:
    """:func:`recipe_schema` as the text of the published file ``recipe.schema.json``."""
    return json.dumps(recipe_schema(), indent=2) + "\n"


def _define(cls: type[Checked], definitions: dict[str, Any]) -> None:
    """Add the object schema of ``cls``, and of every class it can hold, to ``definitions``."""
    if cls.kind in definitions:
        return
    definitions[cls.kind] = {}  # taken, so that a class that holds itself comes to an end
    fields = {name: _schema(kind, definitions) for name, kind in field_types(cls).items()}
    definitions[cls.kind] = {
        "description": (cls.__doc__ or "").partition("\n")[0],
        "type": "object",
        "properties": {"kind": {"const": cls.kind}, **fields},
        "required": ["kind", *fields],
        "additionalProperties": False,
    }


def _schema(annotation: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *bounds = get_args(annotation)
        keywords: dict[str, Any] = _schema(base, definitions)
        for bound in bounds:
            keywords |= _keyword(bound)
        return keywords
    if origin is Literal:
        return {"enum": list(get_args(annotation))}
    if origin is tuple:
        return _list_schema(get_args(annotation), definitions)
    if annotation in _SCALARS:
        return {"type": _SCALARS[annotation]}
    classes = alternatives(annotation)
    for cls in classes:
        _define(cls, definitions)
    references = [{"$ref": f"#/$defs/{cls.kind}"} for cls in classes]
    return references[0] if len(references) == 1 else {"oneOf": references}


def _list_schema(members: tuple[Any, ...], definitions: dict[str, Any]) -> dict[str, Any]:
    if members[-1] is Ellipsis:
        return {"type": "array", "items": _schema(members[0], definitions)}
    return {
        "type": "array",
        "prefixItems": [_schema(member, definitions) for member in members],
        "minItems": len(members),
        "maxItems": len(members),
    }


def _keyword(bound: object) -> Mapping[str, Any]:
    match bound:
        case AtLeast(low):
            return {"minimum": low}
        case AtMost(high):
            return {"maximum": high}
        case Above(low):
            return {"exclusiveMinimum": low}
        case Matches(pattern):
            return {"pattern": f"^({pattern})$"}
    raise TypeError(f"no JSON Schema keyword for {bound!r}")
