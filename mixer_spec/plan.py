"""What a training will need: memory, time and input, by formulas, before a chip is rented.

Every figure says what it rests on: ``arithmetic`` on the architecture, the recipe and the maker's
figures; ``published``, arithmetic on the rates that others reported; ``measured``, arithmetic on
what this machine took just now. None was measured on the hardware that is planned for.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .errors import InputError
from .graph import Node
from .hardware import Hardware
from .layers import (
    Attention,
    ClassToken,
    GroupChannels,
    MeanPool,
    PositionEmbedding,
    TakeToken,
    UngroupChannels,
)
from .model import ModelSpec
from .recipe import NoAverage, Recipe

Basis = Literal["arithmetic", "published", "measured"]

EFFICIENCY = (0.40, 0.55)
"""The part of a chip's peak that a training may reach, with care and with luck.

Two published trainings: Mixer-B/16 for 300 epochs of ImageNet in 2 h 11 min on 64 chips of TPUv3
is 46% (big_vision, configs/mlp_mixer_i1k.py); Mixer-H/14 for 14 epochs of JFT-300M in 1010 days of
one core is 57% (arXiv:2105.01601v4, table 2). The peak of a core of TPUv3 is taken as 61.5e12.
"""

_GIGA = 1e9
_BYTES = {"bfloat16": 2, "float32": 4, "float64": 8}
_KEEP_NOTHING = (ClassToken, PositionEmbedding, GroupChannels, UngroupChannels, MeanPool, TakeToken)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One number of a plan.

    Args:
        part: of the plan: ``memory``, ``time``, ``links`` or ``input``.
        name: what it is.
        value: the number.
        unit: GB, ms, images/s and the like.
        basis: what it rests on.
        how: the formula, or what was measured.
    """

    part: Literal["memory", "time", "links", "input"]
    name: str
    value: float
    unit: str
    basis: Basis
    how: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All figures, and whether the training fits into the chips' memory.

    Args:
        figures: in the order to be read.
        needed: GB on each chip.
        capacity: GB that each chip has.
    """

    figures: tuple[Figure, ...]
    needed: float
    capacity: float

    @property
    def fits(self) -> bool:
        """Whether there is memory enough, by these figures; a compiler needs some more."""
        return self.needed <= self.capacity

    def value(self, name: str) -> float:
        """The figure called ``name``."""
        return next(figure.value for figure in self.figures if figure.name == name)


class Kept(NamedTuple):
    """Values that the backward pass of one image needs.

    Args:
        whole: where every layer keeps them.
        by_blocks: where a block keeps what entered it alone and is computed again: all of those,
            the values of the largest block, and what is outside of blocks.
    """

    whole: int
    by_blocks: int


def kept_values(spec: ModelSpec) -> Kept:
    """How many values the backward pass of one image needs.

    A layer needs what entered it. What only moves values, or adds to them, needs nothing; a
    product of two halves needs both; attention needs what is inside it too.

    Example:
        >>> from mixer_spec import variant
        >>> blocks = 12 * (4 * 196 * 768 + 2 * 768 * 384 + 2 * 196 * 3072)
        >>> kept_values(variant("B/16").spec()).whole == 3 * 224**2 + blocks + 196 * 768 + 768
        True
    """
    inside: defaultdict[str, int] = defaultdict(int)
    entering: dict[str, int] = {}
    outside = 0
    for step in spec.steps:
        kept = sum(_kept(node) for node in step.nodes)
        if step.tap.startswith("blocks."):
            block = step.tap.split(".")[1]
            inside[block] += kept
            entering.setdefault(block, math.prod(step.nodes[0].incoming.shape))
        else:
            outside += kept
    largest = max(inside.values(), default=0)
    return Kept(outside + sum(inside.values()), outside + sum(entering.values()) + largest)


def _kept(node: Node) -> int:
    if isinstance(node.layer, _KEEP_NOTHING):
        return 0
    inside = sum(_kept(child) for child in node.children)
    entering = math.prod(node.incoming.shape)
    match node.layer.kind:
        case "residual":
            return inside
        case "attention":
            assert isinstance(node.layer, Attention)
            return entering + node.activations - math.prod(node.outgoing.shape)
    return inside + entering


def plan(
    spec: ModelSpec,
    recipe: Recipe,
    chip: Hardware,
    *,
    chips: int,
    parameters: Literal["replicated", "sharded"] = "replicated",
    milliseconds: float | None = None,
) -> Plan:
    """What training ``spec`` by ``recipe`` will need.

    Args:
        spec: the architecture, at the recipe's image size.
        recipe: batch, optimiser, dtype, accumulation, rematerialisation.
        chip: of which kind.
        chips: how many.
        parameters: whether each chip has all weights, gradients and the optimiser's memory, or its
            share of them.
        milliseconds: of one processor core to prepare one image, as measured; ``None`` leaves
            the processor out.

    Raises:
        InputError: if the batch does not divide among the chips, or there are too many of them.
    """
    problems = []
    if not 1 <= chips <= chip.most:
        problems.append(f"--chips must be 1 to {chip.most}, which one job can have, got {chips}")
    elif recipe.batch % (chips * recipe.accumulation):
        problems.append(
            f"the batch does not divide among {chips} chips in {recipe.accumulation} parts; "
            f"expected a multiple of {chips * recipe.accumulation}, got {recipe.batch}"
        )
    if problems:
        raise InputError("plan", problems)
    held = tuple(memory(spec, recipe, chips=chips, parameters=parameters))
    rate = [
        chips * chip.teraflops * 1e12 * part / _flops(spec, recipe) for part in EFFICIENCY
    ]  # images a second
    return Plan(
        figures=(
            *held,
            *_time(spec, recipe, chip, chips, rate),
            *_links(spec, recipe, chip, chips, parameters),
            *_input(chip, chips, rate, milliseconds),
        ),
        needed=sum(figure.value for figure in held),
        capacity=chip.memory,
    )


def _flops(spec: ModelSpec, recipe: Recipe) -> int:
    """Of one image, forward and backward."""
    return (8 if recipe.rematerialise == "blocks" else 6) * spec.multiply_adds


def memory(
    spec: ModelSpec,
    recipe: Recipe,
    *,
    chips: int,
    parameters: Literal["replicated", "sharded"] = "replicated",
) -> Iterator[Figure]:
    """What each chip holds in a step, in GB; what a compiler needs for itself is not in it.

    Args:
        spec: the architecture.
        recipe: batch, optimiser, average, dtype, accumulation, rematerialisation.
        chips: that share the batch evenly.
        parameters: whether each chip has all weights, or its share of them.
    """
    held = 8 if recipe.compute == "float64" else 4
    spread = chips if parameters == "sharded" else 1
    weights = held * spec.parameter_count / spread / _GIGA
    share = f"{spec.parameter_count:,} weights x {held} bytes" + (
        f" / {spread} chips" if spread > 1 else ""
    )
    slots = len(recipe.optimiser.slots)
    averages = 0 if isinstance(recipe.average, NoAverage) else 1

    def figure(name: str, value: float, how: str) -> Figure:
        return Figure(part="memory", name=name, value=value, unit="GB", basis="arithmetic", how=how)

    yield figure("weights", weights, share)
    yield figure("gradients", weights, share)
    yield figure(
        "optimiser", slots * weights, f"{slots} of the size of the weights: {recipe.optimiser.kind}"
    )
    if averages:
        yield figure("average", weights, "of the size of the weights")
    images = recipe.batch // chips // recipe.accumulation
    kept, what = kept_values(spec).whole, "what enters each layer"
    if recipe.rematerialise == "blocks":
        kept, what = kept_values(spec).by_blocks, "what enters each block, and one block's values"
    size = _BYTES[recipe.compute]
    yield figure(
        "activations",
        images * kept * size / _GIGA,
        f"{images} images x {kept:,} values x {size} bytes: {what}",
    )


def _time(
    spec: ModelSpec, recipe: Recipe, chip: Hardware, chips: int, rate: list[float]
) -> Iterator[Figure]:
    flops = _flops(spec, recipe)
    yield Figure(
        part="time",
        name="train GFLOP an image",
        value=flops / 1e9,
        unit="GFLOP",
        basis="arithmetic",
        how=f"{flops // spec.multiply_adds} x {spec.multiply_adds:,} multiply-adds",
    )
    for part, images in zip(EFFICIENCY, rate, strict=True):
        at = f"at {part:.0%} of {chips} x {chip.teraflops:g} TFLOP/s"
        seconds = recipe.batch / images

        def figure(name: str, value: float, unit: str, how: str, part: float = part) -> Figure:
            return Figure(
                part="time",
                name=f"{name} at {part:.0%}",
                value=value,
                unit=unit,
                basis="published",
                how=how,
            )

        yield figure("step", 1e3 * seconds, "ms", f"{recipe.batch} images {at}")
        yield figure("images a second", images, "images/s", at)
        yield figure("training", recipe.steps * seconds / 3600, "h", f"{recipe.steps:,} steps")


def _links(
    spec: ModelSpec, recipe: Recipe, chip: Hardware, chips: int, parameters: str
) -> Iterator[Figure]:
    if chips == 1:
        return
    held = 8 if recipe.compute == "float64" else 4
    passes = 3 if parameters == "sharded" else 2
    moved = passes * held * spec.parameter_count * (chips - 1) / chips / _GIGA
    what = (
        "weights gathered forward and backward, gradients scattered"
        if parameters == "sharded"
        else "gradients reduced and sent back"
    )
    yield Figure(
        part="links",
        name="sent by each chip a step",
        value=moved,
        unit="GB",
        basis="arithmetic",
        how=f"{passes} x {held} bytes x {spec.parameter_count:,}: {what}",
    )
    yield Figure(
        part="links",
        name="time on the links a step",
        value=1e3 * moved / (chip.links / 2),
        unit="ms",
        basis="arithmetic",
        how=f"at {chip.links / 2:g} GB/s one way; most of it can overlap with computing",
    )


def _input(
    chip: Hardware, chips: int, rate: list[float], milliseconds: float | None
) -> Iterator[Figure]:
    hosts = -(-chips // chip.chips_per_host)
    for part, images in zip(EFFICIENCY, rate, strict=True):
        yield Figure(
            part="input",
            name=f"images a second and host at {part:.0%}",
            value=images / hosts,
            unit="images/s",
            basis="published",
            how=f"{hosts} hosts of {min(chips, chip.chips_per_host)} chips",
        )
    if milliseconds is None:
        return
    yield Figure(
        part="input",
        name="preparing an image",
        value=milliseconds,
        unit="ms",
        basis="measured",
        how="one core of this machine: a 500 x 375 JPEG through the recipe",
    )
    for part, images in zip(EFFICIENCY, rate, strict=True):
        yield Figure(
            part="input",
            name=f"cores of each host at {part:.0%}",
            value=images / hosts * milliseconds / 1e3,
            unit="cores",
            basis="measured",
            how=f"{images / hosts:,.0f} images/s x {milliseconds:.2f} ms",
        )
