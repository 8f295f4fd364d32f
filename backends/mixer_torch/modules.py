"""One short module for each layer kind of the vocabulary, with the canonical parameters.

Every module is made from a layer's fields and the node it stands at, which has the names and
shapes of its parameters. Parameters are born on the meta device, where they cost nothing. Axes:
``[batch, rgb, height, width]``, ``[batch, token]`` or ``[batch, token, channel]`` enters the stem,
``[batch, token, channel]`` runs through the blocks, ``[batch, channel]`` leaves the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_spec import layers
from mixer_spec.errors import InputError
from mixer_spec.graph import Node
from mixer_spec.shapes import Image, Table, TokenIds, Vectors


def module_of(node: Node) -> nn.Module:
    """The module that computes what stands at ``node``, with those inside it."""
    return MODULES[type(node.layer)](node.layer, node)


class Placed(nn.Module):
    """A module made from a node, with the parameters of that node.

    Args:
        layer: the node's layer.
        node: where it stands.
        part: which of the node's parameters, for a layer of several products (``query``).
    """

    def __init__(self, layer: layers.AnyLayer, node: Node, part: str = "") -> None:
        super().__init__()
        for name, parameter in node.own_parameters.items():
            owner, _, own_name = name.rpartition(".")
            if owner == part:
                empty = torch.empty(parameter.shape, device="meta")
                self.register_parameter(own_name, nn.Parameter(empty))

    def extra_repr(self) -> str:
        named = self.named_parameters(recurse=False)
        return ", ".join(f"{name}={list(parameter.shape)}" for name, parameter in named)


class Nested(Placed, nn.Sequential):
    """A module with a list of layers inside, under their names."""

    def __init__(self, layer: layers.AnyLayer, node: Node) -> None:
        super().__init__(layer, node)
        for child in node.children:
            self.add_module(child.name, module_of(child))

    def nested(self, x: Tensor) -> Tensor:
        """The layers inside this one, applied to ``x`` one after the other."""
        for module in self:
            x = module(x)
        return x


# --- stem and embeddings --------------------------------------------------------------------


class Stem(Nested):
    """A layer that a model begins with: it checks the input's shape.

    The embeddings that join the tokens stand inside it, since their names begin with ``stem``.
    """

    def __init__(self, layer: layers.AnyLayer, node: Node) -> None:
        super().__init__(layer, node)
        expected = node.incoming
        assert isinstance(expected, Image | TokenIds | Vectors)
        self.axes, self.sizes = expected.axes, expected.shape
        if isinstance(expected, Image):  # channels first
            self.axes = (*self.axes[2:], *self.axes[:2])
            self.sizes = (*self.sizes[2:], *self.sizes[:2])

    def check(self, inputs: Tensor) -> None:
        """Refuse inputs of another shape.

        Raises:
            InputError: with both shapes.
        """
        got = tuple(inputs.shape)
        if got[1:] != self.sizes:
            sizes, axes = ", ".join(map(str, self.sizes)), ", ".join(self.axes)
            hint = ""
            if self.axes[0] == "rgb" and got[1:] == (*self.sizes[1:], self.sizes[0]):
                hint = "; these are channels last: use images.permute(0, 3, 1, 2)"
            expected = f"expected [batch, {sizes}] (batch, {axes})"
            raise InputError("inputs", f"wrong shape; {expected}, got {list(got)}{hint}")


class PatchEmbed(Stem):
    """``[batch, rgb, height, width] -> [batch, token, channel]``.

    On the CPU a strided convolution, which takes half the time of gathering the patches. Elsewhere
    a matrix product: convolutions follow a TF32 switch of their own, which is on by default.
    """

    kernel: Tensor
    bias: Tensor

    def __init__(self, layer: layers.PatchEmbed, node: Node) -> None:
        super().__init__(layer, node)
        self.patch = layer.patch

    def forward(self, images: Tensor) -> Tensor:
        self.check(images)
        on_cpu = images.device.type == "cpu"
        return self.nested(self.convolve(images) if on_cpu else self.multiply(images))

    def convolve(self, images: Tensor) -> Tensor:
        """The tokens by a strided convolution."""
        kernel = self.kernel.permute(3, 2, 0, 1)
        tokens = F.conv2d(images, kernel, self.bias, stride=self.patch)
        return tokens.flatten(2).mT.contiguous()

    def multiply(self, images: Tensor) -> Tensor:
        """The tokens by a matrix product."""
        # [batch, rgb, row, patch_row, column, patch_column] -> the patch and its rgb last
        (ph, pw), (batch, rgb, height, width) = self.patch, images.shape
        patches = images.reshape(batch, rgb, height // ph, ph, width // pw, pw)
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        return F.linear(patches, self.kernel.flatten(0, 2).T, self.bias)


class TokenEmbed(Stem):
    """``[batch, token] -> [batch, token, channel]``: each word's vector."""

    embedding: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        self.check(ids)
        return self.nested(F.embedding(ids, self.embedding))


