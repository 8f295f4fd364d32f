"""The case families, F01 to F30: one small module for related ones."""

from __future__ import annotations

from collections.abc import Mapping

from .base import Case, Trial
from .exact import F02
from .extremes import F05, F06, F07, F08, F09
from .fuzz import F30
from .golden import F01, F04
from .gradients import F17, F18
from .inputs import F10, F11, F12
from .liveness import F03
from .numbers import F26, F28
from .photos import F29
from .refusals import F25
from .state import F20, F23, F24
from .symmetry import F13, F14, F15, F16
from .training import F19
from .weights import F21, F22, F27
from .zoo import EFFORTS, ZOO, Effort, ZooModel, chosen

CASES: Mapping[str, Case] = {
    case.id: case
    for case in (
        F01,
        F02,
        F03,
        F04,
        F05,
        F06,
        F07,
        F08,
        F09,
        F10,
        F11,
        F12,
        F13,
        F14,
        F15,
        F16,
        F17,
        F18,
        F19,
        F20,
        F21,
        F22,
        F23,
        F24,
        F25,
        F26,
        F27,
        F28,
        F29,
        F30,
    )
}
"""Every family by its id, in order."""

__all__ = ["CASES", "EFFORTS", "ZOO", "Case", "Effort", "Trial", "ZooModel", "chosen"]
