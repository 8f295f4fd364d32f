"""`run`: every case family that suits, on every model that was chosen, against one backend."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mixer_spec import Backend
from mixer_spec.backend import Profile, check_profile, load_backend
from mixer_spec.errors import InputError

from .cases import CASES, ZOO, Case, Effort, Trial, chosen
from .diagnosis import diagnose
from .excuses import Excuse, excused, stale
from .findings import Finding, summed_up
from .precision import PRECISIONS
from .result import Explanation, Result, TapScore
from .subject import ByFiles, Subject, Violation

Explanations = dict[tuple[str, int], Explanation | None]
"""What is wrong with each model, as far as a level looks at it."""

LIMITS: dict[Effort, float] = {"quick": 20.0, "full": 120.0, "nightly": 1800.0}
"""Seconds that one call of a backend may take."""


def run(
    backend: str | Backend,
    *,
    level: int = 2,
    profile: Profile = "f32-strict",
    effort: Effort = "quick",
    scales: Sequence[str] = (),
    cases: Sequence[str] = (),
    seed: int = 0,
    excuses: Sequence[Excuse] = (),
    limit: float | None = None,
    progress: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Judge one backend in this process, where a debugger can follow.

    What hangs is left behind in its thread, and what aborts ends the caller too: see
    :func:`run_isolated`.

    Args:
        backend: a registered name, ``package.module:Class``, or a backend in hand.
        level: the highest: 0 structure, 1 logits, 2 taps, 3 gradients, 4 optimiser.
        profile: an arithmetic that the backend claims.
        effort: how much is run: ``quick``, ``full`` or ``nightly``.
        scales: models or groups of the zoo, instead of the effort's own.
        cases: ids of case families; by default all up to the level.
        seed: of weights and inputs.
        excuses: known failures, from the backend's own file.
        limit: seconds that one call of the backend may take; by default the effort's.
        progress: is told each result.

    Returns:
        The results, models in the zoo's order; empty if no case suits, which is no success.

    Raises:
        UnknownNameError: if there is no such backend, or it does not claim the profile.
        MissingExtraError: if its framework is not installed.
        InputError: if a level, case or scale does not exist, or a case is above the level.

    Example:
        >>> results = run("reference", scales=["mixer"], cases=["F01", "F05"])
        >>> [(result.case, result.status) for result in results]
        [('F01', 'pass'), ('F05', 'pass')]
    """
    subject = subject_of(backend, profile, level, effort, limit=limit)
    results = []
    plan = planned(subject, level=level, effort=effort, scales=scales, cases=cases, seed=seed)
    for result in explained(plan, excuses):
        results.append(result)
        progress(result)
    everything = effort != "quick" and not scales and not cases
    return with_stale(results, excuses, profile) if everything else results


def explained(plan: Iterable[Planned], excuses: Sequence[Excuse] = ()) -> Iterator[Result]:
    """Run what was planned; a failure of taps, gradients or training gets its model's diagnosis."""
    known: Explanations = {}
    for one in plan:
        yield one.explained(excuses, known)


def _explanation(trial: Trial, level: int) -> Explanation | None:
    """The mistake that explains the errors of a model, as far as a level looks at it."""
    try:
        found = diagnose(trial, level)
    except Violation:  # which the results tell
        return None
    return found.explanation if found and found.tried else None


def subject_of(
    backend: str | Backend,
    profile: Profile,
    level: int,
    effort: Effort,
    *,
    limit: float | None = None,
) -> Subject:
    """A backend in one arithmetic, as far as a level looks at it.

    Raises:
        InputError: if there is no such level or profile.
        UnknownNameError: if there is no such backend, or it does not claim the profile.
    """
    if not 0 <= level <= 4:
        raise InputError("level", f"must be one of 0 to 4, got {level}")
    if profile not in PRECISIONS:
        raise InputError("profile", f"must be one of {list(PRECISIONS)}, got {profile!r}")
    found = load_backend(backend) if isinstance(backend, str) else backend
    info = found.info()
    check_profile(info, profile)
    return Subject(
        backend=found,
        info=info,
        precision=PRECISIONS[profile],
        sees_taps=info.taps and level >= 2,
        limit=LIMITS[effort] if limit is None else limit,
    )


