"""The published checkpoints: what they were really trained on and with, as data with sources.

Names lie: timm's ``goog_in21k_ft_in1k`` were trained on ImageNet-1k from scratch. A row is found by
the name that its file was published under, or by timm's tag in a ``config.json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mixer_spec.preprocess import PIPELINES, Preprocessing

_GOOGLE = "google-research/vision_transformer: README.md, vit_jax.ipynb"
_AUTHOR = "huggingface/pytorch-image-models issue 651, an author of the paper, 2021-05-20"
_TIMM = "huggingface/pytorch-image-models: timm/models/mlp_mixer.py, results/results-imagenet.csv"
_DEIT = "facebookresearch/deit: README_resmlp.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One published checkpoint.

    Args:
        name: what it is published as: timm's ``variant.tag``, or the file's path in its bucket.
        files: the names of its files, without endings.
        variant: the architecture.
        classes: number of logits.
        trained_on: the data that it was really trained on.
        gelu: the form it was trained with.
        pipeline: the name of the preprocessing it was evaluated with.
        top1: published accuracy on ImageNet-1k in percent; ``None`` where there is none.
        labels: the set and order of the classes.
        mislabelled: what its name or description gets wrong.
        source: where all this is from.
    """

    name: str
    files: tuple[str, ...]
    variant: str
    classes: int
    trained_on: str
    gelu: Literal["tanh", "none"]
    pipeline: str
    top1: float | None
    labels: str
    mislabelled: str | None
    source: str

    @property
    def preprocessing(self) -> Preprocessing:
        """The pipeline itself."""
        return PIPELINES[self.pipeline]

    def to_strings(self) -> dict[str, str]:
        """For the provenance of a file."""
        found = {
            "published_as": self.name,
            "trained_on": self.trained_on,
            "labels": self.labels,
            "source": self.source,
        }
        if self.top1 is not None:
            found["top1"] = f"{self.top1:g}% on ImageNet-1k"
        if self.mislabelled is not None:
            found["mislabelled"] = self.mislabelled
        return found


def _google(
    folder: str, variant: str, trained_on: str, *, classes: int = 1000, top1: float | None = None
) -> Published:
    size = variant.removeprefix("mixer_")
    file = f"Mixer-{size[0].upper()}_{size[1:]}"
    return Published(
        name=f"gs://mixer_models/{folder}/{file}.npz",
        # Every folder has files of the same name, so only a name with the folder is one of them.
        files=(f"{folder}_{file}", f"mlp_{variant}_{_KECAM[folder]}"),
        variant=variant,
        classes=classes,
        trained_on=trained_on,
        gelu="tanh",
        pipeline="big_vision",
        top1=top1,
        labels=_LABELS[classes],
        mislabelled=None,
        source=_GOOGLE,
    )


def _timm(
    variant: str,
    tag: str,
    trained_on: str,
    pipeline: str,
    *,
    classes: int = 1000,
    gelu: Literal["tanh", "none"] = "none",
    top1: float | None = None,
    files: tuple[str, ...] = (),
    mislabelled: str | None = None,
    source: str = _TIMM,
) -> Published:
    architecture = {"resmlp_b24": "resmlp_big_24"}.get(variant, variant) + "_224"
    return Published(
        name=f"{architecture}.{tag}",
        files=(f"{architecture}.{tag}", *files),
        variant=variant,
        classes=classes,
        trained_on=trained_on,
        gelu=gelu,
        pipeline=pipeline,
        top1=top1,
        labels=_LABELS[classes],
        mislabelled=mislabelled,
        source=source,
    )


_LABELS = {
    1000: "ImageNet-1k in the order of its synsets",
    21843: "ImageNet-21k, all 21843 synsets, in Google's order",
    11221: "ImageNet-21k-P, 11221 synsets, in MIIL's order",
}
_KECAM = {
    "imagenet1k": "imagenet",
    "imagenet21k": "imagenet21k",
    "sam": "imagenet_sam",
    "gsam": "imagenet_gsam",
}
_1K, _21K = "ImageNet-1k from scratch", "ImageNet-21k"
_SAM, _GSAM = f"{_1K}, with SAM", f"{_1K}, with GSAM"
_FROM_SCRATCH = (
    "the tag says fine-tuned from ImageNet-21k; they are the weights trained on ImageNet-1k from "
    "scratch, and no fine-tuned ones were published"
)

