"""The catalogue of mistakes in what is computed."""

from __future__ import annotations

from .arithmetic import ARITHMETIC
from .attention import ATTENTION
from .converters import CONVERTERS
from .elementwise import ACTIVATIONS, NORMS
from .families import ABLATIONS, FAMILIES
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
    *ATTENTION,
    *FAMILIES,
    *ABLATIONS,
    *CONVERTERS,
)
"""Every mistake in what is computed."""