@dataclass(frozen=True, slots=True)
class Planned:
    """One case family on one model, to be run.

    Args:
        case: the family.
        trial: the backend and the model.
    """

    case: Case
    trial: Trial

    @property
    def id(self) -> str:
        """``F05/mixer/f32-strict``."""
        return f"{self.case.id}/{self.trial.model.name}/{self.trial.subject.precision.profile}"

    def run(self, excuses: Sequence[Excuse] = ()) -> Result:
        """The result in the light of the excuses."""
        return excused(run_case(self.case, self.trial), excuses)

    def explained(self, excuses: Sequence[Excuse], known: Explanations) -> Result:
        """The same with the diagnosis of a failure, which is kept for the model's other cases."""
        result = self.run(excuses)
        if result.status != "fail" or not (result.taps or result.level >= 3):
            return result
        key = result.model, max(2, result.level)
        if key not in known:
            known[key] = _explanation(self.trial, result.level)
        return replace(result, diagnosis=known[key])


def planned(
    subject: Subject,
    *,
    level: int,
    effort: Effort,
    scales: Sequence[str] = (),
    cases: Sequence[str] = (),
    seed: int = 0,
) -> Iterator[Planned]:
    """Every case family that suits, on every model that was chosen; models one after the other.

    Raises:
        InputError: if a case or scale does not exist, or a case is above the level.
    """
    if unknown := [case for case in cases if case not in CASES]:
        raise InputError("cases", f"unknown {unknown}; expected ids like F01 out of {list(CASES)}")
    if high := [case for case in cases if CASES[case].level > level]:
        most = max(CASES[case].level for case in high)
        raise InputError("cases", f"{high} are not at level {level}; do ask for level {most}")
    families = [case for case in CASES.values() if not cases or case.id in cases]
    precision = subject.precision
    for name in chosen(effort, tuple(scales)):
        model = ZOO[name]
        trial = Trial(subject=subject, model=model, spec=model.build(), seed=seed, effort=effort)
        for case in families:
            left_out = effort == "quick" and not scales and case.quick and name not in case.quick
            suits = case.level <= level and precision.profile in case.profiles
            if suits and not left_out and case.suits(model, trial.spec):
                yield Planned(case, trial)
        if trial.spec.parameter_count > 1_000_000:
            del trial
            gc.collect()  # a framework's model holds its weights in cycles


def with_stale(
    results: Sequence[Result], excuses: Sequence[Excuse], profile: Profile
) -> list[Result]:
    """The results of a run of everything, and a failure for each excuse that fits none of them."""
    return [*results, *(_stale(excuse, profile) for excuse in stale(excuses, results))]


def _stale(excuse: Excuse, profile: Profile) -> Result:
    case, _, rest = excuse.case.partition("/")
    return Result(
        case=case,
        model=rest.partition("/")[0] or "-",
        profile=profile,
        level=0,
        status="fail",
        message=f"the excuse for {excuse.case} fits no case that was run; do remove it",
    )


def run_case(case: Case, trial: Trial) -> Result:
    """One case family on one model; whatever the backend does, there is a result."""
    started = time.perf_counter()
    result = Result(
        case=case.id,
        model=trial.model.name,
        profile=trial.subject.precision.profile,
        level=case.level,
        status="error",
    )
    if case.level == 2 and not trial.subject.sees_taps:
        return replace(result, status="unsupported", message="the backend shows no taps")
    if case.in_process and isinstance(trial.subject.backend, ByFiles):
        message = f"cannot be asked in files: {case.in_process}"
        return replace(result, status="unsupported", message=message)
    seen: list[Finding] = []
    try:
        with np.errstate(all="ignore"):  # infinities are judged, not warned of
            for finding in case.check(trial):
                seen.append(finding)  # noqa: PERF402 - one by one, to keep them
    except Violation as violation:
        # What was found before the backend refused something stays found.
        if violation.kind != "unsupported" or all(finding.passed for finding in seen):
            margin = math.inf if violation.kind == "fail" else None
            return replace(
                result,
                status=violation.kind,
                margin=margin,
                message=str(violation),
                culprit=violation.culprit,
                seconds=time.perf_counter() - started,
            )
    found = summed_up(seen)
    return replace(
        result,
        status="pass" if found.passed else "fail",
        margin=found.margin,
        culprit=None if found.passed else found.culprit,
        message=found.message,
        taps=tuple(TapScore.of(tap) for tap in found.taps),
        limits=found.limits,
        seconds=time.perf_counter() - started,
    )
