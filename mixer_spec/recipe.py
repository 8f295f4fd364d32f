"""A recipe: everything that decides how a model is trained, as data, with JSON both ways.

Where codebases mean different things by one word, the meaning is a field: which weights decay and
by what, what stochastic depth is linear in, which share mixup takes, where a schedule ends. The
named recipes are in ``mixer_spec/recipes/``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from ._fields import (
    Above,
    AtLeast,
    AtMost,
    Checked,
    Count,
    Fraction,
    Index,
    PositiveFloat,
    read_object,
)
from .errors import SpecError
from .preprocess import Preprocessing
from .recipe_parts import Augmentation, Crop, Mixing
from .schedule import Schedule
from .training import AdamW, CrossEntropy, Optimiser

RECIPE_VERSION = 1
"""The version of the JSON form; a recipe of a higher version is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Data(Checked):
    """Which pixels a step sees.

    Args:
        image_size: height and width that training images are brought to: the model's.
        crop: how a training image gets that size.
        flip: ``"left_right"`` exchanges left and right half of the time.
        unreadable: what happens to an image that cannot be read: ``"stop"``, or ``"next"`` takes
            the next one of the shuffled order; either way it is named.
        evaluation: how a photo becomes pixels outside of training; its mean and standard deviation
            scale the training images too. Goes into the trained file.
    """

    kind: ClassVar[str] = "data"
    image_size: tuple[Count, Count]
    crop: Crop
    flip: Literal["none", "left_right"]
    unreadable: Literal["stop", "next"]
    evaluation: Preprocessing


@dataclass(frozen=True, kw_only=True, slots=True)
class NoStochasticDepth(Checked):
    """Every branch of every block is always there."""

    kind: ClassVar[str] = "no_stochastic_depth"


@dataclass(frozen=True, kw_only=True, slots=True)
class StochasticDepth(Checked):
    """Each residual branch is left out at random, for each example on its own.

    Args:
        rate: the probability of the last branch to be left out.
        grows: along what the probability grows evenly, from 0 to ``rate``: ``"per_branch"`` over
            all residual branches (the paper), ``"per_block"`` over blocks, equal within one
            (big_vision), ``"constant"`` not at all (timm's Mixer).
        rescale: ``"none"``, or ``"kept"`` divides what is kept by the probability to be kept.

    Source:
        arXiv:1603.09382; arXiv:2105.01601v4, appendix B.
    """

    kind: ClassVar[str] = "stochastic_depth"
    rate: Fraction
    grows: Literal["per_branch", "per_block", "constant"]
    rescale: Literal["none", "kept"]

    def broken_rules(self) -> Iterator[str]:
        """Something has to be kept."""
        if self.rate == 1.0:
            yield "rate must be below 1, got 1.0"


@dataclass(frozen=True, kw_only=True, slots=True)
class SigmoidCrossEntropy(Checked):
    """Every class is a question of its own: the sum over classes, the mean over the batch.

    Source:
        google-research/big_vision, utils.py, ``sigmoid_xent``.
    """

    kind: ClassVar[str] = "sigmoid_cross_entropy"


@dataclass(frozen=True, kw_only=True, slots=True)
class NoClip(Checked):
    """Gradients are taken as they are."""

    kind: ClassVar[str] = "no_clip"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipByGlobalNorm(Checked):
    """Gradients longer than ``norm``, all weights together, are shortened to it.

    Args:
        norm: the greatest length. Nothing is added to the length that is divided by.
    """

    kind: ClassVar[str] = "clip_by_global_norm"
    norm: PositiveFloat


@dataclass(frozen=True, kw_only=True, slots=True)
class NoAverage(Checked):
    """The last weights are the result."""

    kind: ClassVar[str] = "no_average"


