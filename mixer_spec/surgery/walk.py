"""One walk over a spec that changes its token axes: new widths, and new weights to go with them.

What becomes of a token axis is an :class:`Axis`. The walk knows which axes there are and how they
hang together: a branch ends in the order that it began with, the halves of a gate must stay halves,
and grouped channels stack the tokens. How weights follow is the axis's own business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, Self, TypeVar, cast

from numpy.typing import NDArray

from mixer_spec.errors import InputError, SpecError
from mixer_spec.graph import Node, place
from mixer_spec.layers import (
    AnyLayer,
    BranchLayer,
    ClassToken,
    GatedUnit,
    GroupChannels,
    PatchEmbed,
    PositionEmbedding,
    Residual,
    SpatialGate,
    TokenDense,
    TokenNorm,
    UngroupChannels,
    UntiedTokenDense,
)
from mixer_spec.model import ModelSpec
from mixer_spec.shapes import Image, ImageSize, Table
from mixer_spec.weights import Weights

Array = NDArray[Any]


class Axis(Protocol):
    """What becomes of one token axis."""

    @property
    def tokens(self) -> int:
        """How many tokens it has afterwards."""
        ...

    def stacked(self, count: int) -> Self:
        """``count`` such axes, one behind the other, as one axis."""
        ...

    def part(self, count: int) -> Self | None:
        """The axis that this one stacks ``count`` of; ``None`` if it does not."""
        ...

    def same(self, other: Self) -> bool:
        """Whether the tokens of both can be added, one to one."""
        ...

    def kernel(self, kernel: Array, entering: Self) -> Array:
        """A kernel ``[..., token_out, token]`` from the axis ``entering`` to this one."""
        ...

    def spread(self, values: Array) -> Array:
        """A bias or a scale ``[..., token]``."""
        ...

    def positions(self, embedding: Array) -> Array:
        """An embedding ``[token, channel]``."""
        ...


AxisT = TypeVar("AxisT", bound=Axis)


def resized_image(spec: ModelSpec, image_size: ImageSize, where: str) -> tuple[Image, Table]:
    """The image of another size, and the patches that the stem makes of it.

    Raises:
        SpecError: if the model takes no images, or the patch does not divide the new one.
        InputError: if the image has other than two sides.
    """
    if not isinstance(spec.input, Image):
        raise SpecError(
            where, f"a resolution is of images; expected a model of images, got {spec.input}"
        )
    sides = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    if len(sides) != 2:
        raise InputError(
            where, f"must be one number or (height, width); expected 2 sides, got {sides}"
        )
    image = Image(height=sides[0], width=sides[1], channels=spec.input.channels)
    problems: list[str] = []
    placed = place((spec.stem,), image, "stem", problems)
    if placed is None:
        raise SpecError(where, problems)
    return image, cast(Table, placed[0].outgoing)


def rebuild(
    spec: ModelSpec,
    weights: Weights,
    image: Image,
    of_image: Callable[[Table], AxisT],
    free: Callable[[int], AxisT],
) -> tuple[ModelSpec, dict[str, Array]]:
    """The spec and the weights with every token axis changed.

    Args:
        spec: the architecture.
        weights: canonical name to array; those without a token axis are passed on as they are.
        image: the new input.
        of_image: what becomes of the patches, and of what stands in front of them.
        free: what becomes of a hidden axis of so many tokens, whose order is free.

    Raises:
        SpecError: if the tokens are rearranged in a way that the axes cannot follow.
    """
    walk = _Walk(weights, of_image, free)
    axis: AxisT | None = None
    for step in spec.steps:
        axis = walk.through(step.nodes, axis, None)
    stages = []
    first = 0
    for number, stage in enumerate(spec.stages):
        if stage.depth:
            transition = walk.layers_under(f"transitions.{number}.")
            block = walk.layers_under(f"blocks.{first}.")
            stage = dataclasses.replace(
                stage,
                transition=cast("tuple[BranchLayer, ...]", transition),
                block=cast("tuple[Residual, ...]", block),
            )
        stages.append(stage)
        first += stage.depth
    return dataclasses.replace(spec, input=image, stages=tuple(stages)), walk.found


@dataclass(slots=True)
class _Walk(Generic[AxisT]):
    weights: Weights
    of_image: Callable[[Table], AxisT]
    free: Callable[[int], AxisT]
    layers: dict[str, AnyLayer] = field(default_factory=dict)  # the new ones, by path
    found: dict[str, Array] = field(default_factory=dict)

    def layers_under(self, prefix: str) -> tuple[AnyLayer, ...]:
        """The new layers of the list at ``prefix``, without those inside them."""
        return tuple(
            layer
            for path, layer in self.layers.items()
            if path.startswith(prefix) and "." not in path.removeprefix(prefix)
        )

    def through(self, nodes: Sequence[Node], axis: AxisT | None, end: AxisT | None) -> AxisT | None:
        """The axis that leaves ``nodes``; ``end`` is the one it should be, if that matters."""
        for node, wanted in zip(nodes, self._wanted(nodes, end), strict=True):
            axis = self._one(node, axis, wanted)
        return axis

    def _wanted(self, nodes: Sequence[Node], end: AxisT | None) -> list[AxisT | None]:
        """The axis that should leave each node so that ``end`` leaves the last."""
        found = []
        for node in reversed(nodes):
            found.append(end)
            match node.layer:
                case TokenDense() | UntiedTokenDense():
                    end = None
                case GroupChannels(groups=count):
                    end = None if end is None else end.part(count)
                case UngroupChannels(groups=count):
                    end = (end or self._free(node.outgoing)).stacked(count)
                case GatedUnit(axis="token"):
                    end = (end or self._free(node.outgoing)).stacked(2)
        return found[::-1]

    def _free(self, table: object) -> AxisT:
        assert isinstance(table, Table)
        return self.free(table.tokens)

    def _one(self, node: Node, axis: AxisT | None, wanted: AxisT | None) -> AxisT | None:
        """Change one layer and its weights; the axis that leaves it."""
        layer: AnyLayer = node.layer
        own = {name: self.weights[f"{node.path}.{name}"] for name in node.own_parameters}
        if isinstance(layer, PatchEmbed | ClassToken):
            assert isinstance(node.outgoing, Table)
            axis = self.of_image(node.outgoing)
        elif axis is not None:
            layer, own, axis = self._changed(node, own, axis, wanted)
        self.layers[node.path] = layer
        self.found |= {f"{node.path}.{name}": array for name, array in own.items()}
        return axis

    def _changed(
        self, node: Node, own: dict[str, Array], axis: AxisT, wanted: AxisT | None
    ) -> tuple[AnyLayer, dict[str, Array], AxisT]:
        layer = node.layer
        match layer:
            case TokenDense() | UntiedTokenDense():
                leaving = wanted or self._free(node.outgoing)
                kernel, bias = leaving.kernel(own["kernel"], axis), leaving.spread(own["bias"])
                layer = dataclasses.replace(layer, features=leaving.tokens)
                return layer, {"kernel": kernel, "bias": bias}, leaving
            case TokenNorm():
                return layer, {name: axis.spread(array) for name, array in own.items()}, axis
            case PositionEmbedding():
                return layer, {"embedding": axis.positions(own["embedding"])}, axis
            case GroupChannels(groups=count):
                return layer, own, axis.stacked(count)
            case UngroupChannels(groups=count):
                return layer, own, self._part(node, axis, count)
            case GatedUnit(axis="token"):
                return layer, own, self._part(node, axis, 2)
            case Residual() | SpatialGate():
                leaving_list = self.through(node.children, axis, axis)
                if leaving_list is None or not axis.same(leaving_list):
                    raise self._lost(node, "it does not end in the order that it began with")
                inner = cast("tuple[BranchLayer, ...]", self.layers_under(f"{node.path}."))
                return dataclasses.replace(layer, layers=inner), own, axis
        return layer, own, axis

    def _part(self, node: Node, axis: AxisT, count: int) -> AxisT:
        part = axis.part(count)
        if part is None:
            raise self._lost(node, f"the tokens that enter it are not {count} equal parts")
        return part

    def _lost(self, node: Node, reason: str) -> SpecError:
        return SpecError(
            node.path,
            f"its tokens cannot be followed to another resolution; {reason}; "
            "make the model at the new resolution and train it from the start",
        )
