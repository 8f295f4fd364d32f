"""The Mixer paper's own figures, as data: its tables 1, 2 and 3.

Source:
    arXiv:2105.01601v4. Accuracies are percentages of top-1; throughput is images a second on one
    TPUv3 core; the cost of pre-training is in days of one TPUv3 core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

SOURCE = "arXiv:2105.01601v4"

Data = Literal["ImageNet", "ImageNet-21k", "JFT-300M", "unlabelled or weakly labelled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Specification:
    """A column of table 1: the sizes of a Mixer at 224 pixels.

    Args:
        layers: number of blocks.
        patch: pixels of a patch's side (P).
        channels: the hidden size (C).
        tokens: the sequence's length (S).
        channel_hidden: width of the channel-mixing MLP (D_C).
        token_hidden: width of the token-mixing MLP (D_S).
        millions: weights without the head, in millions.
    """

    layers: int
    patch: int
    channels: int
    tokens: int
    channel_hidden: int
    token_hidden: int
    millions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A row of table 2 or 3: a system pre-trained on some data and fine-tuned at a size.

    A Mixer that is fine-tuned at K times 224 pixels has token-mixing MLPs that are K x K times as
    wide as its variant's (appendix C).

    Args:
        table: 2, the best of each kind, or 3, across scales.
        system: the paper's name for it.
        data: what it was pre-trained on.
        image_size: pixels of a side when fine-tuned, where the table says so.
        epochs: of pre-training, where the table says so.
        imagenet: accuracy on ImageNet's validation labels.
        real: accuracy on the cleaned ReaL labels.
        average_5: mean accuracy on ImageNet, CIFAR-10, CIFAR-100, Pets and Flowers.
        vtab: mean accuracy on the 19 tasks of VTAB-1k; only table 2 has it.
        throughput: images a second on one TPUv3 core.
        core_days: of pre-training on TPUv3, given in thousands with two decimals.
        extrapolated: whether the paper extrapolated the core-days from runs on JFT-300M.
    """

    table: Literal[2, 3]
    system: str
    data: Data
    image_size: int | None
    epochs: int | None
    imagenet: float
    real: float | None
    average_5: float | None
    vtab: float | None
    throughput: int | None
    core_days: int
    extrapolated: bool = False

    @property
    def variant(self) -> str | None:
        """The name of this system among our variants, if it is one of them."""
        family, _, scale = self.system.partition("-")
        if family not in ("Mixer", "ViT"):
            return None
        return f"{family}_{scale.replace('/', '')}".lower()


def _specification(*sizes: int) -> Specification:
    layers, patch, channels, tokens, channel_hidden, token_hidden, millions = sizes
    return Specification(
        layers=layers,
        patch=patch,
        channels=channels,
        tokens=tokens,
        channel_hidden=channel_hidden,
        token_hidden=token_hidden,
        millions=millions,
    )


SPECIFICATIONS: Mapping[str, Specification] = MappingProxyType(
    {
        # layers, patch, channels, tokens, channel_hidden, token_hidden, millions
        "mixer_s32": _specification(8, 32, 512, 49, 2048, 256, 19),
        "mixer_s16": _specification(8, 16, 512, 196, 2048, 256, 18),
        "mixer_b32": _specification(12, 32, 768, 49, 3072, 384, 60),
        "mixer_b16": _specification(12, 16, 768, 196, 3072, 384, 59),
        "mixer_l32": _specification(24, 32, 1024, 49, 4096, 512, 206),
        "mixer_l16": _specification(24, 16, 1024, 196, 4096, 512, 207),
        "mixer_h14": _specification(32, 14, 1280, 256, 5120, 640, 431),
    }
)
"""Table 1, by the variant's name."""


def _best(
    system: str,
    data: Data,
    imagenet: float,
    real: float | None,
    average_5: float | None,
    vtab: float | None,
    throughput: int | None,
    core_days: int,
) -> Result:
    """A row of table 2, whose caption gives the image size of the Mixers alone."""
    return Result(
        table=2,
        system=system,
        data=data,
        image_size=448 if system.startswith("Mixer") else None,
        epochs=None,
        imagenet=imagenet,
        real=real,
        average_5=average_5,
        vtab=vtab,
        throughput=throughput,
        core_days=core_days,
    )


def _scale(
    system: str,
    data: Data,
    image_size: int,
    epochs: int,
    imagenet: float,
    real: float,
    average_5: float | None,
    throughput: int,
    core_days: int,
) -> Result:
    """A row of table 3."""
    return Result(
        table=3,
        system=system,
        data=data,
        image_size=image_size,
        epochs=epochs,
        imagenet=imagenet,
        real=real,
        average_5=average_5,
        vtab=None,
        throughput=throughput,
        core_days=core_days,
        extrapolated=data in ("ImageNet", "ImageNet-21k"),
    )