@dataclass(frozen=True, kw_only=True, slots=True)
class MovingAverage(Checked):
    """``a = decay * a + (1 - decay) * w`` after each step, from the initial weights; the result.

    Args:
        decay: near 1.
    """

    kind: ClassVar[str] = "moving_average"
    decay: Annotated[float, Above(0.0), AtMost(1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class NewWeights(Checked):
    """Training begins with the paper's initial values, drawn by the recipe's seed.

    Args:
        head_bias: of every class; -6.9 is about ``-log(1000)``, the logit of one in a thousand.
    """

    kind: ClassVar[str] = "new_weights"
    head_bias: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FromFile(Checked):
    """Training begins with the weights of a file.

    Args:
        head: ``"new"`` puts zeros for the head's kernel and ``head_bias`` for its bias, for
            classes of another number too; ``"kept"`` keeps the file's.
        head_bias: of every class of a new head.
        resolution: how the weights follow to another image size: ``"exact"`` is the paper's
            block-diagonal form for whole factors, ``"interpolated"`` takes any size.
    """

    kind: ClassVar[str] = "from_file"
    head: Literal["new", "kept"]
    head_bias: float
    resolution: Literal["exact", "interpolated"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe(Checked):
    """How a model is trained, from the first weights to the last.

    Args:
        seed: of everything that is drawn: weights, order, crops, mixing, branches left out.
        data: which pixels a step sees.
        augment: what else happens to an image.
        mixup: how examples of a batch are mixed.
        stochastic_depth: which branches are left out.
        loss: what is differentiated.
        optimiser: how the weights follow the gradients; its learning rate is the schedule's peak.
        decay_scaling: what weight decay is multiplied with in each step: the ``"learning_rate"``
            itself, or the ``"schedule"``, which is 1 at the peak (big_vision). Both are the same
            for a decay of ``d`` and ``d / peak``.
        clip: of the gradients, before the optimiser.
        average: of the weights.
        schedule: of the learning rate.
        batch: examples in a step, over all devices.
        steps: how many.
        accumulation: in how many parts a step goes through the model; the mean gradient of all
            parts is used, so only rounding and memory change.
        compute: the dtype inside of the model. Weights, gradients, the optimiser's memory and the
            loss are in float32 always; in float64 where ``compute`` is.
        rematerialise: ``"blocks"`` computes a block again in the backward pass, not to keep it.
        init: what the weights are before the first step.
    """

    kind: ClassVar[str] = "recipe"
    seed: Index
    data: Data
    augment: Augmentation
    mixup: Mixing
    stochastic_depth: NoStochasticDepth | StochasticDepth
    loss: CrossEntropy | SigmoidCrossEntropy
    optimiser: Optimiser
    decay_scaling: Literal["learning_rate", "schedule"]
    clip: NoClip | ClipByGlobalNorm
    average: NoAverage | MovingAverage
    schedule: Schedule
    batch: Count
    steps: Count
    accumulation: Annotated[int, AtLeast(1), AtMost(65_536)]
    compute: Literal["float32", "bfloat16", "float64"]
    rematerialise: Literal["none", "blocks"]
    init: NewWeights | FromFile

    def broken_rules(self) -> Iterator[str]:
        """The batch is cut into equal parts, and warm-up ends before the training does."""
        if self.batch % self.accumulation:
            yield (
                "batch does not divide into parts; expected a multiple of accumulation "
                f"{self.accumulation}, got {self.batch}"
            )
        if self.schedule.warm_up > self.steps:
            yield (
                "schedule.warm_up is longer than the training; expected at most "
                f"{self.steps} steps, got {self.schedule.warm_up}"
            )

    def to_data(self) -> dict[str, Any]:
        """The recipe as plain data with its ``recipe_version``."""
        return {"recipe_version": RECIPE_VERSION, **Checked.to_data(self)}

    def to_json(self) -> str:
        """The recipe as JSON text; equal recipes give equal text."""
        return json.dumps(self.to_data(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "recipe") -> Recipe:
        """Read a recipe; refuses unknown fields, kinds and versions, all at once.

        Args:
            text: what :meth:`to_json` wrote.
            where: the file it came from, for the message.

        Raises:
            SpecError: if it is not JSON, of a newer version, or breaks a rule.
        """
        data = read_object(text, where, what="recipe", version=("recipe_version", RECIPE_VERSION))
        return cls.from_data(data, where)

    @property
    def optimiser_by_rate(self) -> Optimiser:
        """The same optimiser, with a weight decay that is multiplied with the learning rate."""
        optimiser = self.optimiser
        if self.decay_scaling == "learning_rate" or not isinstance(optimiser, AdamW):
            return optimiser
        decay = optimiser.weight_decay / optimiser.learning_rate
        return dataclasses.replace(optimiser, weight_decay=decay)

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that two recipes share exactly when they are equal."""
        text = json.dumps(self.to_data(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def changed(recipe: Recipe, changes: dict[str, str]) -> Recipe:
    """The recipe with other values at dotted places, as ``--set optimiser.learning_rate=0.01``.

    Args:
        recipe: stays as it is.
        changes: place to JSON; what is no JSON is taken as a string. Another ``kind`` of something
            begins without values: its own are among the changes.

    Raises:
        SpecError: if there is no such place, or a value breaks a rule.

    Example:
        >>> from mixer_spec.recipes import recipe
        >>> changed(recipe("digits"), {"steps": "10", "schedule.warm_up": "2"}).steps
        10
        >>> changed(recipe("digits"), {"clip.norm": "2", "clip.kind": "clip_by_global_norm"}).clip
        ClipByGlobalNorm(norm=2.0)
        >>> changed(recipe("digits"), {"clip.kind": "no_clip"}).clip
        NoClip()
    """
    data = recipe.to_data()
    problems = []
    # A kind first, since it says which other fields there are.
    for place in sorted(changes, key=lambda place: not place.endswith(".kind")):
        *parents, name = place.split(".")
        inner: Any = data
        for parent in parents:
            inner = inner.get(parent) if isinstance(inner, dict) else None
        value = _parsed(changes[place])
        if name == "kind" and parents and isinstance(inner, dict) and inner.get(name) != value:
            inner.clear()
        elif not isinstance(inner, dict) or (name not in inner and not _new(parents, changes)):
            known = sorted(inner) if isinstance(inner, dict) else sorted(data)
            problems.append(f"{place}: there is no such field; expected one of {known}")
            continue
        inner[name] = value
    if problems:
        raise SpecError("recipe", problems)
    return Recipe.from_json(json.dumps(data))


def _new(parents: list[str], changes: dict[str, str]) -> bool:
    """Whether what is at a place is of a kind that the changes name."""
    return ".".join([*parents, "kind"]) in changes


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
