"""F25: input that breaks the contract is refused, with a message that names what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from mixer_conformance.findings import Finding, of_rule
from mixer_conformance.measure import Array
from mixer_conformance.subject import Violation
from mixer_spec.shapes import TokenIds
from mixer_spec.weights import Weights

from .base import EVERY, Case, Trial, on_families

_HONEST = (ValueError, TypeError, LookupError)
"""What a refusal may be; mixer_spec's own errors are among them."""


def _refused(what: str, call: Callable[[], object], names: str) -> Finding:
    """``call`` must raise an error of the caller's, whose message has ``names`` in it."""
    try:
        call()
    except Violation as violation:
        error = violation.__cause__
        if not isinstance(error, _HONEST):
            return of_rule(False, f"{what}: {violation}", what)
        return of_rule(
            names in str(error), f"{what}: the message must name {names!r}, got {error}", what
        )
    return of_rule(False, f"{what} was accepted in silence; expected an error", what)


def _wrong_inputs(trial: Trial) -> Iterator[tuple[str, Array, str]]:
    inputs = trial.standard.inputs
    yield "an empty batch", inputs[:0], "batch"
    yield "a rank too few", inputs[0], str(inputs.shape[1])
    yield "a rank too many", inputs[None], str(inputs.shape[1])
    larger = np.concatenate([inputs, inputs], axis=1)
    yield "an input twice as large", larger, str(larger.shape[1])
    smaller = np.ascontiguousarray(inputs[:, :-1])
    yield "an input without its last row", smaller, str(smaller.shape[1])
    if isinstance(trial.spec.input, TokenIds):
        yield "ids in float32", inputs.astype(np.float32), "float32"
        yield "an id outside of the vocabulary", inputs + 1000, "vocabulary"
        yield "a negative id", inputs - 1000, "vocabulary"
    else:
        yield "inputs in uint8", inputs.astype(np.uint8), "uint8"
        yield "one channel less", inputs[..., :-1].copy(), str(inputs.shape[-1] - 1)
    if inputs.ndim == 4:
        first = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
        yield "channels first", first, str(list(first.shape))


def _wrong_weights(weights: Weights) -> Iterator[tuple[str, Weights, str]]:
    name = "head.kernel"
    others = {n: array for n, array in weights.items() if n != name}
    yield "a missing weight", others, name
    yield "a weight too many", {**weights, "head.gain": weights["head.bias"]}, "head.gain"
    yield "a transposed weight", {**others, name: weights[name].T.copy()}, name
    yield "a weight of one value", {**others, name: weights[name][:1, :1].copy()}, name
    yield "a weight in int32", {**others, name: weights[name].astype(np.int32)}, name
    yield "a weight under another name", {**others, "head.weight": weights[name]}, "head.weight"


def _check(trial: Trial) -> Iterator[Finding]:
    model = trial.loaded.model
    for what, inputs, names in _wrong_inputs(trial):
        yield _refused(
            what,
            lambda inputs=inputs: trial.subject.call(  # type: ignore[misc]
                "forward", lambda: model.forward(inputs, ())
            ),
            names,
        )
    yield _refused(
        "an unknown tap",
        lambda: trial.subject.call(
            "forward", lambda: model.forward(trial.standard.inputs, ("blocks.99.mixing",))
        ),
        "blocks.99.mixing",
    )
    for what, weights, names in _wrong_weights(trial.standard.weights):
        yield _refused(what, lambda weights=weights: trial.load(weights), names)  # type: ignore[misc]
    yield _refused(
        "an unknown profile",
        lambda: trial.subject.call(
            "load",
            lambda: trial.subject.backend.load(
                trial.spec,
                trial.standard.weights,
                profile="f31-lenient",  # type: ignore[arg-type]
            ),
        ),
        "f31-lenient",
    )
    found = trial.loaded.forward(trial.standard.inputs)["logits"]
    yield of_rule(
        bool(np.isfinite(found).all()), "a model works on after it has refused an input", "logits"
    )


F25 = Case(
    id="F25",
    title="Inputs, taps, weights and profiles that do not fit are refused, and named",
    catches="a wrong shape broadcast in silence, half of the weights loaded, a message of no use",
    level=0,
    suits=on_families,
    check=_check,
    profiles=EVERY,
    quick=("mixer", "words"),
    in_process="a refusal is an error that is raised",
)
