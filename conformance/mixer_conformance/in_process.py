"""Backends that a command calls in its own process, where a debugger can follow.

`run` survives whatever a backend does, in a process of its own. The other commands look closer at
one that runs: what it raises, and a call that does not return, is a sentence, a stack and exit code
3; one that aborts ends the command too, with the stacks of all threads.
"""

from __future__ import annotations

import contextlib
import faulthandler
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from mixer_spec import Backend, load_backend
from mixer_spec.errors import MixerSpecError

from .isolated import START_UP
from .subject import Violation, limited, print_own_stack

_EXIT = {"fail": 1, "error": 3, "unsupported": 4}


def look_here(backend: str) -> None:
    """Find ``module:Class`` in the current folder too, behind all that is installed."""
    here = str(Path.cwd())
    if ":" in backend and here not in sys.path:
        sys.path.append(here)


def made(name: str) -> Backend:
    """The backend called ``name``, which can say what it is.

    Raises:
        Violation: if it raises or hangs where it is imported, made or asked for its ``info()``.
        MixerSpecError: if there is no such backend, or its framework is not installed.
    """

    def make() -> Backend | MixerSpecError:
        try:
            backend = load_backend(name)
            backend.info()
        except MixerSpecError as refused:
            return refused
        return backend

    found = limited(f"making backend {name}", make, START_UP)
    if isinstance(found, MixerSpecError):
        raise found
    return found


@contextlib.contextmanager
def told() -> Iterator[None]:
    """A rule that a backend breaks ends the command, with a sentence and the stack on stderr."""
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)
    try:
        yield
    except Violation as violation:
        if violation.__cause__ is not None:
            print_own_stack(violation.__cause__)
        print(f"error: {violation}", file=sys.stderr)
        raise typer.Exit(_EXIT[violation.kind]) from None
