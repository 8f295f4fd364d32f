"""A recipe under its name, with the model that it is for and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from mixer_spec.model import ModelSpec
from mixer_spec.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedRecipe:
    """A recipe under its name.

    Args:
        recipe: the settings.
        model: the variant that they were published for, or a small architecture itself; ``None``
            for fine-tuning, where the file says it.
        source: where the settings come from.
    """

    recipe: Recipe
    model: str | ModelSpec | None
    source: str


def named(model: str | None, recipe: Recipe, source: str) -> NamedRecipe:
    """One, in the order of a table's columns."""
    return NamedRecipe(recipe=recipe, model=model, source=source)
