"""What was found, gathered by its cause, each with the command that shows it again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_QUIET = ("pass", "unsupported")


@dataclass(frozen=True, slots=True)
class Found:
    """One finding.

    Args:
        result: as it is stored.
        again: the command that shows it again.
    """

    result: dict[str, Any]
    again: str


@dataclass(frozen=True, slots=True)
class Cause:
    """Findings of one run that have one explanation.

    Args:
        backend: that is at fault.
        profile: its arithmetic.
        mistake: the known one that explains them; ``None`` where none does, or none was tried.
        sentence: how well it does, on the model with the most findings.
        found: the findings, that model's first.
        locate: the command that looks closer, where it was diagnosed.
    """

    backend: str
    profile: str
    mistake: str | None
    sentence: str | None
    found: tuple[Found, ...]
    locate: str | None


def causes(run: dict[str, Any]) -> list[Cause]:
    """The findings of a run, those that are explained first."""
    groups: dict[str | None, list[dict[str, Any]]] = {}
    for result in run["results"]:
        if result["status"] not in _QUIET:
            groups.setdefault(_mistake(result), []).append(result)
    made = [_cause(run, mistake, results) for mistake, results in groups.items()]
    return sorted(made, key=lambda cause: (cause.mistake is None, -len(cause.found)))


def _mistake(result: dict[str, Any]) -> str | None:
    found: str | None = result["diagnosis"]["mistake"] if result["diagnosis"] else None
    return found


def _cause(run: dict[str, Any], mistake: str | None, results: Sequence[dict[str, Any]]) -> Cause:
    models = Counter(result["model"] for result in results)
    results = sorted(results, key=lambda result: -models[result["model"]])
    told = next((result for result in results if result["diagnosis"]), None)
    return Cause(
        backend=run["backend"],
        profile=run["profile"],
        mistake=mistake,
        sentence=told["diagnosis"]["sentence"] if told else None,
        found=tuple(Found(result, _again(run, result)) for result in results),
        locate=_locate(run, told) if told else None,
    )


def _again(run: dict[str, Any], result: dict[str, Any]) -> str:
    words = ["run", "--cases", result["case"], "--scales", result["model"]]
    effort = [f"--{run['effort']}"] if run["effort"] != "quick" else []
    return _command(run, [*words, "--level", str(run["level"]), *effort])


def _locate(run: dict[str, Any], result: dict[str, Any]) -> str:
    words = ["locate", "--model", result["model"]]
    if result["level"] > 2:  # a script shows nothing but a forward pass
        return _command(run, [*words, "--level", str(result["level"])])
    return _command(run, [*words, "--write", "repro.py"])


def _command(run: dict[str, Any], words: Sequence[str]) -> str:
    """In a shell's own quotes: a name from a report must not become another command."""
    command, *rest = words
    chosen = ["--backend", run["named"], "--profile", run["profile"], "--seed", str(run["seed"])]
    return shlex.join(["mixer-spec", "conformance", command, *chosen, *rest])
