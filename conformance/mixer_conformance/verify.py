"""`verify`: run backends on conformance weights, and judge every tap against the oracle."""

from __future__ import annotations

import gc
import platform
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import mixer_spec
from mixer_spec import Backend, BackendInfo, InputError, MissingExtraError, ModelSpec
from mixer_spec.backend import Profile, check_inputs, check_profile, load_backend
from mixer_spec.weights import Weights, validate

from .judge import Taps, judge, standards
from .measure import Array
from .report import BackendReport, Report
from .subject import Violation, limited
from .tolerance import carried_runs, default_batch, yardstick_runs
from .weights import conformance_inputs, conformance_weights

_PROFILE: Profile = "f32-strict"

LIMIT = 1800.0
"""Seconds that one call of a backend may take."""


def verify(
    spec: ModelSpec,
    backends: Sequence[str | Backend],
    *,
    seed: int = 0,
    batch: int | None = None,
    weights: Weights | None = None,
    inputs: Array | None = None,
    name: str | None = None,
    limit: float = LIMIT,
    progress: Callable[[str], None] = lambda activity: None,
) -> Report:
    """Judge whether backends compute what ``spec`` says, in float32.

    Every backend is loaded with the conformance weights, run with every tap and freed before the
    next is loaded; one float64 pass then judges them all. A backend that raises, or does not return
    in time, is reported, and the others are still judged.

    Args:
        spec: the architecture.
        backends: registered names, ``package.module:Class``, or backends in hand.
        seed: of the weights and inputs.
        batch: number of conformance inputs; by default two, or one for a huge model.
        weights: a trained model's, canonical name to float32 array; by default conformance
            weights, which let fewer mistakes through.
        inputs: what ``spec.input`` says, with a batch axis in front, in float32 unless they are
            ids; by default conformance inputs.
        name: what to call the spec in the report; its fingerprint's beginning by default.
        limit: seconds that one call of a backend may take; what hangs is left in its thread.
        progress: is told what is being done, in a few words.

    Raises:
        InputError: if there is no backend, or the inputs do not fit the spec.
        WeightsError: if the weights do not fit the spec.
        UnknownNameError: if a backend does not exist or does not claim the profile f32-strict.
        MissingExtraError: if a backend's framework is not installed.

    Example:
        >>> from mixer_spec import families
        >>> spec = families.mixer(image_size=8, patch=4, channels=8, depth=1, token_hidden=5,
        ...                       channel_hidden=12, classes=7)
        >>> report = verify(spec, ["reference"])
        >>> report.conformant, report.backends[0].first_bad_stage
        (True, None)
    """
    started = time.perf_counter()
    if not backends:
        raise InputError("backends", "nothing to verify; expected at least one backend, got none")
    found = [load_backend(b) if isinstance(b, str) else b for b in backends]
    for backend in found:
        check_profile(backend.info(), _PROFILE)
    given = weights is not None and inputs is not None
    if inputs is None:
        inputs = conformance_inputs(spec, default_batch(spec) if batch is None else batch, seed)
    check_inputs(spec, inputs)
    if weights is None:
        weights = conformance_weights(spec, seed)
    validate(spec, weights)

    runs = []
    for backend in found:
        progress(f"running {backend.info().name}")
        runs.append(run_backend(backend, spec, weights, inputs, limit))
        gc.collect()  # a framework's model holds its weights in cycles
    return report_on(
        *(spec, weights, inputs, runs),
        name=name,
        seed=None if given else seed,
        started=started,
        progress=progress,
    )


