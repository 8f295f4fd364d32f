"""Fingerprints: what a backend's arithmetic really is, layer by layer, from telling numbers.

A number ``16 (1 + 2^-k)`` is sent through each matrix product with a weight of one: the largest
``k`` that arrives says how many bits of an operand the product sees. A norm of scale zero puts
the numbers there exactly, and GELU leaves those above 16 as they are. One number of a few small
sizes each tells GELU's form, epsilon, the accumulator, and what becomes of subnormal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixer_spec import ModelSpec
from mixer_spec.layers import LayerNorm
from mixer_spec.shapes import Image

from .measure import Array
from .subject import Subject

_LARGE = 16.0
_XS = (-2.7, -1.0, -0.6, 0.7, 2.7, 4.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """What was seen.

    Args:
        bits: of an operand in each product (``stem``, ``token_mixing``, ...); 24 is float32.
        gelu: ``tanh``, ``erf`` and the like, several where the bits do not tell them apart.
        epsilon: of the last norm; ``None`` where the taps were not shown.
        flushes: whether subnormal inputs become zero.
        float16_sums: whether 4096 + 1 was lost, as in a float16 accumulator.
    """

    bits: Mapping[str, int]
    gelu: str | None
    epsilon: float | None
    flushes: bool | None
    float16_sums: bool | None

    def to_data(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "bits": dict(self.bits),
            "gelu": self.gelu,
            "epsilon": self.epsilon,
            "flushes_subnormals": self.flushes,
            "float16_sums": self.float16_sums,
        }


def name_of_bits(bits: int) -> str:
    """What arithmetic has so many bits in its operands.

    Example:
        >>> name_of_bits(24), name_of_bits(11), name_of_bits(8)
        ('float32', 'TF32 or float16', 'bfloat16')
    """
    names = {53: "float64", 24: "float32", 11: "TF32 or float16", 8: "bfloat16"}
    return names.get(bits, f"{bits} bits")


def fingerprint(subject: Subject, spec: ModelSpec) -> Fingerprint:
    """Classify a backend's arithmetic.

    Args:
        subject: the backend.
        spec: the zoo's probe: a Mixer with as many channels as classes.

    Raises:
        Violation: if the backend raises, hangs or breaks the protocol.
    """
    prober = _Prober(subject, spec)
    if not subject.sees_taps:
        return Fingerprint(
            bits={"head": prober.head()}, gelu=None, epsilon=None, flushes=None, float16_sums=None
        )
    stem, flushes, float16_sums = prober.stem()
    return Fingerprint(
        bits={
            "stem": stem,
            "token_mixing": prober.tokens(),
            "channel_mixing": prober.channels(),
            "head": prober.head(),
        },
        gelu=prober.gelu(),
        epsilon=prober.epsilon(),
        flushes=flushes,
        float16_sums=float16_sums,
    )


@dataclass(frozen=True, slots=True)
class _Prober:
    subject: Subject
    spec: ModelSpec

    def head(self) -> int:
        """Of one token: the mean of several would round the numbers."""
        height, width, rgb, _ = self.spec.parameters()["stem.kernel"].shape
        one = Image(height=height, width=width, channels=rgb)
        prober = replace(self, spec=replace(self.spec, input=one, stages=()))
        weights, numbers = prober._quiet(), self._numbers()
        weights["norm.bias"] = numbers
        np.fill_diagonal(weights["head.kernel"], 1.0)
        return _bits(prober._run(weights, "logits")[0], numbers)

    def tokens(self) -> int:
        weights, numbers = self._quiet(), self._numbers()
        weights["blocks.0.token_mixing.norm.bias"] = numbers
        weights["blocks.0.token_mixing.dense_0.kernel"][0, 0] = 1.0
        weights["blocks.0.token_mixing.dense_1.kernel"][0, 0] = 1.0
        return _bits(self._run(weights, "blocks.0.token_mixing")[0, 0], numbers)

    def channels(self) -> int:
        weights, numbers = self._quiet(), self._numbers()
        self._through_the_channels(weights, numbers)
        return _bits(self._run(weights, "blocks.0.channel_mixing")[0, 0], numbers)

    def gelu(self) -> str:
        weights = self._quiet()
        xs = np.resize(np.array(_XS), len(weights["norm.bias"])).astype(
            self.subject.precision.dtype
        )
        self._through_the_channels(weights, xs)
        found = self._run(weights, "blocks.0.channel_mixing")[0, 0][: len(_XS)]
        # erf and tanh differ by 4.7e-4, which a product of 11 bits or fewer does not show.
        allowed = max(2e-4, 4 * 2.0 ** -self.channels())
        forms = {form: np.array([gelu(x) for x in _XS]) for form, gelu in _FORMS.items()}
        fitting = [form for form, y in forms.items() if np.abs(found - y).max() < allowed]
        return " or ".join(fitting) or "none of these"

    def epsilon(self) -> float | None:
        """From the size of what a norm makes of +-2^-10: ``a / sqrt(a^2 + epsilon)``."""
        if not any(isinstance(node.layer, LayerNorm) for node in self.spec.steps[-3].nodes):
            return None
        weights = self._quiet()
        size = 2.0**-10
        weights["norm.scale"][:] = 1.0
        weights["stem.bias"][:] = np.where(np.arange(len(weights["stem.bias"])) % 2, size, -size)
        normed = float(np.abs(self._run(weights, "norm")[0, 0]).mean())
        return size**2 * (1 / normed**2 - 1) if normed else math.inf

    def stem(self) -> tuple[int, bool, bool]:
        weights, dtype = self._quiet(), self.subject.precision.dtype
        weights["stem.kernel"][0, 0, 0] = 1.0
        weights["stem.kernel"][0, 1, 0] = 1.0
        numbers = self._numbers() / dtype(_LARGE)
        images = np.zeros((len(numbers) + 2, *self.spec.input.shape), dtype)
        images[: len(numbers), 0, 0, 0] = numbers
        images[-2, 0, 0, 0], images[-2, 0, 1, 0] = 4096.0, 1.0
        images[-1, 0, 0, 0] = 2.0**-130
        found = self._run(weights, "stem", images)[:, 0, 0]
        bits = _bits(found[: len(numbers)], numbers)
        return bits, bool(found[-1] == 0), bool(found[-2] != 4097)

    # --- weights ---------------------------------------------------------------------------

    def _quiet(self) -> dict[str, Array]:
        """All zero, norms too: nothing but a norm's bias passes."""
        dtype = self.subject.precision.dtype
        return {n: np.zeros(p.shape, dtype) for n, p in self.spec.parameters().items()}

    def _through_the_channels(self, weights: dict[str, Array], numbers: Array) -> None:
        weights["blocks.0.channel_mixing.norm.bias"] = numbers
        for dense in ("dense_0", "dense_1"):
            np.fill_diagonal(weights[f"blocks.0.channel_mixing.{dense}.kernel"], 1.0)

    def _numbers(self) -> Array:
        """``16 (1 + 2^-k)`` for k from 1 on, and 16 where more channels are than bits."""
        dtype = self.subject.precision.dtype
        count = self.spec.classes
        bits = np.finfo(dtype).nmant
        ks = np.arange(1, count + 1) + max(0, bits - count)
        fractions = np.where(ks <= bits, 2.0 ** -ks.astype(np.float64), 0.0)
        return (_LARGE * (1.0 + fractions)).astype(dtype)

    def _run(self, weights: dict[str, Array], tap: str, images: Array | None = None) -> Array:
        """The tap; always with as many images and the same taps, so that an engine compiles once."""
        dtype = self.subject.precision.dtype
        given = np.zeros((self.spec.classes + 2, *self.spec.input.shape), dtype)
        if images is not None:
            given[: len(images)] = images
        found = self.subject.load(self.spec, weights).forward(given)
        return found[tap] if images is None else found[tap][: len(images)]


def _bits(found: Array, sent: Array) -> int:
    """One more than the largest ``k`` up to which every number arrived as it was sent."""
    fractions = np.frexp(sent.astype(np.float64))[0] * 2 - 1
    ks = np.round(-np.log2(fractions, where=fractions > 0, out=np.zeros_like(fractions)))
    lost = ks[(found != sent) & (ks > 0)]
    return int(lost.min()) if lost.size else int(ks.max()) + 1


_FORMS: dict[str, Callable[[float], float]] = {
    "tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "erf": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "quick": lambda x: x / (1 + math.exp(-1.702 * x)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "relu": lambda x: max(x, 0.0),
    "identity": lambda x: x,
}
