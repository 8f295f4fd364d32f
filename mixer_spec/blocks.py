"""The residual branches that several architectures share."""

from __future__ import annotations

from typing import Literal

from .layers import BranchLayer, ChannelDense, Gelu, LayerNorm, NormLayer, Residual, TokenDense

GeluForm = Literal["tanh", "none"]
"""``"tanh"`` is the approximation that Google's Flax code runs, ``"none"`` is erf."""

NORM = LayerNorm(epsilon=1e-6)
"""Flax's default, which all of Google's models and most of timm's use."""


def token_mixing(*layers: BranchLayer) -> Residual:
    """A branch called ``token_mixing``."""
    return Residual(name="token_mixing", layers=layers)


def channel_mixing(*layers: BranchLayer) -> Residual:
    """A branch called ``channel_mixing``."""
    return Residual(name="channel_mixing", layers=layers)


def token_mlp(tokens: int, hidden: int, gelu: GeluForm) -> Residual:
    """The Mixer's first equation: ``X + W2 gelu(W1 norm(X) + b1) + b2``.

    Args:
        tokens: rows of the table (S).
        hidden: width of the MLP (D_S).
        gelu: which form.
    """
    activation = Gelu(approximation=gelu)
    return token_mixing(NORM, TokenDense(features=hidden), activation, TokenDense(features=tokens))


def channel_mlp(
    channels: int, hidden: int, gelu: GeluForm, norm: NormLayer = NORM, *behind: BranchLayer
) -> Residual:
    """The Mixer's second equation: ``X + gelu(norm(X) W3 + b3) W4 + b4``.

    Args:
        channels: columns of the table (C).
        hidden: width of the MLP (D_C).
        gelu: which form.
        norm: in front of the MLP.
        behind: layers behind the MLP.
    """
    activation = Gelu(approximation=gelu)
    mlp = (ChannelDense(features=hidden), activation, ChannelDense(features=channels))
    return channel_mixing(norm, *mlp, *behind)