def report_on(
    spec: ModelSpec,
    weights: Weights,
    inputs: Array,
    runs: Sequence[Run],
    *,
    name: str | None,
    seed: int | None,
    started: float,
    progress: Callable[[str], None],
) -> Report:
    """Judge runs against the oracle of ``spec`` and ``weights``; see :func:`verify`.

    Args:
        runs: of anything that should compute the same.
        started: what ``time.perf_counter`` gave when the work began.
    """
    yardsticks = yardstick_runs(spec)
    ruler = standards(
        spec,
        weights,
        inputs,
        yardsticks=yardsticks,
        carried=carried_runs(spec),
        progress=lambda tap: progress(f"judging {tap}"),
    )
    judged = judge(weights, inputs, [run.taps for run in runs], ruler)
    return Report(
        name=name or spec.fingerprint[:12],
        fingerprint=spec.fingerprint,
        seed=seed,
        batch=len(inputs),
        yardstick_runs=yardsticks,
        versions=_versions(),
        backends=tuple(
            BackendReport(
                name=run.info.name,
                versions=run.info.versions,
                device=run.info.device,
                sees_taps=run.info.taps,
                crash=run.crash,
                problems=run.problems,
                taps=() if run.crash else tuple(taps),
                seconds=run.seconds,
            )
            for run, taps in zip(runs, judged, strict=True)
        ),
        seconds=time.perf_counter() - started,
    )


def _versions() -> dict[str, str]:
    return {
        "mixer-spec": mixer_spec.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One backend loaded and run once.

    Args:
        info: what the backend says of itself.
        crash: the error that it raised, without the traceback, or ``None``.
        problems: the rules that it broke, by the tap or weight.
        taps: those that can be judged.
        seconds: how long loading and running took.
    """

    info: BackendInfo
    crash: str | None
    problems: dict[str, str]
    taps: Taps
    seconds: float


def run_backend(
    backend: Backend, spec: ModelSpec, weights: Weights, inputs: Array, limit: float = LIMIT
) -> Run:
    """Load a backend with the weights and run it with every tap, each call within ``limit`` seconds.

    Raises:
        MissingExtraError: if its framework is not installed; any other error is in the run.
    """
    started = time.perf_counter()
    info = backend.info()
    names = spec.taps if info.taps else ("logits",)
    crash = None
    problems: dict[str, str] = {}
    taps: Taps = {}
    try:
        model = limited("load", lambda: backend.load(spec, weights, profile=_PROFILE), limit)
        # A copy: a backend that writes into its input must not change the oracle's.
        found = limited("forward", lambda: model.forward(inputs.copy(), names), limit)
        problems = _unusable_taps(found, spec, names, len(inputs))
        taps = {name: found[name] for name in names if name not in problems}
        exported = limited("export_weights", model.export_weights, limit)
        problems |= _changed_weights(exported, weights)
    except Violation as violation:
        crash = str(violation)
    except MissingExtraError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a backend returns is its verdict
        crash = traceback.format_exception_only(error)[-1].strip()
    seconds = time.perf_counter() - started
    return Run(info=info, crash=crash, problems=problems, taps=taps, seconds=seconds)


def _unusable_taps(
    found: Mapping[str, Any], spec: ModelSpec, names: Sequence[str], batch: int
) -> dict[str, str]:
    """The taps that are missing or of another shape or dtype, and the rule that each breaks."""
    problems = {}
    for step in spec.steps:
        if step.tap not in names:
            continue
        table = found.get(step.tap)
        expected = (batch, *step.outgoing.shape)
        if table is None:
            problems[step.tap] = "was not returned"
        elif not isinstance(table, np.ndarray) or table.dtype != np.float32:
            kind = getattr(table, "dtype", type(table).__name__)
            problems[step.tap] = f"wrong dtype; expected a NumPy array of float32, got {kind}"
        elif table.shape != expected:
            problems[step.tap] = f"wrong shape; expected {list(expected)}, got {list(table.shape)}"
    return problems


def _changed_weights(exported: Weights, weights: Weights) -> dict[str, str]:
    """The weights that ``export_weights`` did not give back bit for bit, and how."""
    problems = dict.fromkeys(exported.keys() - weights, "was exported but never loaded")
    for name, array in weights.items():
        if name not in exported:
            problems[name] = "is missing from the exported weights"
        elif not same_bits(np.asarray(exported[name]), array):
            problems[name] = "its exported bits differ from those that were loaded"
    return problems


def same_bits(one: Array, other: Array) -> bool:
    """Whether two arrays have the same shape, dtype and bytes."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    one, other = (np.ascontiguousarray(array).reshape(-1) for array in (one, other))
    return np.array_equal(one.view(np.uint8), other.view(np.uint8))
