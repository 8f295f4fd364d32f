"""The catalogue of broken rules: weights that come back changed, input accepted, hostile models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mixer_conformance.measure import Array
from mixer_conformance.precision import to_bfloat16
from mixer_spec import ModelSpec

from . import hostile
from .changes import swapped
from .mutant import Known, Mutant, Weights

_TOKENS1, _CHANNELS1 = "blocks.1.token_mixing", "blocks.1.channel_mixing"


def without(name: str) -> Callable[[Weights], Weights]:
    """All but one."""
    return lambda values: {n: array for n, array in values.items() if n != name}


def replaced(name: str, change: Callable[[Array], Any]) -> Callable[[Weights], Weights]:
    """One of them changed, where it is there."""
    return lambda values: values | ({name: change(values[name])} if name in values else {})


def _all(change: Callable[[Array], Array]) -> Callable[[Weights], Weights]:
    return lambda weights: {name: change(array) for name, array in weights.items()}


def _square_transposed(weights: Weights) -> Weights:
    """Every square kernel, transposed."""
    square = {n: w.T for n, w in weights.items() if w.ndim == 2 and w.shape[0] == w.shape[1]}
    return weights | square


def _export(
    name: str,
    change: Callable[[Weights], Weights],
    culprit: str | None,
    model: str = "mixer",
    killer: str = "F21",
) -> Known:
    return Known(
        name=name, backend=Mutant(exported=change), model=model, stage=culprit, killer=killer
    )


EXPORTS = (
    _export("a weight not exported", without("head.bias"), "head.bias", killer="F27"),
    _export(
        "a weight exported that never was",
        lambda weights: weights | {"head.gain": weights["head.bias"]},
        "head.gain",
    ),
    _export(
        "an exported weight off by one bit",
        replaced("stem.kernel", lambda k: np.nextafter(k, k.dtype.type(9))),
        "stem.kernel",
    ),
    _export(
        "exported in float64",
        replaced("head.kernel", lambda k: k.astype(np.float64)),
        "head.kernel",
    ),
    _export(
        "exported through float16",
        _all(lambda w: w.astype(np.float16).astype(w.dtype)),
        "stem.kernel",
    ),
    _export(
        "exported through bfloat16",
        _all(lambda w: to_bfloat16(w.astype(np.float32)).astype(w.dtype)),
        "stem.kernel",
    ),
    _export("minus zero lost", _all(lambda w: w + w.dtype.type(0)), "stem.kernel"),
    _export(
        "subnormal numbers lost",
        _all(lambda w: np.where(np.abs(w) < 1e-38, w.dtype.type(0) * w, w)),
        "stem.kernel",
    ),
    _export(
        "norms' names swapped in the export",
        swapped(f"{_TOKENS1}.norm.", f"{_CHANNELS1}.norm."),
        f"{_TOKENS1}.norm.scale",
    ),
    _export("square kernels exported transposed", _square_transposed, None, "vit"),
)


def _resized(images: Array, spec: ModelSpec) -> Array:
    """Whatever comes, cut and filled with zeros to the size that fits."""
    fitting = np.zeros((max(1, len(images)), *spec.input.shape), np.float32)
    if images.ndim != fitting.ndim:
        return fitting
    common = tuple(slice(0, min(a, b)) for a, b in zip(images.shape, fitting.shape, strict=True))
    fitting[common] = images[common]
    return fitting


class Lenient:
    """The reference, that takes some of what it should refuse.

    Args:
        inputs: whether inputs of any shape and dtype are made to fit.
        weights: whether weights of any names and shapes are made to fit.
        taps: whether unknown taps are left out.
        silent: whether the message of a refusal says nothing.
    """

    def __init__(
        self,
        *,
        inputs: bool = False,
        weights: bool = False,
        taps: bool = False,
        silent: bool = False,
    ) -> None:
        self._inputs, self._weights, self._taps, self._silent = inputs, weights, taps, silent
        self._strict = hostile.Honest()

    def info(self) -> Any:
        """See :meth:`mixer_spec.backend.Backend.info`."""
        return self._strict.info()

    def load(self, spec: ModelSpec, weights: Mapping[str, Array], *, profile: str) -> Any:
        """See :meth:`mixer_spec.backend.Backend.load`."""
        if self._weights:
            weights = {
                name: np.resize(weights.get(name, np.zeros(1)), parameter.shape).astype(np.float32)
                for name, parameter in spec.parameters().items()
            }
        try:
            model = self._strict.load(spec, weights, profile=profile)
        except Exception:
            if self._silent:
                raise ValueError("bad weights") from None
            raise
        return _LenientModel(self, spec, model)

    def fit(self, spec: ModelSpec, inputs: Array, taps: Sequence[str]) -> tuple[Array, Any]:
        """Inputs and taps as far as they are taken."""
        if self._inputs:
            inputs = _resized(inputs, spec)
        if self._taps:
            taps = [tap for tap in taps if tap in spec.taps]
        return inputs, taps


class _LenientModel:
    def __init__(self, backend: Lenient, spec: ModelSpec, model: Any) -> None:
        self._backend, self._spec, self._model = backend, spec, model

    def forward(self, inputs: Array, taps: Sequence[str] = ()) -> Any:
        return self._model.forward(*self._backend.fit(self._spec, inputs, taps))

    def export_weights(self) -> Any:
        return self._model.export_weights()


def _lenient(name: str, backend: Any, culprit: str) -> Known:
    return Known(name=name, backend=backend, model="mixer", stage=culprit, killer="F25")


REFUSALS = (
    _lenient("inputs of any size taken", Lenient(inputs=True), "an empty batch"),
    _lenient("weights of any shape taken", Lenient(weights=True), "a missing weight"),
    _lenient("unknown taps left out", Lenient(taps=True), "an unknown tap"),
    _lenient("a refusal that says nothing", Lenient(silent=True), "a missing weight"),
    _lenient("nothing is checked", Mutant(refuses=False), "an empty batch"),
)


def _hostile(
    name: str,
    backend: Any,
    killer: str,
    culprit: str | None = None,
    model: str = "mixer",
    limit: float = 20.0,
) -> Known:
    return Known(name=name, backend=backend, model=model, stage=culprit, killer=killer, limit=limit)


STATE = (
    _hostile("weights of the first load for ever", hostile.FirstWeightsForEver(), "F23"),
    _hostile("programs cached by shape", hostile.ProgramsByShape(), "F23"),
    _hostile("one model for all", hostile.OneModelForAll(), "F23"),
    _hostile("batch size of the first call", hostile.DropsTheBatchsEnd(), "F11", "logits"),
    _hostile("inputs remembered", hostile.RemembersInputs(), "F24"),
    _hostile("weights drift when run", hostile.Drifts(), "F24"),
    _hostile("a scratch buffer for all threads", hostile.SharesScratch(), "F23", "threads"),
    _hostile("writes into its input", hostile.WritesInput(), "F01", "inputs"),
    _hostile("one buffer for all results", hostile.ReusesItsBuffer(), "F12", "logits"),
    _hostile("strides ignored", hostile.IgnoresStrides(), "F12", "inputs"),
    _hostile("byte order ignored", hostile.IgnoresByteOrder(), "F12", "inputs"),
    _hostile("its input given back", hostile.ReturnsItsInput(), "F01", "stem"),
    _hostile("writes into the caller's weights", hostile.KeepsCallersWeights(), "F23", "weights"),
    _hostile("dropout when run", hostile.DropsInputs(), "F24"),
    _hostile("a random last bit", hostile.RandomLastBit(), "F24", "logits"),
)

PROTOCOL = (
    _hostile("hangs", hostile.Hangs(), "F01", limit=0.5),
    _hostile("calls exit", hostile.Exits(), "F01"),
    _hostile("raises", hostile.Raises(), "F01"),
    _hostile("raises for five inputs", hostile.RaisesOnFive(), "F11"),
    _hostile("load returns nothing", hostile.ReturnsNothing(), "F01"),
    *(
        _hostile(name, Mutant(taps=change), "F01", culprit)
        for name, change, culprit in (
            ("a tap missing", without("pooled"), "pooled"),
            ("no logits", without("logits"), "logits"),
            ("a tap of another shape", replaced("norm", lambda y: y.mean(axis=1)), "norm"),
            ("a tap of one sample", replaced("stem", lambda y: y[:1]), "stem"),
            ("logits in float64", replaced("logits", lambda y: y.astype(np.float64)), "logits"),
            ("logits in float16", replaced("logits", lambda y: y.astype(np.float16)), "logits"),
            ("logits as a list", replaced("logits", lambda y: y.tolist()), "logits"),
        )
    ),
)

RULES: tuple[Known, ...] = (*EXPORTS, *REFUSALS, *STATE, *PROTOCOL)
"""Every broken rule."""
