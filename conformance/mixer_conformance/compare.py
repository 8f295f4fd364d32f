"""`compare`: whether two models are the same function, whatever their files look like."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mixer_spec import Backend, BackendInfo, ModelSpec
from mixer_spec.backend import check_profile, load_backend
from mixer_spec.reference import forward
from mixer_spec.weights import Weights, validate

from .measure import Array
from .report import BackendReport, Report
from .tolerance import default_batch
from .verify import Run, report_on, run_backend, same_bits
from .weights import conformance_inputs

_SHOWN = 8  # differences of the specs that are written out


class Loaded(Protocol):
    """A model: what it computes, and with which numbers."""

    @property
    def spec(self) -> ModelSpec:
        """The architecture."""
        ...

    @property
    def weights(self) -> Weights:
        """Canonical name to array."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The verdict on two models.

    Args:
        names: what they are called.
        spec_differences: where their specs differ, in words, at most a few.
        other_weights: names of the weights that are not the same bits, or that only one has.
        report: every run of either, judged by the first in float64; the second in float64 comes
            first. ``None`` where inputs or classes differ, so that nothing can be compared.
    """

    names: tuple[str, str]
    spec_differences: tuple[str, ...]
    other_weights: tuple[str, ...]
    report: Report | None

    @property
    def second(self) -> BackendReport | None:
        """The second model in float64, judged by the first."""
        return None if self.report is None else self.report.backends[0]

    @property
    def same(self) -> bool:
        """Whether every run of either kept every tolerance of the first."""
        return self.report is not None and self.report.conformant

    @property
    def crashed(self) -> bool:
        """Whether a backend raised an error."""
        return self.report is not None and any(b.crash for b in self.report.backends)

    @property
    def first_difference(self) -> str | None:
        """The first stage at which the second computes something else in float64."""
        return None if self.second is None else self.second.first_bad_stage

    @property
    def logits_apart(self) -> float | None:
        """How far the logits are apart in float64: root mean square, relative to the first's."""
        if self.second is None:
            return None
        judged = self.second.taps[-1].end_to_end
        return None if judged is None else judged.deviation.rms

    def to_data(self) -> dict[str, Any]:
        """The verdict as plain data, ready for JSON; an infinite number is ``null``."""
        apart = self.logits_apart
        return {
            "models": list(self.names),
            "same": self.same,
            "first_difference": self.first_difference,
            "logits_apart": apart if apart is not None and np.isfinite(apart) else None,
            "spec_differences": list(self.spec_differences),
            "other_weights": list(self.other_weights),
            "report": None if self.report is None else self.report.to_data(),
        }


def compare(
    first: Loaded,
    second: Loaded,
    backends: Sequence[str | Backend] = (),
    *,
    names: tuple[str, str] = ("first", "second"),
    seed: int = 0,
    batch: int | None = None,
    progress: Callable[[str], None] = lambda activity: None,
) -> Comparison:
    """Judge whether two models are the same function.

    The first in float64 is the oracle. The second in float64, and both in every backend in
    float32, are held against it with the tolerances of :func:`~mixer_conformance.verify`: tap by
    tap where both have the same taps, else at the logits. Weights need not be the same: two models
    with their hidden units in another order are one function.

    Args:
        first: a model, as :func:`mixer_spec.model_files.read_model` opens it.
        second: another.
        backends: registered names, ``package.module:Class``, or backends in hand; may be none.
        names: what to call the models.
        seed: of the conformance inputs.
        batch: number of inputs; by default two, or one for a huge model.
        progress: is told what is being done, in a few words.

    Raises:
        WeightsError: if weights do not fit their spec.
        UnknownNameError: if a backend does not exist or does not claim the profile f32-strict.
        MissingExtraError: if a backend's framework is not installed.
    """
    started = time.perf_counter()
    found = [load_backend(b) if isinstance(b, str) else b for b in backends]
    for backend in found:
        check_profile(backend.info(), "f32-strict")
    for model, name in zip((first, second), names, strict=True):
        validate(model.spec, model.weights, where=name)
    return Comparison(
        names=names,
        spec_differences=_few(spec_differences(first.spec, second.spec)),
        other_weights=tuple(_other_weights(first.weights, second.weights)),
        report=_report(first, second, found, names, seed, batch, started, progress),
    )


def spec_differences(first: ModelSpec, second: ModelSpec) -> Iterator[str]:
    """Where two specs differ: each field with its place, the first's value and the second's."""
    yield from _differences(first.to_data(), second.to_data(), "")


def _differences(one: Any, other: Any, where: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict) and one.get("kind") == other.get("kind"):
        for key in one:
            yield from _differences(one[key], other[key], f"{where}.{key}" if where else key)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, f"{where}[{number}]")
    elif one != other:
        yield f"{where}: {_short(one)} | {_short(other)}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return str(value["kind"])
    if isinstance(value, list):
        return f"{len(value)} of them"
    return str(value)


def _few(differences: Iterator[str]) -> tuple[str, ...]:
    shown = tuple(itertools.islice(differences, _SHOWN))
    more = sum(1 for _ in differences)
    return (*shown, f"and {more} more") if more else shown


def _other_weights(first: Weights, second: Weights) -> Iterator[str]:
    for name in dict.fromkeys([*first, *second]):
        if name not in first or name not in second or not same_bits(first[name], second[name]):
            yield name


def _report(
    first: Loaded,
    second: Loaded,
    backends: Sequence[Backend],
    names: tuple[str, str],
    seed: int,
    batch: int | None,
    started: float,
    progress: Callable[[str], None],
) -> Report | None:
    spec = first.spec
    if spec.input != second.spec.input or spec.classes != second.spec.classes:
        return None
    inputs = conformance_inputs(spec, default_batch(spec) if batch is None else batch, seed)
    progress(f"running {names[1]} in float64")
    runs = [_in_float64(second, inputs, names[1])]
    for backend in backends:
        for model, name in zip((first, second), names, strict=True):
            progress(f"running {name} in {backend.info().name}")
            run = run_backend(backend, model.spec, model.weights, inputs)
            runs.append(_renamed(run, f"{run.info.name}: {name}"))
            gc.collect()  # a framework's model holds its weights in cycles
    if _tables(spec) != _tables(second.spec):
        runs = [_logits_only(run) for run in runs]
    return report_on(
        *(spec, first.weights, inputs, runs),
        name=f"{names[0]} and {names[1]}",
        seed=None,
        started=started,
        progress=progress,
    )


def _tables(spec: ModelSpec) -> list[tuple[str, tuple[int, ...]]]:
    return [(step.tap, step.outgoing.shape) for step in spec.steps]


def _in_float64(model: Loaded, inputs: Array, name: str) -> Run:
    started = time.perf_counter()
    with np.errstate(all="ignore"):  # infinities are judged, not warned of
        taps = forward(model.spec, model.weights, inputs, model.spec.taps)
    return Run(
        info=BackendInfo(
            name=f"float64: {name}",
            versions={"numpy": np.__version__},
            device="cpu",
            profiles=("f64",),
        ),
        crash=None,
        problems={},
        taps=taps,
        seconds=time.perf_counter() - started,
    )


def _renamed(run: Run, name: str) -> Run:
    return dataclasses.replace(run, info=dataclasses.replace(run.info, name=name))


def _logits_only(run: Run) -> Run:
    taps = {name: table for name, table in run.taps.items() if name == "logits"}
    return dataclasses.replace(run, info=dataclasses.replace(run.info, taps=False), taps=taps)
