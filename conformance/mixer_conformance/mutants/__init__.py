"""Mutants: what the suite is tested with. Every mistake of the catalogue, run as a backend."""

from __future__ import annotations

from collections.abc import Mapping

from .attention import without_bias
from .broken_rules import RULES
from .catalogue import COMPUTED
from .gradients import BACKWARDS
from .mutant import Equivalent, Known, Mutant
from .optimisers import TRAININGS
from .photos import PHOTOS

MUTANTS: Mapping[str, Known] = {
    known.name: known for known in (*COMPUTED, *RULES, *BACKWARDS, *TRAININGS, *PHOTOS)
}
"""Every mistake by its name."""

EQUIVALENT: tuple[Equivalent, ...] = (
    Equivalent(
        "key's bias dropped",
        Mutant(compute=without_bias("key")),
        "vit",
        "A query's score with key j is q.(k_j + b) = q.k_j + q.b. The second term is the same for "
        "every j, and softmax does not see a constant: no tap of any input changes.",
    ),
)
"""Mistakes that no suite can see, with the proof."""

__all__ = ["EQUIVALENT", "MUTANTS", "Equivalent", "Known", "Mutant"]
