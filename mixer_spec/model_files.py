"""Model files of any layout, read by whichever installed package knows how.

A reader is a function from a path to a :class:`ModelFile`, registered under the entry point group
``mixer_spec.readers``; so a command can take a model file without importing a converter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from .errors import FileError
from .extras import load_or_name_extra
from .model import ModelSpec
from .weights import Weights

GROUP = "mixer_spec.readers"


class ModelFile(Protocol):
    """What a reader makes of a file."""

    @property
    def spec(self) -> ModelSpec:
        """The architecture."""
        ...

    @property
    def weights(self) -> Weights:
        """Canonical name to array."""
        ...


def read_model(path: Path) -> ModelFile:
    """Open a model file, or a folder that holds a model.

    Readers are asked in the order of their names until one does not refuse.

    Raises:
        FileError: if no reader is installed, or each refuses; with every refusal.
        MissingExtraError: if the package that a reader needs for this file is not installed.
        SpecError, WeightsError: if what the file says breaks a rule.
    """
    from importlib.metadata import entry_points  # a fifth of the time of `import mixer_spec`

    refusals: list[FileError] = []
    for entry in sorted(entry_points(group=GROUP)):
        try:
            found: ModelFile = load_or_name_extra(f"reader {entry.name}", entry.load)(path)
        except FileError as error:
            refusals.append(error)
        else:
            return found
    if len(refusals) == 1:
        raise refusals[0]
    problems = [str(refusal) for refusal in refusals]
    raise FileError(str(path), problems or f"nothing reads it; expected readers in {GROUP}")
