"""Checked, normalised dataclass fields and their JSON form: the machinery under the vocabulary.

A class that inherits :class:`Checked` and is decorated as a frozen dataclass has every field
checked against its annotation and normalised when it is made, so that equal values have equal
JSON. Annotations may be ``int``, ``float``, ``str``, ``Literal``, another ``Checked`` class, a
union of those, ``tuple[X, ...]``, ``tuple[X, Y]``, and ``Annotated[int, AtLeast(n)]``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from .errors import SpecError


@dataclass(frozen=True, slots=True)
class AtLeast:
    """The number is at least ``bound``."""

    bound: int


@dataclass(frozen=True, slots=True)
class AtMost:
    """The number is at most ``bound``."""

    bound: int


@dataclass(frozen=True, slots=True)
class Above:
    """The number is finite and greater than ``bound``."""

    bound: float


@dataclass(frozen=True, slots=True)
class Matches:
    """The string matches ``pattern`` as a whole."""

    pattern: str


_LARGEST = 2**31 - 1  # the largest axis that every framework can index

Count = Annotated[int, AtLeast(1), AtMost(_LARGEST)]
Index = Annotated[int, AtLeast(0), AtMost(_LARGEST)]
PositiveFloat = Annotated[float, Above(0.0)]
Fraction = Annotated[float, AtLeast(0), AtMost(1)]
NotNegative = Annotated[float, AtLeast(0), AtMost(2**31)]

_Problems = list[str]


class Checked:
    """A dataclass whose fields are checked and normalised on construction.

    ``kind`` names the class in JSON. Raises :class:`SpecError` with every broken rule.
    """

    __slots__ = ()
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        problems: _Problems = []
        for name, annotation in field_types(type(self)).items():
            value = normalise(getattr(self, name), annotation, name, problems)
            object.__setattr__(self, name, value)
        if not problems:
            problems += self.broken_rules()
        if problems:
            raise SpecError(type(self).__name__, problems)

    def broken_rules(self) -> Iterator[str] | Sequence[str]:
        """Rules between fields that the annotations cannot say; one message for each broken one."""
        return ()

    def to_data(self) -> dict[str, Any]:
        """The value as plain dicts, lists, strings and numbers, ready for JSON."""
        fields = {name: _to_data(getattr(self, name)) for name in field_types(type(self))}
        return {"kind": self.kind, **fields}

    @classmethod
    def from_data(cls, data: object, where: str) -> Self:
        """The inverse of :meth:`to_data`; refuses unknown fields and kinds, all at once.

        Raises:
            SpecError: with every rule that ``data`` breaks, each with its place in the tree.
        """
        problems: _Problems = []
        value = _from_data(data, cls, "", problems)
        if problems:
            raise SpecError(where, problems)
        return typing.cast(Self, value)


_FIELD_TYPES: dict[type, dict[str, Any]] = {}


def field_types(cls: type[Any]) -> dict[str, Any]:
    """The resolved annotation of every dataclass field of ``cls``, in order."""
    if cls not in _FIELD_TYPES:
        hints = typing.get_type_hints(cls, include_extras=True)
        _FIELD_TYPES[cls] = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return _FIELD_TYPES[cls]


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(inner for arg in get_args(annotation) for inner in alternatives(arg))
    return (annotation,)


# --- checking -------------------------------------------------------------------------------


def normalise(value: Any, annotation: Any, where: str, problems: _Problems) -> Any:
    """``value`` in the one form that ``annotation`` allows; broken rules go to ``problems``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *bounds = get_args(annotation)
        return _normalise_bounded(value, base, bounds, where, problems)
    if origin is Literal:
        choices = get_args(annotation)
        if not isinstance(value, str) or value not in choices:
            problems.append(f"{where} must be one of {list(choices)}, got {value!r}")
        return value
    if origin is tuple:
        return _normalise_tuple(value, get_args(annotation), where, problems)
    if annotation in (int, float, str):
        return _normalise_scalar(value, annotation, where, problems)
    classes = alternatives(annotation)
    if not isinstance(value, classes):
        names = " or ".join(c.__name__ for c in classes)
        problems.append(f"{where} must be a {names}, got {value!r}")
    return value


def _normalise_scalar(value: Any, kind: type, where: str, problems: _Problems) -> Any:
    if kind is str:
        if isinstance(value, str):
            return value
    elif kind is float and hasattr(value, "__float__") and not isinstance(value, bool):
        number = float(value)
        if not math.isfinite(number):
            problems.append(f"{where} must be a finite number, got {value!r}")
        return number
    elif kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    elif kind is int and hasattr(value, "__index__") and not isinstance(value, bool):
        return operator.index(value)
    names = {int: "a whole number", float: "a number", str: "a string"}
    problems.append(f"{where} must be {names[kind]}, got {value!r}")
    return value