PUBLISHED: tuple[Published, ...] = (
    _google("imagenet1k", "mixer_b16", _1K, top1=76.44),
    _google("imagenet1k", "mixer_l16", _1K, top1=71.76),
    _google("imagenet21k", "mixer_b16", _21K, classes=21843),
    _google("imagenet21k", "mixer_l16", _21K, classes=21843),
    _google("sam", "mixer_b16", _SAM, top1=77.4),
    _google("sam", "mixer_b32", _SAM),
    _google("gsam", "mixer_s32", _GSAM),
    _google("gsam", "mixer_s16", _GSAM),
    _google("gsam", "mixer_b32", _GSAM),
    _google("gsam", "mixer_b16", _GSAM),
    _timm(
        "mixer_b16",
        "goog_in21k_ft_in1k",
        _1K,
        "timm_inception",
        gelu="tanh",
        top1=76.616,
        files=("jx_mixer_b16_224-76587d61",),
        mislabelled=_FROM_SCRATCH,
        source=f"{_AUTHOR}; {_TIMM}",
    ),
    _timm(
        "mixer_l16",
        "goog_in21k_ft_in1k",
        _1K,
        "timm_inception",
        gelu="tanh",
        top1=72.084,
        files=("jx_mixer_l16_224-92f9adc4",),
        mislabelled=_FROM_SCRATCH,
        source=f"{_AUTHOR}; {_TIMM}",
    ),
    _timm(
        "mixer_b16",
        "goog_in21k",
        _21K,
        "timm_inception",
        gelu="tanh",
        classes=21843,
        files=("jx_mixer_b16_224_in21k-617b3de2",),
    ),
    _timm(
        "mixer_l16",
        "goog_in21k",
        _21K,
        "timm_inception",
        gelu="tanh",
        classes=21843,
        files=("jx_mixer_l16_224_in21k-846aa33c",),
    ),
    _timm("mixer_b16", "miil_in21k", "ImageNet-21k-P", "timm_miil", classes=11221),
    _timm(
        "mixer_b16",
        "miil_in21k_ft_in1k",
        "ImageNet-21k-P, then ImageNet-1k",
        "timm_miil",
        top1=82.314,
    ),
    _timm("gmixer_24", "ra3_in1k", _1K, "timm_imagenet"),
    _timm("gmlp_s16", "ra3_in1k", _1K, "timm_inception"),
    *(
        _timm(variant, tag, trained_on, "deit_resmlp", files=(f"{file}_{end}",), source=_DEIT)
        for tag, trained_on, end in (
            ("fb_in1k", _1K, "no_dist"),
            ("fb_distilled_in1k", "ImageNet-1k, distilled from a RegNetY-16GF", "dist"),
        )
        for variant, file in (
            ("resmlp_12", "resmlp_12"),
            ("resmlp_24", "resmlp_24"),
            ("resmlp_36", "resmlp_36"),
            ("resmlp_b24", "resmlpB_24"),
        )
    ),
    _timm(
        "resmlp_b24",
        "fb_in22k_ft_in1k",
        "ImageNet-22k, then ImageNet-1k",
        "deit_resmlp",
        files=("resmlpB_24_22k",),
        source=_DEIT,
    ),
)
"""Every published checkpoint of the family whose origin is known."""


def find_published(path: Path, config: Mapping[str, Any]) -> Published | None:
    """The published checkpoint that a file's name or its configuration says it is."""
    settings = config.get("pretrained_cfg")
    tag = settings.get("tag") if isinstance(settings, Mapping) else None
    names = {re.sub(r"\.(safetensors|npz|pth|pt|bin|h5|msgpack)$", "", path.name)}
    names.add(f"{path.resolve().parent.name}_{path.stem}")  # the folder in Google's bucket
    if tag:
        names.add(f"{config.get('architecture')}.{tag}")
    return next((p for p in PUBLISHED if names & {p.name, *p.files}), None)
