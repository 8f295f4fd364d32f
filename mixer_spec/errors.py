"""The errors of mixer_spec: every one says where, which rule, expected, got, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


class MixerSpecError(Exception):
    """Base of every error that mixer_spec raises on purpose.

    Args:
        where: the object, file or argument that broke the rules.
        problems: every rule broken, each as ``rule; expected X, got Y; do Z``.

    Example:
        >>> print(MixerSpecError("LayerNorm", ["epsilon must be positive; expected > 0, got -1.0"]))
        LayerNorm: epsilon must be positive; expected > 0, got -1.0
    """

    def __init__(self, where: str, problems: Iterable[str] | str) -> None:
        self.where = where
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        if len(self.problems) == 1:
            message = f"{where}: {self.problems[0]}"
        else:
            lines = "".join(f"\n  {problem}" for problem in self.problems)
            message = f"{where}: {len(self.problems)} rules broken{lines}"
        super().__init__(message)

    def __reduce__(self) -> tuple[type[MixerSpecError], tuple[str, tuple[str, ...]]]:
        """How an error gets from one process to another."""
        return type(self), (self.where, self.problems)


class SpecError(MixerSpecError, ValueError):
    """A specification that breaks a rule: a wrong value, an unknown field, widths that do not fit."""


class WeightsError(MixerSpecError, ValueError):
    """Weights that do not fit their spec: missing, unknown or mis-shaped tensors."""


class InputError(MixerSpecError, ValueError):
    """Input to a model that breaks its contract: wrong size, rank, dtype, or an unknown tap."""


class FileError(MixerSpecError, ValueError):
    """A file that cannot be read or written: truncated, of another format, or from a newer version."""


class UnknownNameError(MixerSpecError, LookupError):
    """A name (variant, backend, preprocessing) that does not exist; the message lists the nearest."""

    @classmethod
    def of(cls, kind: str, name: str, known: Collection[str]) -> UnknownNameError:
        """That ``name`` is none of the ``known`` names of a kind of thing.

        Example:
            >>> print(UnknownNameError.of("recipe", "digit", ["digits", "vtab"]))
            recipe 'digit': there is no such recipe; expected a name like digits
        """
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)
        return cls(
            f"{kind} {name!r}", f"there is no such {kind}; expected a name like {', '.join(near)}"
        )


class MissingExtraError(MixerSpecError, ImportError):
    """A package is not installed; the message names the extra that brings it."""