def _normalise_bounded(
    value: Any, base: Any, bounds: Sequence[Any], where: str, problems: _Problems
) -> Any:
    before = len(problems)
    value = normalise(value, base, where, problems)
    if len(problems) > before:
        return value
    for bound in bounds:
        match bound:
            case AtLeast(low) if value < low:
                problems.append(f"{where} is too small; expected at least {low}, got {value}")
            case AtMost(high) if value > high:
                problems.append(f"{where} is too large; expected at most {high}, got {value}")
            case Above(low) if not value > low:
                problems.append(f"{where} is too small; expected above {low}, got {value}")
            case Matches(pattern) if not re.fullmatch(pattern, value):
                problems.append(f"{where} must match {pattern!r}, got {value!r}")
    return value


def _normalise_tuple(
    value: Any, members: tuple[Any, ...], where: str, problems: _Problems
) -> tuple[Any, ...]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        problems.append(f"{where} must be a list, got {value!r}")
        return ()
    if members[-1] is Ellipsis:
        members = (members[0],) * len(value)
    elif len(members) != len(value):
        problems.append(
            f"{where} has the wrong length; expected {len(members)}, got {len(value)}: {value!r}"
        )
        return ()
    return tuple(
        normalise(item, annotation, f"{where}[{i}]", problems)
        for i, (item, annotation) in enumerate(zip(value, members, strict=True))
    )


# --- JSON -----------------------------------------------------------------------------------


def read_object(
    text: str | bytes, where: str, *, what: str, version: tuple[str, int]
) -> dict[str, Any]:
    """The JSON object in ``text`` without its version, which is checked.

    Args:
        text: of a file.
        where: the file or field it came from, for the message.
        what: it should describe, for the message.
        version: the field of the version, and the one that is read.

    Raises:
        SpecError: if it is not JSON, not an object, or of another version.
    """
    try:
        data = json.loads(text, object_pairs_hook=_object_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise SpecError(where, f"must be JSON; expected a {what}, got: {error}") from None
    if not isinstance(data, dict):
        raise SpecError(where, f"must be a JSON object, got {type(data).__name__}")
    name, known = version
    found = data.pop(name, None)
    if isinstance(found, int) and found > known:
        raise SpecError(
            where,
            f"{name} is newer than this mixer_spec; expected at most {known}, "
            f"got {found}; upgrade mixer-spec",
        )
    if found is not known:
        raise SpecError(where, f"{name} must be {known}, got {found!r}")
    return data


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"the keys {repeated} twice in one object")
    return found


def _to_data(value: Any) -> Any:
    if isinstance(value, Checked):
        return value.to_data()
    if isinstance(value, tuple):
        return [_to_data(item) for item in value]
    return value


def _from_data(data: Any, annotation: Any, where: str, problems: _Problems) -> Any:
    """The value that ``data`` describes; ``None`` when a problem was noted."""
    if get_origin(annotation) is tuple:
        if not isinstance(data, list):
            problems.append(f"{where or 'top level'} must be a list, got {data!r}")
            return None
        members = get_args(annotation)
        if members[-1] is Ellipsis:
            members = (members[0],) * len(data)
        if len(members) != len(data):
            problems.append(f"{where} must have {len(members)} items, got {len(data)}")
            return None
        pairs = enumerate(zip(data, members, strict=True))
        return tuple(_from_data(d, m, f"{where}[{i}]", problems) for i, (d, m) in pairs)
    classes = [
        c for c in alternatives(annotation) if isinstance(c, type) and issubclass(c, Checked)
    ]
    return _checked_from_data(data, classes, where, problems) if classes else data


def _checked_from_data(
    data: Any, classes: Sequence[type[Checked]], where: str, problems: _Problems
) -> Any:
    place = where or "top level"
    kinds = {c.kind: c for c in classes}
    if not isinstance(data, Mapping):
        problems.append(f"{place} must be an object with a 'kind', got {data!r}")
        return None
    kind = data.get("kind")
    cls = kinds.get(kind) if isinstance(kind, str) else None
    if cls is None:
        problems.append(f"{place}: unknown kind; expected one of {sorted(kinds)}, got {kind!r}")
        return None
    fields = field_types(cls)
    before = len(problems)
    for name in sorted(data.keys() - fields.keys() - {"kind"}, key=str):
        problems.append(f"{place}: unknown field {name!r} of kind {kind!r}")
    for name in [name for name in fields if name not in data]:
        problems.append(f"{place}: missing field {name!r} of kind {kind!r}")
    prefix = f"{where}." if where else ""
    values = {
        name: _from_data(data[name], annotation, prefix + name, problems)
        for name, annotation in fields.items()
        if name in data
    }
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except SpecError as error:
        problems += [f"{place}: {problem}" for problem in error.problems]
        return None
