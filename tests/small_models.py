"""One small model of every family and ablation, with every layer kind: 8 x 12 pixels, 12 channels."""

from __future__ import annotations

from mixer_spec import ablations, families
from mixer_spec.blocks import NORM
from mixer_spec.layers import Affine
from mixer_spec.shapes import TokenIds, Vectors

SMALL = {"image_size": (8, 12), "patch": 4, "channels": 12, "depth": 2, "classes": 7}
HIDDEN = {"token_hidden": 5, "channel_hidden": 20}
SEQUENCE = {"channels": 12, "depth": 2, "classes": 7, **HIDDEN}
SMALL_MODELS = {
    "mixer": families.mixer(**SMALL, token_hidden=5, channel_hidden=20),
    "mixer with erf": families.mixer(**SMALL, token_hidden=5, channel_hidden=20, gelu="none"),
    "resmlp": families.resmlp(**SMALL),
    "gmlp": families.gmlp(**SMALL),
    "gmixer": families.gmixer(**SMALL, token_hidden=10, channel_hidden=24),
    "vit": families.vit(**SMALL, heads=3, channel_hidden=20),
    "vit mean": families.vit(**SMALL, heads=3, channel_hidden=20, pool="mean"),
    "feed forward": families.feed_forward(**SMALL),
    "untied": ablations.mixer_untied(**SMALL, **HIDDEN),
    "grouped": ablations.mixer_grouped(**SMALL, **HIDDEN, groups=3, views=False),
    "views": ablations.mixer_grouped(**SMALL, **HIDDEN, groups=2, views=True),
    "pyramid": ablations.mixer_pyramid(
        image_size=(8, 12), patch=4, channels=12, depths=(1, 2), shrink=2, classes=7, **HIDDEN
    ),
    "resmlp mlp": ablations.resmlp_ablation(**SMALL, mixing="mlp", norm=Affine()),
    "resmlp conv": ablations.resmlp_ablation(**SMALL, mixing="conv", norm=Affine()),
    "resmlp sepconv": ablations.resmlp_ablation(**SMALL, mixing="separable_conv", norm=Affine()),
    "resmlp layer norm": ablations.resmlp_ablation(**SMALL, mixing="linear", norm=NORM),
    "words": families.sequence_mixer(**SEQUENCE, input=TokenIds(tokens=6, vocabulary=30)),
    "vectors": families.sequence_mixer(**SEQUENCE, input=Vectors(tokens=6, channels=5)),
}
