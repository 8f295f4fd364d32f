"""The pickle inside a PyTorch file, read without executing any of it.

A pickle is a program for a small stack machine. Here the instructions that ``torch.save`` writes
for nested dicts of tensors are carried out on plain data, and a class or function that it names
stays a name: only the handful that make tensors mean anything, everything else is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DTYPES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
"""PyTorch's storage classes, by safetensors' names for their dtypes."""

_MOST_STEPS = 2_000_000


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of values in the zip: its dtype, its member's name, and how many there are."""

    dtype: str
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class TensorView:
    """A tensor as a view of a storage, offset and strides counted in values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Refused(ValueError):
    """A pickle that is damaged, or does more than make tensors."""


class _Name(str):
    """A class or function that a pickle names."""

    __slots__ = ()


class _Mark:
    """Where a group of values on the stack begins."""


_MARK = _Mark()


def load(data: bytes) -> Any:
    """Nested dicts, lists and tuples of :class:`TensorView`, numbers, strings and None.

    Raises:
        Refused: if the pickle does anything else, or is damaged.
    """
    try:
        return _Machine().run(data)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Refused(f"a pickle that does not add up: {error!r}") from None


class _Machine:
    """The stack, and what was put aside by number."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
            if count > _MOST_STEPS:
                raise Refused("a pickle of more instructions than any model needs")
            name = instruction.name
            if name == "STOP":
                return self.stack.pop()
            step = _STEPS.get(name)
            if step is None:
                raise Refused(f"the instruction {name}, which no weights need")
            step(self, argument)
        raise Refused("a pickle without an end")

    def since_mark(self) -> list[Any]:
        found = []
        while (value := self.stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def put(self, number: Any) -> None:
        self.memo[int(number)] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def name(self, argument: str) -> None:
        self.push(_Name(argument.replace(" ", ".")))

    def stack_name(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push(_Name(f"{module}.{name}"))

    def tuple(self, count: int | None) -> None:
        values = self.since_mark() if count is None else [self.stack.pop() for _ in range(count)]
        self.push(tuple(values if count is None else values[::-1]))

    def items(self, many: bool) -> None:
        values = self.since_mark() if many else [self.stack.pop(), self.stack.pop()][::-1]
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise Refused("entries for what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int) or key in target:
                raise Refused(f"the key {key!r} twice, or no key")
            target[key] = value

    def append(self, many: bool) -> None:
        values = self.since_mark() if many else [self.stack.pop()]
        target = self.stack[-1]
        if not isinstance(target, list):
            raise Refused("values for what is no list")
        target.extend(values)

    def storage(self, _: Any) -> None:
        match self.stack.pop():
            case ("storage", _Name() as kind, str(key), str(), int(size)):
                dtype = DTYPES.get(kind.removeprefix("torch."))
                if dtype is None or size < 0:
                    raise Refused(f"a storage of {kind}")
                self.push(Storage(dtype, str(key), size))
            case other:
                raise Refused(f"a reference to {str(other)[:60]}")

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name):
            raise Refused("a call of what is no function")
        self.push(_call(function, arguments))

    def build(self, _: Any) -> None:
        """Attributes of an object: ``state_dict`` hangs its ``_metadata`` on its dict."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise Refused("attributes of what is no dict")


def _call(function: str, arguments: Any) -> Any:
    """What the few functions that make weights give; no function is executed."""
    match function, arguments:
        case "collections.OrderedDict", ():
            return {}
        case (
            "torch._utils._rebuild_tensor_v2",
            (Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), dict(), *_),
        ):
            sizes = (offset, *shape, *strides)
            if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in sizes):
                raise Refused("a tensor of odd shape")
            return TensorView(storage, offset, shape, strides)
        case ("torch._utils._rebuild_parameter", (TensorView() as tensor, bool(), dict())):
            return tensor
    raise Refused(
        f"a call of {function}, which is not one of those that make tensors; nothing was executed"
    )


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, argument: None),
    **dict.fromkeys(
        (
            *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
            *("BINUNICODE", "SHORT_BINUNICODE"),
        ),
        lambda machine, argument: machine.push(argument),
    ),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "MARK": lambda machine, _: machine.push(_MARK),
    "TUPLE": lambda machine, _: machine.tuple(None),
    "TUPLE1": lambda machine, _: machine.tuple(1),
    "TUPLE2": lambda machine, _: machine.tuple(2),
    "TUPLE3": lambda machine, _: machine.tuple(3),
    "SETITEM": lambda machine, _: machine.items(False),
    "SETITEMS": lambda machine, _: machine.items(True),
    "APPEND": lambda machine, _: machine.append(False),
    "APPENDS": lambda machine, _: machine.append(True),
    "BINGET": lambda machine, number: machine.push(machine.memo[number]),
    "LONG_BINGET": lambda machine, number: machine.push(machine.memo[number]),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "BINPERSID": _Machine.storage,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
