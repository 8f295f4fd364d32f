"""The catalogue of mistakes in what is computed."""

from __future__ import annotations

from .arithmetic import ARITHMETIC, FAMILIES
from .elementwise import ACTIVATIONS, NORMS
from .mutant import Known
from .structure import BATCH, DEPTH, HEADS
from .tokens import MIXING, STEMS

COMPUTED: tuple[Known, ...] = (
    *ACTIVATIONS,
    *NORMS,
    *STEMS,
    *MIXING,
    *DEPTH,
    *HEADS,
    *BATCH,
    *ARITHMETIC,
    *FAMILIES,
)
"""Every mistake in what is computed."""