class LinearEmbed(Stem):
    """``[batch, token, channel] -> [batch, token, channel_out]``: ``X W + b``."""

    kernel: Tensor
    bias: Tensor

    def forward(self, vectors: Tensor) -> Tensor:
        self.check(vectors)
        return self.nested(F.linear(vectors, self.kernel.mT, self.bias))


class ClassToken(Placed):
    """Token 0 is the learned one."""

    embedding: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.embedding.expand(x.shape[0], -1, -1), x], dim=1)


class PositionEmbedding(Placed):
    """``X + E``."""

    embedding: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x + self.embedding


# --- norms and element-wise layers ----------------------------------------------------------


class LayerNorm(Placed):
    """Over the channels, with the population's variance."""

    scale: Tensor
    bias: Tensor

    def __init__(self, layer: layers.LayerNorm, node: Node) -> None:
        super().__init__(layer, node)
        self.epsilon = layer.epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.scale.shape, self.scale, self.bias, self.epsilon)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, epsilon={self.epsilon}"


class TokenNorm(Placed):
    """Over the tokens, with scale and bias along them."""

    scale: Tensor
    bias: Tensor

    def __init__(self, layer: layers.TokenNorm, node: Node) -> None:
        super().__init__(layer, node)
        self.epsilon = layer.epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.mT, self.scale.shape, self.scale, self.bias, self.epsilon).mT

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, epsilon={self.epsilon}"


class Affine(Placed):
    """``x * scale + bias``."""

    scale: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, x, self.scale)


class LayerScale(Placed):
    """``x * scale``."""

    scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Gelu(nn.GELU):
    """``x Phi(x)``, by erf or by the tanh approximation."""

    def __init__(self, layer: layers.Gelu, node: Node) -> None:
        super().__init__(approximate=layer.approximation)


class Silu(nn.SiLU):
    """``x / (1 + exp(-x))``."""

    def __init__(self, layer: layers.Silu, node: Node) -> None:
        super().__init__()


# --- mixing ---------------------------------------------------------------------------------


class TokenDense(Placed):
    """``W X + b``, with b along the tokens: no transposition, the bias within the product."""

    kernel: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.expand(x.shape[0], -1, -1)
        return torch.baddbmm(self.bias[:, None], kernel, x)


class UntiedTokenDense(Placed):
    """``W_c x_c + b_c`` for every channel c."""

    kernel: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        # [batch, token, channel] -> [channel, token, batch], and back
        columns = x.permute(2, 1, 0)
        return torch.baddbmm(self.bias[..., None], self.kernel, columns).permute(2, 1, 0)


class ChannelDense(Placed):
    """``X W + b``, with b along the channels; ``F.linear`` takes the transposed view for free."""

    kernel: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.kernel.T, self.bias)


