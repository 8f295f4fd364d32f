"""The layouts that weights come in: one module and one table for each.

A layout knows names and axes, and which function its framework runs; what kind of file the names
stand in is the business of ``mixer_converters.containers``.
"""

from __future__ import annotations

from .deit_resmlp import DEIT_RESMLP
from .google import GOOGLE
from .google_old import GOOGLE_OLD
from .google_vit import GOOGLE_VIT, GOOGLE_VIT_MEAN, GOOGLE_VIT_OLD
from .kecam import KECAM, KECAM_TORCH
from .layout import Entry, Layout
from .lucidrains_gmlp import LUCIDRAINS_GMLP
from .lucidrains_mixer import LUCIDRAINS_MIXER
from .nnx import NNX
from .timm_gmlp import TIMM_GMLP
from .timm_mixer import TIMM_MIXER
from .timm_resmlp import TIMM_RESMLP
from .timm_vit import TIMM_VIT

LAYOUTS: tuple[Layout, ...] = (
    GOOGLE,
    GOOGLE_OLD,
    GOOGLE_VIT,
    GOOGLE_VIT_MEAN,
    GOOGLE_VIT_OLD,
    TIMM_MIXER,
    TIMM_RESMLP,
    TIMM_GMLP,
    TIMM_VIT,
    DEIT_RESMLP,
    LUCIDRAINS_MIXER,
    LUCIDRAINS_GMLP,
    NNX,
    KECAM,
    KECAM_TORCH,
)
"""Every foreign layout, in the order of the documentation."""

__all__ = ["LAYOUTS", "Entry", "Layout"]