RESULTS: tuple[Result, ...] = (
    # system, data, ImageNet, ReaL, average of 5, VTAB-1k, throughput, core-days
    _best("HaloNet", "ImageNet-21k", 85.8, None, None, None, 120, 100),
    _best("Mixer-L/16", "ImageNet-21k", 84.15, 87.86, 93.91, 74.95, 105, 410),
    _best("ViT-L/16", "ImageNet-21k", 85.30, 88.62, 94.39, 72.72, 32, 180),
    _best("BiT-R152x4", "ImageNet-21k", 85.39, None, 94.04, 70.64, 26, 940),
    _best("NFNet-F4+", "JFT-300M", 89.2, None, None, None, 46, 1_860),
    _best("Mixer-H/14", "JFT-300M", 87.94, 90.18, 95.71, 75.33, 40, 1_010),
    _best("BiT-R152x4", "JFT-300M", 87.54, 90.54, 95.33, 76.29, 26, 9_900),
    _best("ViT-H/14", "JFT-300M", 88.55, 90.72, 95.97, 77.63, 15, 2_300),
    _best("MPL", "unlabelled or weakly labelled", 90.0, 91.12, None, None, None, 20_480),
    _best("ALIGN", "unlabelled or weakly labelled", 88.64, None, None, 79.99, 15, 14_820),
    # system, data, image size, epochs, ImageNet, ReaL, average of 5, throughput, core-days
    _scale("Mixer-B/16", "ImageNet", 224, 300, 76.44, 82.36, 88.33, 1384, 10),
    _scale("ViT-B/16", "ImageNet", 224, 300, 79.67, 84.97, 90.79, 861, 20),
    _scale("Mixer-L/16", "ImageNet", 224, 300, 71.76, 77.08, 87.25, 419, 40),
    _scale("ViT-L/16", "ImageNet", 224, 300, 76.11, 80.93, 89.66, 280, 50),
    _scale("Mixer-B/16", "ImageNet-21k", 224, 300, 80.64, 85.80, 92.50, 1384, 150),
    _scale("ViT-B/16", "ImageNet-21k", 224, 300, 84.59, 88.93, 94.16, 861, 180),
    _scale("Mixer-L/16", "ImageNet-21k", 224, 300, 82.89, 87.54, 93.63, 419, 410),
    _scale("ViT-L/16", "ImageNet-21k", 224, 300, 84.46, 88.35, 94.49, 280, 550),
    _scale("Mixer-L/16", "ImageNet-21k", 448, 300, 83.91, 87.75, 93.86, 105, 410),
    _scale("Mixer-S/32", "JFT-300M", 224, 5, 68.70, 75.83, 87.13, 11489, 10),
    _scale("Mixer-B/32", "JFT-300M", 224, 7, 75.53, 81.94, 90.99, 4208, 50),
    _scale("Mixer-S/16", "JFT-300M", 224, 5, 73.83, 80.60, 89.50, 3994, 30),
    _scale("BiT-R50x1", "JFT-300M", 224, 7, 73.69, 81.92, None, 2159, 80),
    _scale("Mixer-B/16", "JFT-300M", 224, 7, 80.00, 85.56, 92.60, 1384, 80),
    _scale("Mixer-L/32", "JFT-300M", 224, 7, 80.67, 85.62, 93.24, 1314, 120),
    _scale("BiT-R152x1", "JFT-300M", 224, 7, 79.12, 86.12, None, 932, 140),
    _scale("BiT-R50x2", "JFT-300M", 224, 7, 78.92, 86.06, None, 890, 140),
    _scale("BiT-R152x2", "JFT-300M", 224, 14, 83.34, 88.90, None, 356, 580),
    _scale("Mixer-L/16", "JFT-300M", 224, 7, 84.05, 88.14, 94.51, 419, 230),
    _scale("Mixer-L/16", "JFT-300M", 224, 14, 84.82, 88.48, 94.77, 419, 450),
    _scale("ViT-L/16", "JFT-300M", 224, 14, 85.63, 89.16, 95.21, 280, 650),
    _scale("Mixer-H/14", "JFT-300M", 224, 14, 86.32, 89.14, 95.49, 194, 1_010),
    _scale("BiT-R200x3", "JFT-300M", 224, 14, 84.73, 89.58, None, 141, 1_780),
    _scale("Mixer-L/16", "JFT-300M", 448, 14, 86.78, 89.72, 95.13, 105, 450),
    _scale("ViT-H/14", "JFT-300M", 224, 14, 86.65, 89.56, 95.57, 87, 2_300),
    _scale("ViT-L/16", "JFT-300M", 512, 14, 87.76, 90.54, 95.63, 32, 650),
)
"""Tables 2 and 3, in the paper's order."""


def results(variant: str) -> tuple[Result, ...]:
    """The rows of tables 2 and 3 about the variant of that name.

    Example:
        >>> [(row.data, row.imagenet) for row in results("mixer_b16")]
        [('ImageNet', 76.44), ('ImageNet-21k', 80.64), ('JFT-300M', 80.0)]
    """
    return tuple(row for row in RESULTS if row.variant == variant)


def tpu_throughput(variant: str) -> int | None:
    """Images a second on one TPUv3 core at 224 pixels, where the paper measured it.

    Example:
        >>> tpu_throughput("mixer_b16"), tpu_throughput("vit_b16"), tpu_throughput("resmlp_24")
        (1384, 861, None)
    """
    found = {row.throughput for row in results(variant) if row.image_size == 224}
    return next(iter(found), None)