class DepthwiseConv(Placed):
    """Every channel's window by every channel's kernel, zeros around the grid."""

    kernel: Tensor
    bias: Tensor

    def __init__(self, layer: layers.DepthwiseConv, node: Node) -> None:
        super().__init__(layer, node)
        table = node.incoming
        assert isinstance(table, Table)
        assert table.grid is not None
        self.grid = table.grid
        self.padding = [side // 2 for side in layer.window]

    def forward(self, x: Tensor) -> Tensor:
        # [batch, token, channel] -> [batch, channel, row, column], and back
        image = torch.unflatten(x, 1, self.grid).permute(0, 3, 1, 2)
        kernel = self.kernel.permute(2, 0, 1)[:, None]
        channels = image.shape[1]
        found = F.conv2d(image, kernel, self.bias, padding=self.padding, groups=channels)
        return found.permute(0, 2, 3, 1).flatten(1, 2)


class GroupChannels(Placed):
    """``y[g S + s, j] = x[s, j groups + g]``."""

    def __init__(self, layer: layers.GroupChannels, node: Node) -> None:
        super().__init__(layer, node)
        self.groups = layer.groups

    def forward(self, x: Tensor) -> Tensor:
        split = torch.unflatten(x, 2, (-1, self.groups))
        return split.permute(0, 3, 1, 2).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class UngroupChannels(Placed):
    """``y[s, j groups + g] = x[g S + s, j]``."""

    def __init__(self, layer: layers.UngroupChannels, node: Node) -> None:
        super().__init__(layer, node)
        self.groups = layer.groups

    def forward(self, x: Tensor) -> Tensor:
        split = torch.unflatten(x, 1, (self.groups, -1))
        return split.permute(0, 2, 3, 1).flatten(2)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class SpatialGate(Nested):
    """``u * layers(v)`` for the halves ``u, v`` of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        u, v = x.chunk(2, dim=-1)
        return u * self.nested(v)


class GatedUnit(Nested):
    """``value * activation(gate)`` for the two halves of an axis."""

    def __init__(self, layer: layers.GatedUnit, node: Node) -> None:
        super().__init__(layer, node)
        self.axis = 1 if layer.axis == "token" else 2
        self.gate_is_first = layer.gate == "first"

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=self.axis)
        gate, value = (first, second) if self.gate_is_first else (second, first)
        return value * self.nested(gate)


class Attention(Placed):
    """Softmax of ``q k / sqrt(size)`` over the tokens, for each head."""

    def __init__(self, layer: layers.Attention, node: Node) -> None:
        super().__init__(layer, node)
        self.heads = layer.heads
        self.query = ChannelDense(layer, node, "query")
        self.key = ChannelDense(layer, node, "key")
        self.value = ChannelDense(layer, node, "value")
        self.out = ChannelDense(layer, node, "out")

    def forward(self, x: Tensor) -> Tensor:
        # [batch, token, channel] -> [batch, head, token, size], and back
        query, key, value = (
            dense(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for dense in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return projected

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


class Residual(Nested):
    """``X + layers(X)``.

    While it is trained, ``factor`` may be a tensor that the branch is multiplied with, as
    ``[batch, 1, 1]`` with zeros for the examples that skip it.
    """

    factor: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        branch = self.nested(x)
        return x + (branch if self.factor is None else self.factor * branch)


# --- pool and head --------------------------------------------------------------------------


class MeanPool(Placed):
    """``[batch, token, channel] -> [batch, channel]``, the mean over the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


class TakeToken(Placed):
    """``[batch, token, channel] -> [batch, channel]``, one token."""

    def __init__(self, layer: layers.TakeToken, node: Node) -> None:
        super().__init__(layer, node)
        self.index = layer.index

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.index]

    def extra_repr(self) -> str:
        return f"index={self.index}"


class Head(ChannelDense):
    """``[batch, channel] -> [batch, class]``: ``x W + b``."""


MODULES: Mapping[type[layers.AnyLayer], Callable[[Any, Node], nn.Module]] = {
    layers.PatchEmbed: PatchEmbed,
    layers.TokenEmbed: TokenEmbed,
    layers.LinearEmbed: LinearEmbed,
    layers.ClassToken: ClassToken,
    layers.PositionEmbedding: PositionEmbedding,
    layers.LayerNorm: LayerNorm,
    layers.TokenNorm: TokenNorm,
    layers.Affine: Affine,
    layers.LayerScale: LayerScale,
    layers.Gelu: Gelu,
    layers.Silu: Silu,
    layers.TokenDense: TokenDense,
    layers.UntiedTokenDense: UntiedTokenDense,
    layers.ChannelDense: ChannelDense,
    layers.DepthwiseConv: DepthwiseConv,
    layers.GroupChannels: GroupChannels,
    layers.UngroupChannels: UngroupChannels,
    layers.SpatialGate: SpatialGate,
    layers.GatedUnit: GatedUnit,
    layers.Attention: Attention,
    layers.Residual: Residual,
    layers.MeanPool: MeanPool,
    layers.TakeToken: TakeToken,
    layers.Head: Head,
}
