"""``mixer-spec info``: one architecture, layer by layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from mixer_spec.graph import Node
from mixer_spec.layers import Constant, Initial, LecunNormal, Normal
from mixer_spec.model import ModelSpec
from mixer_spec.preprocess import pipeline
from mixer_spec.variants import Variant
from mixer_spec.weights import initial_distribution

from .architecture import find_architecture
from .options import Classes, ImageSize, VariantName
from .output import Json, console, print_json, table

_MIB = 2**20


def info(
    variant: VariantName,
    image_size: ImageSize = None,
    classes: Classes = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Write out every block, not one of each stage.")
    ] = False,
    json: Json = False,
) -> None:
    """Show an architecture: layers, shapes, parameters, GFLOPs and memory."""
    spec, published = find_architecture(variant, image_size=image_size, classes=classes)
    if json:
        print_json(describe(spec, published))
    else:
        _print(console(), spec, published, every_block=layers)


def describe(spec: ModelSpec, published: Variant | None) -> dict[str, Any]:
    """Everything that ``mixer-spec info --json`` prints."""
    overrides = published.initial if published else {}
    return {
        "name": published.name if published else None,
        "fingerprint": spec.fingerprint,
        "source": published.source if published else None,
        "preprocessing": _describe_preprocessing(published) if published else None,
        "input": list(spec.input.shape),
        "classes": spec.classes,
        "blocks": spec.depth,
        "parameters": spec.parameter_count,
        "parameters_without_head": spec.parameter_count_without_head,
        "multiply_adds": spec.multiply_adds,
        "gflops": 2e-9 * spec.multiply_adds,
        "activation_bytes": spec.activation_bytes,
        "taps": list(spec.taps),
        "layers": [_describe_layer(node, overrides) for node in spec.nodes()],
        "spec": spec.to_data(),
    }


def _describe_preprocessing(published: Variant) -> dict[str, Any]:
    return {"name": published.preprocessing, **pipeline(published.preprocessing).to_data()}


def _describe_layer(node: Node, overrides: Mapping[str, Initial]) -> dict[str, Any]:
    """One layer without those inside it, so that every column adds up to the total."""
    return {
        "path": node.path,
        "kind": node.layer.kind,
        "incoming": list(node.incoming.shape),
        "outgoing": list(node.outgoing.shape),
        "multiply_adds": _own_multiply_adds(node),
        "activation_bytes": _own_activation_bytes(node),
        "parameters": {
            f"{node.path}.{name}": {
                "axes": list(parameter.axes),
                "shape": list(parameter.shape),
                "initial": _in_words(
                    initial_distribution(f"{node.path}.{name}", parameter, overrides)
                ),
            }
            for name, parameter in node.own_parameters.items()
        },
    }


def _own_multiply_adds(node: Node) -> int:
    return node.multiply_adds - sum(child.multiply_adds for child in node.children)


def _own_activation_bytes(node: Node) -> int:
    return 4 * (node.activations - sum(child.activations for child in node.children))


def _own_parameter_count(node: Node) -> int:
    return sum(parameter.size for parameter in node.own_parameters.values())


def _in_words(distribution: Initial) -> str:
    match distribution:
        case Constant(value):
            return f"{value:g}"
        case Normal(stddev):
            return f"normal, standard deviation {stddev:g}"
        case LecunNormal():
            return "LeCun normal"


# --- for people -----------------------------------------------------------------------------


def _print(out: Console, spec: ModelSpec, published: Variant | None, *, every_block: bool) -> None:
    right = ("times", "parameters", "GFLOPs", "MiB")
    made = table("layer", "in", "out", *right, right=right, folding=("layer",))
    for path, node, times in _rows(spec, every_block=every_block):
        made.add_row(
            path,
            _shape(node.incoming.shape),
            _shape(node.outgoing.shape),
            str(times),
            f"{times * _own_parameter_count(node):,}",
            f"{2e-9 * times * _own_multiply_adds(node):.3f}",
            f"{times * _own_activation_bytes(node) / _MIB:.2f}",
        )
    made.add_section()
    made.add_row(
        *("total", _shape(spec.input.shape), str(spec.classes), ""),
        f"{spec.parameter_count:,}",
        f"{2e-9 * spec.multiply_adds:.3f}",
        f"{spec.activation_bytes / _MIB:.2f}",
    )
    out.print(made, "")
    for label, text in _facts(spec, published):
        out.print(f"[bold]{label:<15}[/] {escape(text)}", soft_wrap=True)


def _rows(spec: ModelSpec, *, every_block: bool) -> Iterator[tuple[str, Node, int]]:
    """What to show of each layer: its path, the layer, and how many of it stand in a row."""
    stages: dict[int, int] = {}  # index of a stage's first block -> its depth
    first = 0
    for stage in spec.stages:
        stages[first] = stage.depth
        first += stage.depth
    for node in spec.nodes():
        top, _, rest = node.path.partition(".")
        if every_block or top != "blocks":
            yield node.path, node, 1
            continue
        index, _, name = rest.partition(".")
        depth = stages.get(int(index), 0)
        if depth == 1:
            yield node.path, node, 1
        elif depth:
            yield f"blocks.{index}-{int(index) + depth - 1}.{name}", node, depth


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _facts(spec: ModelSpec, published: Variant | None) -> Iterator[tuple[str, str]]:
    total, without_head = spec.parameter_count, spec.parameter_count_without_head
    yield "input", f"{spec.input.noun} {spec.input}"
    yield "parameters", f"{total:,}; without the head, as papers count: {without_head:,}"
    yield "GFLOPs", "2 x multiply-adds of the matrix products, one input"
    yield "MiB", "every layer's output for one input in float32"
    yield "taps", _taps(spec)
    for words, names in _initial_values(spec, published.initial if published else {}).items():
        yield "initial values", f"{words}: {', '.join(names)}"
    if published:
        yield "preprocessing", _preprocessing(published)
        yield "source", published.source
    yield "fingerprint", spec.fingerprint


def _preprocessing(published: Variant) -> str:
    told = pipeline(published.preprocessing)
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (told.mean, told.std))
    return f"{published.preprocessing}: {told.geometry.kind}, mean {mean}, std {std}"


def _taps(spec: ModelSpec) -> str:
    """The taps, with one block of each composition for all."""
    names = dict.fromkeys(
        f"blocks.{{i}}.{tap.split('.')[2]}" if tap.startswith("blocks.") else tap
        for tap in spec.taps
    )
    return f"{len(spec.taps)}: {', '.join(names)}"


def _initial_values(spec: ModelSpec, overrides: Mapping[str, Initial]) -> dict[str, list[str]]:
    """Each distribution in words, with the parameters (``kind.name``) that are drawn from it."""
    found: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for node in spec.nodes():
        for name, parameter in node.own_parameters.items():
            drawn = initial_distribution(f"{node.path}.{name}", parameter, overrides)
            found[_in_words(drawn)][f"{node.layer.kind}.{name}"] = None
    return {words: list(names) for words, names in found.items()}
