"""ModelSpec: an architecture as data, with JSON, validation, fingerprint, taps and cost."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from ._fields import AtLeast, AtMost, Checked, read_object
from .errors import SpecError
from .graph import Node, Step, place
from .layers import (
    AnyLayer,
    BranchLayer,
    EmbeddingLayer,
    Head,
    NormLayer,
    Parameter,
    PoolLayer,
    Residual,
    StemLayer,
)
from .shapes import ModelInput, Shape, Table

SPEC_VERSION = 1
"""The version of the JSON form; a spec of a higher version is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage(Checked):
    """``depth`` blocks of the same composition, after an optional transition.

    Args:
        transition: layers without a residual in front of the first block (a pyramid's step down).
        block: the named residual branches of one block, in order.
        depth: how many times the block is repeated, each time with weights of its own.
    """

    kind: ClassVar[str] = "stage"
    transition: tuple[BranchLayer, ...]
    block: tuple[Residual, ...]
    depth: Annotated[int, AtLeast(0), AtMost(10_000)]

    def broken_rules(self) -> Iterator[str]:
        """A stage with a transition needs a block, since taps stand behind blocks."""
        if not self.block:
            yield "a stage needs a block; expected at least one residual, got none"
        names = [residual.name for residual in self.block]
        # Two of one name would be one tap, and one set of weights for both.
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"two residuals are called {name!r}; expected each name once in a block"
        if self.transition and not self.depth:
            yield "a transition needs a block behind it; expected a depth of at least 1, got 0"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec(Checked):
    """One architecture: ``stem -> stages of residual blocks -> norm -> pool -> head``.

    Args:
        input: what enters, without batch: an image, or a sequence.
        stem: the layer that makes tokens of it.
        embeddings: what joins the tokens before the first block (ViT's class token, positions).
        stages: the blocks.
        norm: the norm behind the last block.
        pool: how the tokens become one vector.
        head: the classifier.

    Raises:
        SpecError: with every rule that the composition breaks.

    Example:
        >>> from mixer_spec import families
        >>> spec = families.mixer(image_size=224, patch=16, channels=768, depth=12,
        ...                       token_hidden=384, channel_hidden=3072)
        >>> spec.parameter_count
        59880472
        >>> spec == ModelSpec.from_json(spec.to_json())
        True
    """

    kind: ClassVar[str] = "model"
    input: ModelInput
    stem: StemLayer
    embeddings: tuple[EmbeddingLayer, ...]
    stages: tuple[Stage, ...]
    norm: NormLayer
    pool: PoolLayer
    head: Head

    def broken_rules(self) -> list[str]:
        """Every rule that the layers break where they stand; independent of the depth."""
        problems: list[str] = []
        for _ in _unfold(self, problems, every_block=False):
            pass
        return problems

    # --- the model unfolded ------------------------------------------------------------------

    @property
    def steps(self) -> tuple[Step, ...]:
        """The whole computation, cut at the taps; what every backend runs."""
        return _steps(self)

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the intermediates that every backend can return, ``logits`` last."""
        return tuple(step.tap for step in self.steps)

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return sum(stage.depth for stage in self.stages)

    @property
    def classes(self) -> int:
        """The number of logits."""
        return self.head.classes

    def nodes(self) -> Iterator[Node]:
        """Every layer at its place, outermost first, in the order of computation."""
        for step in self.steps:
            for node in step.nodes:
                yield from node.walk()

    def parameters(self) -> dict[str, Parameter]:
        """Canonical name and description of every weight, in the order of computation."""
        return {
            name: parameter
            for step in self.steps
            for node in step.nodes
            for name, parameter in node.parameters()
        }

    @property
    def parameter_count(self) -> int:
        """The number of weights, head included."""
        return sum(parameter.size for parameter in self.parameters().values())

    @property
    def parameter_count_without_head(self) -> int:
        """The number of weights without those of the classifier, as the papers count."""
        head = self.steps[-1].nodes
        return self.parameter_count - sum(p.size for node in head for _, p in node.parameters())

    @property
    def multiply_adds(self) -> int:
        """Products summed in matrix products for one image; FLOPs are twice that."""
        return sum(node.multiply_adds for step in self.steps for node in step.nodes)

    @property
    def activation_bytes(self) -> int:
        """Bytes of every layer's output for one image in float32: what a backward pass keeps."""
        return 4 * sum(node.activations for step in self.steps for node in step.nodes)

    # --- JSON --------------------------------------------------------------------------------

    def to_data(self) -> dict[str, Any]:
        """The spec as plain data with its ``spec_version``."""
        # `super()` does not survive slots=True, which makes a second class.
        return {"spec_version": SPEC_VERSION, **Checked.to_data(self)}

    def to_json(self, *, indent: int | None = None) -> str:
        """The spec as JSON text; equal specs give equal text."""
        separators = (",", ":") if indent is None else None
        return json.dumps(self.to_data(), indent=indent, separators=separators)

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "spec") -> ModelSpec:
        """Read a spec; refuses unknown fields, kinds and versions, all at once.

        Args:
            text: what :meth:`to_json` wrote.
            where: the file or field it came from, for the message.

        Raises:
            SpecError: if it is not JSON, of a newer version, or breaks a rule.
        """
        data = read_object(text, where, what="spec", version=("spec_version", SPEC_VERSION))
        try:
            return cls.from_data(data, where)
        except RecursionError:
            raise SpecError(where, "is nested too deep to be a model") from None

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that two specs share exactly when they are equal."""
        text = json.dumps(self.to_data(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@functools.lru_cache(maxsize=64)
def _steps(spec: ModelSpec) -> tuple[Step, ...]:
    return tuple(_unfold(spec, [], every_block=True))


def _unfold(spec: ModelSpec, problems: list[str], *, every_block: bool) -> Iterator[Step]:
    """The steps of ``spec``; stops at the first whose shapes cannot be followed.

    With ``every_block`` false, one block stands for all of its stage: their shapes are equal.
    """
    shape: Shape = spec.input
    for tap, lists in _plan(spec, every_block=every_block):
        nodes: list[Node] = []
        for path, layers in lists:
            placed = place(layers, shape, path, problems)
            if placed is None:
                return
            if path.startswith("transitions."):
                problems += _growth(path, shape, placed[-1].outgoing)
            nodes += placed
            shape = nodes[-1].outgoing
        yield Step(tap, tuple(nodes))


def _growth(path: str, entering: Shape, leaving: Shape) -> Iterator[str]:
    assert isinstance(entering, Table)
    assert isinstance(leaving, Table)
    if leaving.tokens > entering.tokens:
        yield (
            f"{path}: a pyramid does not grow; "
            f"expected at most {entering.tokens} tokens, got {leaving.tokens}"
        )


def _plan(
    spec: ModelSpec, *, every_block: bool
) -> Iterator[tuple[str, list[tuple[str, tuple[AnyLayer, ...]]]]]:
    """Each tap with the lists of layers that lead to it and the path of each list."""
    yield "stem", [("stem", (spec.stem, *spec.embeddings))]
    index = 0
    for number, stage in enumerate(spec.stages):
        for repeat in range(stage.depth):
            if repeat and not every_block:
                continue
            for position, residual in enumerate(stage.block):
                path = f"blocks.{index + repeat}"
                parts: list[tuple[str, tuple[AnyLayer, ...]]] = [(path, (residual,))]
                if stage.transition and not repeat and not position:
                    parts.insert(0, (f"transitions.{number}", stage.transition))
                yield f"{path}.{residual.name}", parts
        index += stage.depth
    yield "norm", [("", (spec.norm,))]
    yield "pooled", [("", (spec.pool,))]
    yield "logits", [("", (spec.head,))]
