"""The layer vocabulary: every kind's fields, parameters, shapes and cost.

A layer is a frozen value. It maps the incoming shape to its parameters (in canonical
orientation) and to the outgoing shape; what it computes is written down in
``mixer_spec/reference/``. Fields that change a number have no default.
"""

from .attention import Attention
from .base import Constant, Initial, Layer, LecunNormal, Normal, Parameter
from .elementwise import Affine, Gelu, LayerNorm, LayerScale, Silu, TokenNorm
from .mixing import (
    ChannelDense,
    DepthwiseConv,
    GroupChannels,
    TokenDense,
    UngroupChannels,
    UntiedTokenDense,
)
from .nesting import BranchLayer, GatedUnit, NormLayer, Residual, SpatialGate
from .pools import Head, MeanPool, TakeToken
from .stems import ClassToken, LinearEmbed, PatchEmbed, PositionEmbedding, TokenEmbed

StemLayer = PatchEmbed | TokenEmbed | LinearEmbed
EmbeddingLayer = ClassToken | PositionEmbedding
PoolLayer = MeanPool | TakeToken
AnyLayer = StemLayer | EmbeddingLayer | BranchLayer | Residual | PoolLayer | Head

__all__ = [
    "Affine",
    "AnyLayer",
    "Attention",
    "BranchLayer",
    "ChannelDense",
    "ClassToken",
    "Constant",
    "DepthwiseConv",
    "EmbeddingLayer",
    "GatedUnit",
    "Gelu",
    "GroupChannels",
    "Head",
    "Initial",
    "Layer",
    "LayerNorm",
    "LayerScale",
    "LecunNormal",
    "LinearEmbed",
    "MeanPool",
    "NormLayer",
    "Normal",
    "Parameter",
    "PatchEmbed",
    "PoolLayer",
    "PositionEmbedding",
    "Residual",
    "Silu",
    "SpatialGate",
    "StemLayer",
    "TakeToken",
    "TokenDense",
    "TokenEmbed",
    "TokenNorm",
    "UngroupChannels",
    "UntiedTokenDense",
]
