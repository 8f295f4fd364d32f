"""What the share of a run (MFU) is counted from: the chip's figures, or a measurement."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import pytest

from mixer_jax.training import speed
from mixer_spec.hardware import HARDWARE
from mixer_spec.recipe import changed
from mixer_spec.recipes import recipe

HALF = changed(recipe("digits"), {"compute": "bfloat16"})


def basis(kind: str, monkeypatch: pytest.MonkeyPatch) -> tuple[float, str]:
    """Of a device that JAX calls ``kind``; a measurement gives 1 FLOP a second."""
    device = SimpleNamespace(device_kind=kind, platform="gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(speed, "_measured", lambda dtype: 1.0)
    return speed.peak_flops(HALF)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v6e", "v6e"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
    ],
)
def test_known_chip_has_its_makers_figure(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak, said = basis(kind, monkeypatch)
    assert peak == HARDWARE[name].teraflops * 1e12
    assert f"of {name}, as its maker says" in said


@pytest.mark.parametrize("kind", ["NVIDIA H100 PCIe", "TPU v4", "cpu"])
def test_chip_that_is_not_in_the_table_is_measured(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak, said = basis(kind, monkeypatch)
    assert peak == 1.0
    assert "measured" in said


def test_measurement_is_of_this_machine() -> None:
    peak, _ = speed.peak_flops(recipe("digits"))
    assert 1e8 < peak < 1e15
