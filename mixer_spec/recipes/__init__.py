"""The named recipes: the paper's settings, fine-tuning, and small ones that run anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mixer_spec.errors import UnknownNameError
from mixer_spec.recipe import Recipe

from .fine_tuning import FINE_TUNING, bit_hyperrule
from .named import NamedRecipe
from .published import PUBLISHED
from .small import SMALL

__all__ = ["RECIPES", "NamedRecipe", "bit_hyperrule", "named_recipe", "recipe"]

RECIPES: Mapping[str, NamedRecipe] = MappingProxyType({**PUBLISHED, **FINE_TUNING, **SMALL})
"""All of them, by name."""


def recipe(name: str) -> Recipe:
    """The settings of the recipe called ``name``.

    Raises:
        UnknownNameError: if there is none; the message lists the nearest names.

    Example:
        >>> recipe("mixer_b_i1k").steps  # 300 epochs
        92897
    """
    return named_recipe(name).recipe


def named_recipe(name: str) -> NamedRecipe:
    """The recipe called ``name``, with its model and source.

    Raises:
        UnknownNameError: if there is none; the message lists the nearest names.
    """
    if name not in RECIPES:
        raise UnknownNameError.of("recipe", name, RECIPES)
    return RECIPES[name]
