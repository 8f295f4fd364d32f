"""A spec unfolded: every layer at its place, with its name, shapes and parameters.

Backends walk these nodes, so that no backend computes a shape or a name of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .layers import AnyLayer, Parameter, Residual
from .shapes import Shape


@dataclass(frozen=True, slots=True)
class Node:
    """One layer at its place in a model.

    Args:
        name: its name in the list it stands in (``dense_0``); empty for the stem's first layer,
            whose parameters have the list's own name (``stem.kernel``).
        path: its canonical name in the model (``blocks.3.token_mixing.dense_0``).
        layer: what it computes.
        incoming: the shape that enters, without batch.
        outgoing: the shape that leaves, without batch.
        children: the layers inside a residual or a gate.
    """

    name: str
    path: str
    layer: AnyLayer
    incoming: Shape
    outgoing: Shape
    children: tuple[Node, ...]

    @property
    def own_parameters(self) -> Mapping[str, Parameter]:
        """This layer's parameters by their names within it (``kernel``), without its children's."""
        return self.layer.parameters(self.incoming)  # type: ignore[arg-type]

    @property
    def multiply_adds(self) -> int:
        """Products summed in matrix products for one image, children included."""
        own = self.layer.multiply_adds(self.incoming)  # type: ignore[arg-type]
        return own + sum(child.multiply_adds for child in self.children)

    @property
    def activations(self) -> int:
        """Values computed for one image by this layer and those inside it, each counted once."""
        own = self.layer.activations(self.incoming)  # type: ignore[arg-type]
        return own + sum(child.activations for child in self.children)

    def walk(self) -> Iterator[Node]:
        """This node, then everything inside it, in the order of computation."""
        yield self
        for child in self.children:
            yield from child.walk()

    def parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Canonical name and description of every parameter of this node and its children."""
        for node in self.walk():
            for name, parameter in node.own_parameters.items():
                yield f"{node.path}.{name}", parameter


@dataclass(frozen=True, slots=True)
class Step:
    """The part of a model between two taps.

    Args:
        tap: the name of what leaves this step (``blocks.3.token_mixing``).
        nodes: its layers, in order.
    """

    tap: str
    nodes: tuple[Node, ...]

    @property
    def outgoing(self) -> Shape:
        """The shape that leaves, without batch."""
        return self.nodes[-1].outgoing


def names(layers: Sequence[AnyLayer], problems: list[str], where: str) -> list[str]:
    """The name of each layer in its list; a kind that stands twice is a problem."""
    counters: Counter[str] = Counter()
    found = []
    for layer in layers:
        label = layer.name if isinstance(layer, Residual) else layer.label
        count = counters[label]
        counters[label] += 1
        if layer.numbered:
            label = f"{label}_{count}"
        elif count:
            problems.append(
                f"{where}: two layers are called {label!r}; expected each name once in a list"
            )
        found.append(label)
    return found


def place(
    layers: Sequence[AnyLayer], incoming: Shape, path: str, problems: list[str]
) -> tuple[Node, ...] | None:
    """Put ``layers`` one after the other, ``incoming`` entering the first.

    Rules that they break go to ``problems``; ``None`` when a shape could not be followed.
    ``path`` is the list's canonical name, empty at the top of the model.
    """
    nodes = []
    for name, layer in zip(names(layers, problems, path), layers, strict=True):
        node_path = ".".join(part for part in (path, name) if part)
        node = _place_one(name, layer, incoming, node_path, problems)
        if node is None:
            return None
        nodes.append(node)
        incoming = node.outgoing
    return tuple(nodes)


def _place_one(
    name: str, layer: AnyLayer, incoming: Shape, path: str, problems: list[str]
) -> Node | None:
    if not isinstance(incoming, layer.accepts):
        problems.append(
            f"{path}: {layer.kind} does not take this shape; "
            f"expected {layer.accepts.noun}, got {incoming.noun} {incoming}"
        )
        return None
    broken = [f"{path}: {rule}" for rule in layer.rules(incoming)]
    problems += broken
    if broken:
        return None
    children: tuple[Node, ...] = ()
    nested = layer.nested(incoming)
    if nested is not None:
        inner, entering = nested
        placed = place(inner, entering, path, problems)
        if placed is None:
            return None
        leaving = placed[-1].outgoing if placed else entering
        if leaving.shape != entering.shape:
            problems.append(
                f"{path}: a {layer.kind} must end in the table that it began with; "
                f"expected {entering}, got {leaving}"
            )
            return None
        children = placed
    return Node(name, path, layer, incoming, layer.outgoing(incoming), children)
