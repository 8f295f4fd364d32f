"""What is installed, and whether it is fit to use: the findings behind ``mixer-spec doctor``.

Requirements are read from the distribution's own metadata, so they cannot drift from the
packaging. Versions that are known to be bad stand in one table, each with its reason.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .backend import backend_names, load_backend
from .errors import MissingExtraError

DISTRIBUTION = "mixer-spec"

Verdict = Literal["good", "caution", "bad", "missing"]
"""``caution`` is a known fault that mixer_spec itself is safe from; ``bad`` is one that it is not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownFault:
    """A released version that does something wrong.

    Args:
        distribution: the package's name.
        version: the one version that has the fault.
        fault: what is wrong, and what to do.
        guarded: whether mixer_spec's own code works around it, or has nothing that it touches.
        source: where it is reported.
    """

    distribution: str
    version: str
    fault: str
    guarded: bool
    source: str


KNOWN_FAULTS = (
    KnownFault(
        distribution="jax",
        version="0.10.2",
        fault="on CPU, jit gives wrong values for a product of a small matrix with each of more than "
        "32,768 vectors that is then summed; no layer computes one; 0.10.1 is right",
        guarded=True,
        source="jax-ml/jax#39103",
    ),
    KnownFault(
        distribution="safetensors",
        version="0.8.0",
        fault="save_file writes wrong bytes for NumPy arrays that are not C-contiguous, without an "
        "error; mixer_spec's own writer is safe; do np.ascontiguousarray before calls of your own",
        guarded=True,
        source="safetensors/safetensors#825",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirement:
    """One package that mixer-spec, or one of its extras, needs.

    Args:
        distribution: the package's name.
        at_least: the lowest version that is supported.
        extras: the extras that bring it; empty if it is always installed.
    """

    distribution: str
    at_least: str
    extras: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The state of one package or backend.

    Args:
        name: the package's or the backend's name.
        version: what is installed, in words; ``None`` if it is missing.
        extras: the extras that bring it; empty if it is always installed.
        verdict: whether it is fit to use.
        reason: why not, and what to do; empty if it is good.
    """

    name: str
    version: str | None
    extras: tuple[str, ...] = ()
    verdict: Verdict = "good"
    reason: str = ""


_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)>=(?P<low>[0-9.]+)"
    r"(?:\s*;\s*extra == ['\"](?P<extra>[a-z0-9]+)['\"])?"
)


def requirements() -> list[Requirement]:
    """Every package with a lowest version in the metadata of mixer-spec, each once."""
    extras: dict[tuple[str, str], list[str]] = {}
    for line in importlib.metadata.requires(DISTRIBUTION) or ():
        if match := _REQUIREMENT.fullmatch(line):
            brings = extras.setdefault((match["name"], match["low"]), [])
            if match["extra"] not in (None, "all"):
                brings.append(match["extra"])
    return [
        Requirement(distribution=name, at_least=low, extras=tuple(brings))
        for (name, low), brings in extras.items()
    ]


def examine_packages() -> list[Finding]:
    """The state of every package that mixer-spec or one of its extras needs."""
    return [_examine(requirement) for requirement in requirements()]


def complete_extras(packages: Sequence[Finding]) -> dict[str, bool]:
    """Each extra, and whether all its packages are installed."""
    names = sorted({extra for package in packages for extra in package.extras})
    return {
        name: all(package.version for package in packages if name in package.extras)
        for name in names
    }


def _examine(requirement: Requirement) -> Finding:
    name, extras = requirement.distribution, requirement.extras
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        wanted = f'"{DISTRIBUTION}[{extras[0]}]"' if extras else DISTRIBUTION
        reason = f"not installed; do `pip install {wanted}`"
        verdict: Verdict = "missing" if extras else "bad"
        return Finding(name=name, version=None, extras=extras, verdict=verdict, reason=reason)
    verdict, reason = _judge(requirement, version)
    return Finding(name=name, version=version, extras=extras, verdict=verdict, reason=reason)


def _judge(requirement: Requirement, version: str) -> tuple[Verdict, str]:
    name = requirement.distribution
    if _release(version) < _release(requirement.at_least):
        return "bad", (
            f"too old; expected at least {requirement.at_least}, got {version}; "
            f'do `pip install --upgrade "{name}>={requirement.at_least}"`'
        )
    for known in KNOWN_FAULTS:
        if (known.distribution, known.version) == (name, version.partition("+")[0]):
            return "caution" if known.guarded else "bad", f"{known.fault} ({known.source})"
    return "good", ""


def _release(version: str) -> tuple[int, ...]:
    """The numbers in front of a version, without trailing zeros: ``2.13.0+cpu`` is ``(2, 13)``."""
    match = re.match(r"[0-9]+(\.[0-9]+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def examine_backends() -> list[Finding]:
    """The state of every registered backend: each is loaded and asked for its versions."""
    return [_examine_backend(name) for name in backend_names()]


def _examine_backend(name: str) -> Finding:
    try:
        told = load_backend(name).info()
    except MissingExtraError as error:
        return Finding(name=name, version=None, verdict="missing", reason=error.problems[0])
    except Exception as error:  # noqa: BLE001  whatever a broken installation raises is the finding
        reason = f"cannot be loaded: {type(error).__name__}: {error}"
        return Finding(name=name, version=None, verdict="bad", reason=reason)
    versions = ", ".join(f"{package} {version}" for package, version in told.versions.items())
    return Finding(name=name, version=f"{versions}; {told.device}")
