"""The official evaluation pipelines: one literal table of name and preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from mixer_spec.errors import UnknownNameError

from .data import FloatResample, PillowResample, Preprocessing, ResizeAndCrop, Rgb, Squash

_HALF = (0.5, 0.5, 0.5)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TIMM = (
    "huggingface/pytorch-image-models: timm/models/mlp_mixer.py, timm/data/transforms_factory.py"
)


def _torchvision(
    filter: Literal["bilinear", "bicubic"], crop_fraction: float, mean: Rgb, std: Rgb, source: str
) -> Preprocessing:
    """Resize and CenterCrop of torchvision on Pillow images, as timm and deit compose them."""
    return Preprocessing(
        orientation="stored",
        geometry=ResizeAndCrop(
            crop_fraction=crop_fraction,
            long_side="floor",
            offset="half_even",
            resample=PillowResample(filter=filter),
        ),
        mean=mean,
        std=std,
        source=source,
    )


PIPELINES: Mapping[str, Preprocessing] = MappingProxyType(
    {
        "big_vision": Preprocessing(
            orientation="stored",
            # resize_small(256) and central_crop(224): the same fraction at any other size
            geometry=ResizeAndCrop(
                crop_fraction=0.875,
                long_side="half_even",
                offset="floor",
                resample=FloatResample(filter="area", antialias="off", values="truncated"),
            ),
            mean=_HALF,
            std=_HALF,
            source="google-research/big_vision: configs/mlp_mixer_i1k.py, pp/ops_image.py",
        ),
        "vit_jax": Preprocessing(
            orientation="stored",
            geometry=Squash(
                resample=FloatResample(filter="bilinear", antialias="off", values="kept")
            ),
            mean=_HALF,
            std=_HALF,
            source="google-research/vision_transformer: vit_jax/input_pipeline.py",
        ),
        "timm_inception": _torchvision("bicubic", 0.875, _HALF, _HALF, _TIMM),
        "timm_imagenet": _torchvision("bicubic", 0.875, _IMAGENET_MEAN, _IMAGENET_STD, _TIMM),
        "timm_miil": _torchvision("bilinear", 0.875, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), _TIMM),
        "deit_resmlp": _torchvision(
            "bicubic",
            0.9,
            _IMAGENET_MEAN,
            _IMAGENET_STD,
            "facebookresearch/deit: datasets.py, README_resmlp.md (eval-crop-ratio 0.9)",
        ),
    }
)
"""The pipelines that published weights were evaluated with, by name; each works at any size."""


def pipeline(name: str) -> Preprocessing:
    """The official pipeline called ``name``.

    Raises:
        UnknownNameError: if there is none; the message lists the nearest names.

    Example:
        >>> pipeline("timm_miil").mean
        (0.0, 0.0, 0.0)
    """
    if name not in PIPELINES:
        raise UnknownNameError.of("preprocessing", name, PIPELINES)
    return PIPELINES[name]
