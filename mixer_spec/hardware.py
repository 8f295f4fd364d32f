"""Accelerators as their makers describe them: one literal table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .errors import UnknownNameError

_TPU = "docs.cloud.google.com/tpu/docs/{}, system architecture"
_NVIDIA = "NVIDIA {} data sheet, SXM"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """One kind of chip; what ``B`` is are bytes, and a giga is 10^9.

    Args:
        teraflops: dense bfloat16, 10^12 floating-point operations a second.
        memory: GB of a chip.
        bandwidth: GB a second between a chip and its memory.
        links: GB a second of all links of a chip to others, both directions together.
        chips_per_host: that share one machine, whose processor prepares their input.
        most: chips that one job can have on these links.
        source: where the figures are from.
    """

    teraflops: float
    memory: float
    bandwidth: float
    links: float
    chips_per_host: int
    most: int
    source: str


HARDWARE: Mapping[str, Hardware] = MappingProxyType(
    {
        "v5e": Hardware(
            teraflops=197,
            memory=16,
            bandwidth=819,
            links=400,
            chips_per_host=8,
            most=256,
            source=_TPU.format("v5e"),
        ),
        "v5p": Hardware(
            teraflops=459,
            memory=95,
            bandwidth=2765,
            links=1200,
            chips_per_host=4,
            most=6144,
            source=_TPU.format("v5p"),
        ),
        "v6e": Hardware(
            teraflops=918,
            memory=32,
            bandwidth=1638,
            links=800,
            chips_per_host=8,
            most=256,
            source=_TPU.format("v6e"),
        ),
        "a100": Hardware(
            teraflops=312,
            memory=80,
            bandwidth=2039,
            links=600,
            chips_per_host=8,
            most=8,
            source=_NVIDIA.format("A100 80GB"),
        ),
        "h100": Hardware(
            teraflops=989,
            memory=80,
            bandwidth=3350,
            links=900,
            chips_per_host=8,
            most=8,
            source=_NVIDIA.format("H100"),
        ),
        "h200": Hardware(
            teraflops=989,
            memory=141,
            bandwidth=4800,
            links=900,
            chips_per_host=8,
            most=8,
            source=_NVIDIA.format("H200"),
        ),
    }
)
"""By the name that people type, in small letters."""


def hardware(name: str) -> Hardware:
    """The chip called ``name``.

    Raises:
        UnknownNameError: if there is none; the message lists the nearest names.

    Example:
        >>> hardware("v5e").teraflops
        197
    """
    key = name.lower().removeprefix("tpu").strip(" -")
    if key not in HARDWARE:
        raise UnknownNameError.of("hardware", key, HARDWARE)
    return HARDWARE[key]
