"""From the text that a user types for a data set to the data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from mixer_spec.errors import FileError

from .array_record import read_array_record
from .arrays import read_npz
from .digits import read_digits
from .folder import read_folder
from .idx import read_fashion_mnist
from .rows import read_hugging_face, read_tfds
from .source import Source, check_only_split


def _npz(path: Path, split: str) -> Source:
    """``path`` itself, or the file named after the split in the folder ``path``."""
    if path.is_dir():
        return read_npz(path / f"{split}.npz")
    check_only_split(split, str(path))
    return read_npz(path)


def _of_path(read: Callable[[Path, str], Source]) -> Callable[[str, str], Source]:
    return lambda path, split: read(Path(path).expanduser(), split)


KINDS: Mapping[str, Callable[[str, str], Source]] = MappingProxyType(
    {
        "array-record": _of_path(read_array_record),
        "digits": lambda _, split: read_digits(split),
        "fashion-mnist": _of_path(read_fashion_mnist),
        "folder": _of_path(read_folder),
        "hf": read_hugging_face,
        "npz": _of_path(_npz),
        "tfds": read_tfds,
    }
)
"""How each kind of data set is opened, by the word in front of the colon."""


def open_source(where: str, split: str) -> Source:
    """The data set that ``where`` names.

    Args:
        where: ``kind:place`` with a kind of :data:`KINDS`; ``digits`` alone; or a path, whose
            kind is found by what lies there.
        split: ``train`` or ``test``, or another name that the data set knows. In a folder it is
            the name of a folder (images) or of a file in front of its ending (npz, ArrayRecord);
            what holds one set alone is the split ``train``.

    Raises:
        FileError: if there is nothing there, or of no known kind, or no such split.
        InputError: if the examples break a rule.
        MissingExtraError: if the package that reads it is not installed.
    """
    kind, colon, place = where.partition(":")
    if kind in KINDS and (colon or kind == "digits"):
        return KINDS[kind](place, split)
    return KINDS[_detected(Path(where).expanduser(), where)](where, split)


def _detected(path: Path, where: str) -> str:
    known = f"expected a path, digits, or one of {[f'{kind}:' for kind in KINDS]}"
    if not path.exists():
        raise FileError(where, f"there is no such file or folder; {known}")
    if path.suffix == ".npz" or (path.is_dir() and any(path.glob("*.npz"))):
        return "npz"
    if path.suffix == ".array_record" or (path.is_dir() and any(path.glob("*.array_record*"))):
        return "array-record"
    if not path.is_dir():
        raise FileError(where, f"is no file of examples; {known}")
    if any(path.glob("*-idx?-ubyte*")):
        return "fashion-mnist"
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return "hf"
    return "folder"
