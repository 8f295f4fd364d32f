"""What a recipe may do to training images: crops, augmentation and mixup, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from ._fields import AtLeast, AtMost, Checked, Count, Fraction, PositiveFloat
from .preprocess.data import Resample


@dataclass(frozen=True, kw_only=True, slots=True)
class AsEvaluated(Checked):
    """Training images get their size as in evaluation, by ``data.evaluation``; nothing is drawn."""

    kind: ClassVar[str] = "as_evaluated"


@dataclass(frozen=True, kw_only=True, slots=True)
class InceptionCrop(Checked):
    """A random part of the image, of random area and proportions, resized by bilinear interpolation.

    Args:
        area: least and greatest part of the image's area.
        antialias: of the resizing; ``"off"`` in Google's code.

    Source:
        arXiv:1409.4842, section 6.
    """

    kind: ClassVar[str] = "inception_crop"
    area: tuple[Fraction, Fraction]
    antialias: Literal["on", "off"]

    def broken_rules(self) -> Iterator[str]:
        """The limits are in order."""
        if not 0 < self.area[0] <= self.area[1]:
            yield f"area must be least and greatest, above 0; got {list(self.area)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizeThenCrop(Checked):
    """The whole image squashed to a square, and a random place of the model's size cut out of it.

    Args:
        resize: pixels of the square's side.
        resample: how.

    Source:
        google-research/big_transfer, bit_hyperrule.py and input_pipeline_tf2_or_jax.py.
    """

    kind: ClassVar[str] = "resize_then_crop"
    resize: Count
    resample: Resample


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift(Checked):
    """An image of the model's size, moved by up to some pixels each way; zeros move in.

    Args:
        pixels: the most that it moves, up, down, left or right.
    """

    kind: ClassVar[str] = "shift"
    pixels: Count


Crop = AsEvaluated | InceptionCrop | ResizeThenCrop | Shift


@dataclass(frozen=True, kw_only=True, slots=True)
class NoAugmentation(Checked):
    """Images stay as the crop left them."""

    kind: ClassVar[str] = "no_augmentation"


@dataclass(frozen=True, kw_only=True, slots=True)
class RandAugment(Checked):
    """Some random operations on each image, one after another, all of one strength.

    Args:
        layers: number of operations.
        magnitude: their strength; 10 is each operation's full one, and more goes beyond.
        flavour: which table of operations: ``"google"`` with the faults of the code that trained
            the published models, ``"fixed"`` without.

    Source:
        arXiv:1909.13719; google-research/big_vision, pp/autoaugment.py.
    """

    kind: ClassVar[str] = "randaugment"
    layers: Count
    magnitude: Annotated[float, AtLeast(0), AtMost(30)]
    flavour: Literal["google", "fixed"]


Augmentation = NoAugmentation | RandAugment


@dataclass(frozen=True, kw_only=True, slots=True)
class NoMixup(Checked):
    """Examples are not mixed."""

    kind: ClassVar[str] = "no_mixup"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixup(Checked):
    """Each example, pixels and labels, mixed with another of the global batch, by one share a step.

    Args:
        strength: both parameters of the beta distribution that the share is drawn from.
        share: ``"larger"`` keeps the larger part of each example itself (big_vision), ``"drawn"``
            takes the share as it is (scenic).
        partner: row ``i`` is mixed with row ``i - 1``, counted around the batch
            (``"previous"``, big_vision), or with ``batch - 1 - i`` (``"opposite"``, scenic).

    Source:
        arXiv:1710.09412.
    """

    kind: ClassVar[str] = "mixup"
    strength: PositiveFloat
    share: Literal["larger", "drawn"]
    partner: Literal["previous", "opposite"]


Mixing = NoMixup | Mixup
