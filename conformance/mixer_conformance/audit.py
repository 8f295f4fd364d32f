"""The suite judged: does it find every mutant, in the right place, by the right family and name?

And the other side: does it ever find fault with a backend that is right?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mixer_spec import Backend

from .cases import CASES, ZOO, Trial
from .diagnosis import Diagnosis, diagnose, is_nameable
from .mutants import EQUIVALENT, MUTANTS, Equivalent, Known
from .precision import PRECISIONS
from .result import Result
from .subject import Subject, Violation
from .suite import run, run_case

MARGIN = 3.0
"""How far outside of the tolerance the weakest mutant must be."""

LOCATED = 0.95
"""How many of the mutants must be located, and named, rightly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the suite says of one mutant.

    Args:
        name: of the mutant.
        model: that it was run on.
        expected: the family that must find it.
        stage: what is at fault; ``None`` where no one place is.
        kills: the margin of each family that found it; infinite for a broken rule.
        located: where the expected family sees the fault.
        named: the mistake that the diagnosis finds nearest, where there is one to be made.
        nameable: whether the mistake leaves errors in taps that can be fitted.
    """

    name: str
    model: str
    expected: str
    stage: str | None
    kills: Mapping[str, float]
    located: str | None
    named: tuple[str, ...] = ()
    nameable: bool = False

    @property
    def killed(self) -> bool:
        """Whether the expected family found it."""
        return self.expected in self.kills

    @property
    def margin(self) -> float:
        """How far outside of the tolerance it is, in the family that must find it."""
        return self.kills.get(self.expected, 0.0)

    @property
    def located_rightly(self) -> bool:
        """Whether the family saw the fault where it is."""
        return self.killed and self.stage in (None, self.located)

    @property
    def named_rightly(self) -> bool:
        """Whether the diagnosis names it."""
        return self.name in self.named

    def to_data(self) -> dict[str, Any]:
        """As plain data; an infinite margin is the string ``"infinite"``."""
        return {
            "name": self.name,
            "model": self.model,
            "expected": self.expected,
            "killed": self.killed,
            "stage": self.stage,
            "located": self.located,
            "located_rightly": self.located_rightly,
            "named": list(self.named),
            "nameable": self.nameable,
            "kills": {
                case: "infinite" if margin == math.inf else margin
                for case, margin in self.kills.items()
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """The suite's own report.

    Args:
        verdicts: one for each mutant.
        survivors: the equivalent mutants that were found guilty all the same: false alarms.
    """

    verdicts: tuple[Verdict, ...]
    survivors: tuple[str, ...]

    @property
    def killed(self) -> float:
        """The share of the mutants that were found by the family that must find them."""
        return _share(v.killed for v in self.verdicts)

    @property
    def located(self) -> float:
        """The share of those with a stage at fault that were located rightly."""
        return _share(v.located_rightly for v in self.verdicts if v.stage is not None)

    @property
    def named(self) -> float:
        """The share of the nameable ones that were named rightly."""
        return _share(v.named_rightly for v in self.verdicts if v.nameable)

    @property
    def smallest(self) -> Verdict:
        """The mutant nearest to its tolerance."""
        return min(self.verdicts, key=lambda verdict: verdict.margin)

    @property
    def good(self) -> bool:
        """Whether every figure is reached."""
        return (
            self.killed == 1.0
            and min(self.located, self.named) >= LOCATED
            and self.smallest.margin >= MARGIN
            and not self.survivors
        )

    def to_data(self) -> dict[str, Any]:
        """As plain data."""
        smallest = self.smallest
        return {
            "mutants": len(self.verdicts),
            "killed": self.killed,
            "located": self.located,
            "named": self.named,
            "smallest_margin": {"mutant": smallest.name, "margin": smallest.margin},
            "false_alarms": list(self.survivors),
            "good": self.good,
            "verdicts": [verdict.to_data() for verdict in self.verdicts],
        }


def _share(outcomes: Iterable[bool]) -> float:
    counted = list(outcomes)
    return sum(counted) / len(counted) if counted else 1.0


def trial_of(backend: Backend, model: str, *, profile: str, limit: float, seed: int = 0) -> Trial:
    """A backend on one model of the zoo, outside of a run."""
    info = backend.info()
    subject = Subject(
        backend=backend,
        info=info,
        precision=PRECISIONS[profile],  # type: ignore[index]
        sees_taps=info.taps,
        limit=limit,
    )
    found = ZOO[model]
    return Trial(subject=subject, model=found, spec=found.build(), seed=seed, effort="quick")


def examine(known: Known, cases: Sequence[str] = ()) -> Verdict:
    """Run the suite on one mutant.

    Args:
        known: the mutant.
        cases: ids of the families; by default all that suit its model.
    """
    trial = trial_of(known.backend, known.model, profile=known.profile, limit=known.limit)
    results = [
        run_case(case, trial)
        for case in CASES.values()
        if case.suits(trial.model, trial.spec)
        and known.profile in case.profiles
        and (not cases or case.id in cases)
    ]
    found = {r.case: r for r in results if r.status in ("fail", "error")}
    kills = {case: math.inf if r.margin is None else r.margin for case, r in found.items()}
    by = found.get(known.killer)
    diagnosis = _diagnosed(trial, by.level) if by and is_nameable(known.backend) else None
    return Verdict(
        name=known.name,
        model=known.model,
        expected=known.killer,
        stage=known.stage,
        kills=kills,
        located=by.culprit if by else None,
        named=diagnosis.names if diagnosis else (),
        nameable=diagnosis is not None and diagnosis.tried,
    )


def _diagnosed(trial: Trial, level: int) -> Diagnosis | None:
    try:
        return diagnose(trial, level)
    except Violation:
        return None


def audit(progress: Callable[[Verdict], None] = lambda verdict: None) -> Audit:
    """Run the suite on every mutant of the catalogue, and on the equivalent ones."""
    verdicts = []
    for known in MUTANTS.values():
        verdicts.append(examine(known))
        progress(verdicts[-1])
    return Audit(
        verdicts=tuple(verdicts),
        survivors=tuple(e.name for e in EQUIVALENT if accuses(e)),
    )


def accuses(equivalent: Equivalent) -> bool:
    """Whether the suite finds fault with a mutant that is none."""
    results = run(
        equivalent.backend, level=equivalent.level, scales=[equivalent.model], effort="quick"
    )
    return any(result.status in ("fail", "error") for result in results)


@dataclass(frozen=True, kw_only=True, slots=True)
class Worst:
    """The nearest that a right backend came to a false alarm in one family of cases.

    Args:
        backend: its name.
        runs: how many times the family was run.
        alarms: how many of them did not pass.
        result: the worst of them.
        seed: of its weights and inputs.
    """

    backend: str
    runs: int
    alarms: int
    result: Result
    seed: int

    @property
    def margin(self) -> float:
        """That of the worst; infinite where nothing was measured."""
        return math.inf if self.result.margin is None else self.result.margin

    def to_data(self) -> dict[str, Any]:
        """As plain data."""
        own = {"backend": self.backend, "runs": self.runs, "alarms": self.alarms, "seed": self.seed}
        return own | self.result.to_data()


_PATIENCE = 1800.0
"""Seconds that one call of a right backend may take."""

MARGINS = ("F01", "F04", "F05", "F06", "F07", "F08")
"""The families whose margins show how near a right backend comes to a false alarm."""


def honest_margins(
    backends: Sequence[Backend],
    seeds: Iterable[int],
    scales: Sequence[str],
    progress: Callable[[str, int], None] = lambda name, seed: None,
    cases: Sequence[str] = MARGINS,
) -> list[Worst]:
    """The worst result of each backend that should pass, family by family, over many seeds.

    Args:
        backends: that are right.
        seeds: of weights and inputs.
        scales: models or groups of the zoo.
        progress: is told each backend and seed.
        cases: the families whose margins are measured.
    """
    found: dict[tuple[str, str], Worst] = {}
    for seed in seeds:
        for backend in backends:
            name = backend.info().name
            progress(name, seed)
            # A busy machine is no false alarm.
            for result in run(backend, cases=cases, scales=scales, seed=seed, limit=_PATIENCE):
                alarms = int(result.status != "pass")
                one = Worst(backend=name, runs=1, alarms=alarms, result=result, seed=seed)
                key = (name, result.case)
                found[key] = _joined(found[key], one) if key in found else one
    return sorted(found.values(), key=lambda worst: (worst.backend, worst.result.case))


def _joined(one: Worst, other: Worst) -> Worst:
    """The worse of two, with the runs and alarms of both."""
    worse = max(one, other, key=lambda worst: (worst.result.status != "pass", worst.margin))
    return replace(worse, runs=one.runs + other.runs, alarms=one.alarms + other.alarms)
