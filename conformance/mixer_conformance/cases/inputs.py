"""F10 to F12: what a batch is made of: poisoned samples, other batch sizes, other memory layouts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mixer_conformance.findings import Finding, of_bits, of_rule
from mixer_conformance.measure import Array, deviation
from mixer_conformance.problem import Problem
from mixer_conformance.tolerance import Judgement
from mixer_conformance.weights import conformance_inputs

from .base import EVERY, Case, Trial, on_families, on_small, takes_numbers

# --- F10 ---------------------------------------------------------------------------------------


def _poisons(trial: Trial) -> Iterator[Finding]:
    clean = trial.loaded.forward(trial.standard.inputs)
    for value in (np.nan, np.inf):

        def poison(problem: Problem, value: float = value) -> Problem:
            inputs = problem.inputs.copy()
            inputs[1].flat[inputs[1].size // 2] = value
            return problem.changed(inputs=inputs)

        problem = trial.problem(f"poisoned by {value}", poison)
        found = trial.loaded.forward(problem.inputs)
        for tap, table in found.items():
            finite = np.isfinite(problem.oracle[tap])
            yield of_bits(
                np.isfinite(table[1]).astype(np.int8),
                finite[1].astype(np.int8),
                f"{tap}: finite values (1) of the sample with a {value}",
                tap,
            )
            for sample in (0, 2):
                yield of_bits(
                    table[sample],
                    clean[tap][sample],
                    f"{tap}: sample {sample} beside one with a {value}",
                    tap,
                )


F10 = Case(
    id="F10",
    title="One NaN or infinity in one sample: it reaches all that it must, and nothing else",
    catches="samples that leak into each other, NaN swallowed by a clamp or a fast maximum",
    level=1,
    suits=lambda model, spec: model.group in ("Z1", "Z2") and takes_numbers(spec),
    check=_poisons,
    profiles=("f64", "f32-strict", "f32-tf32", "f32-bf16mm", "bf16"),
    quick=("mixer", "vit"),
)


# --- F11 ---------------------------------------------------------------------------------------

_BATCHES = (1, 2, 5, 8, 17)


def _batches(trial: Trial) -> Iterator[Finding]:
    def many(problem: Problem) -> Problem:
        inputs = conformance_inputs(problem.spec, max(_BATCHES), trial.seed)
        return problem.changed(inputs=inputs.astype(problem.inputs.dtype))

    problem = trial.problem("17 inputs", many)
    allowed = problem.standards[-1].end_to_end
    # An engine that compiles needs a second for each size and model.
    few = _BATCHES if trial.effort != "quick" and trial.model.name == "mixer" else (5,)
    # Three inputs first: a batch size that is built in then shows in the larger ones.
    orders = {"a batch in another order": [2, 0, 1], "a batch with a duplicate": [1, 0, 1]}
    orders |= {f"a batch of {size}": list(range(size)) for size in few}
    for what, order in orders.items():
        # Three with every tap are compiled already.
        taps = None if len(order) == len(trial.standard.inputs) else ()
        found = trial.loaded.forward(problem.inputs[order], taps)["logits"]
        judged = Judgement(deviation(found, problem.oracle["logits"][order]), allowed)
        yield Finding(judged.margin, f"{what}: {judged.margin:.2g} of the tolerance", "logits")


F11 = Case(
    id="F11",
    title="Batches of 1 to 17, in another order, with duplicates: each input has its own result",
    catches="only the first input computed, a batch size fixed at export, padding that counts",
    level=1,
    suits=on_families,
    check=_batches,
    quick=("mixer",),
)


# --- F12 ---------------------------------------------------------------------------------------


def _layouts(inputs: Array) -> Iterator[tuple[str, Array]]:
    """The same values in other places of memory."""
    wide = np.zeros((*inputs.shape[:-1], 2 * inputs.shape[-1]), inputs.dtype)
    wide[..., ::2] = inputs
    yield "every second value of a wider array", wide[..., ::2]
    yield "negative strides", np.ascontiguousarray(inputs[:, ::-1])[:, ::-1]
    yield "Fortran order", np.asfortranarray(inputs)
    if inputs.ndim == 4:
        first = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
        yield "a view of channels first", first.transpose(0, 2, 3, 1)
    raw = np.zeros(inputs.nbytes + 1, np.uint8)
    raw[1:] = np.ascontiguousarray(inputs).reshape(-1).view(np.uint8)
    yield "an odd address", raw[1:].view(inputs.dtype).reshape(inputs.shape)
    frozen = inputs.copy()
    frozen.flags.writeable = False
    yield "read-only memory", frozen
    yield "big-endian bytes", inputs.astype(inputs.dtype.newbyteorder(">"))


def _check_layouts(trial: Trial) -> Iterator[Finding]:
    inputs = trial.standard.inputs
    expected = trial.loaded.logits(inputs)
    kept = expected.copy()
    for what, array in _layouts(inputs):
        yield of_bits(trial.loaded.logits(array), kept, f"an input with {what}", "inputs")
    again = trial.loaded.logits(inputs[::-1].copy())
    yield of_rule(
        not np.may_share_memory(again, expected) and np.array_equal(expected, kept),
        "a result must not change when forward is called again",
        "logits",
    )


F12 = Case(
    id="F12",
    title="Inputs of any memory layout, which stay as they are; results that stay too",
    catches="strides ignored, an input normalised in place, an output buffer used twice",
    level=1,
    suits=lambda model, spec: on_small(model, spec) and model.name in ("mixer", "words", "signal"),
    check=_check_layouts,
    profiles=EVERY,
    quick=("mixer",),
    in_process="a file has one memory layout, and nothing writes into it",
)
