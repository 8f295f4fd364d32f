"""The pickle inside a PyTorch file, read without executing any of it, and without PyTorch.

A pickle is a program for a small stack machine. Here the instructions that ``torch.save`` writes
for nested dicts of tensors are carried out on plain data, and the few functions and classes that
make tensors stay names; everything else is refused.

Why not ``torch.load(weights_only=True)``: a file can be inspected and converted where PyTorch is
not installed, and its tensors stay mapped. Why not Python's own ``Unpickler`` with a closed
``find_class``: five bytes make it reserve 32 GiB (LONG_BINPUT, whose table is as long as the
number that it is given), and a pickle may set attributes of whatever ``find_class`` returned.
What is read here, ``weights_only=True`` reads too, and to the same bits; a differential test on
mutated files holds it to that (``tests/test_torch_pickle.py``).
"""

from __future__ import annotations

import io
import math
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .contents import BFLOAT16

STORAGES: Mapping[str, np.dtype[Any]] = {
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": BFLOAT16,
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}
"""PyTorch's storage classes, and the dtypes of their values."""

_MOST_STEPS = 2_000_000


Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of values in the zip: their dtype, its member's name, and how many there are."""

    dtype: np.dtype[Any]
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class TensorView:
    """A tensor as a view of a storage, offset and strides counted in values."""

    storage: Storage
    offset: int
    shape: Sizes
    strides: Sizes


class Refused(ValueError):
    """A pickle that is damaged, or does more than make tensors."""


class _Name(str):
    """One of the functions and classes that make tensors."""

    __slots__ = ()


_DICT = _Name("collections.OrderedDict")
_TENSOR = _Name("torch._utils._rebuild_tensor_v2")
_PARAMETER = _Name("torch._utils._rebuild_parameter")
_NAMES = {_DICT, _TENSOR, _PARAMETER, *map(_Name, STORAGES)}


def load(data: bytes, sizes: Mapping[str, int]) -> Any:
    """Nested dicts, lists and tuples of :class:`TensorView`, numbers, strings and None.

    Parts may be in it more than once, as they may be in the memory of whoever saved it.

    Args:
        data: the pickle.
        sizes: bytes of each storage by its key.

    Raises:
        Refused: if the pickle does anything else, is damaged, or reaches beyond a storage.
    """
    try:
        return _Machine(sizes).run(data)
    except Refused:
        raise
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise Refused(f"a pickle that does not add up: {error!r}") from None


class _Machine:
    """The stack, those that wait behind a mark, and what was put aside by number."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self.stack: list[Any] = []
        self.waiting: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, data: bytes) -> Any:
        file = io.BytesIO(data)
        for _ in range(_MOST_STEPS):
            instruction = _INSTRUCTIONS[file.read(1)]
            if instruction.name == "STOP":
                return self.stack.pop()
            if instruction.name == "GLOBAL":  # whose own reader would resolve backslashes
                module, name = (file.readline().decode().removesuffix("\n") for _ in range(2))
                self.name(f"{module}.{name}")
            elif instruction.name in _STEPS:
                argument = instruction.arg.reader(file) if instruction.arg else None
                _STEPS[instruction.name](self, argument)
            else:
                raise Refused(f"the instruction {instruction.name}, which no weights need")
        raise Refused("a pickle of more instructions than any model needs")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.waiting.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        found, self.stack = self.stack, self.waiting.pop()
        return found

    def last(self, count: int) -> list[Any]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def put(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def get(self, number: int) -> None:
        self.push(self.memo[number])

    def name(self, words: str) -> None:
        name = _Name(words)
        if name not in _NAMES:
            raise Refused(f"{name}, which is none of those that make tensors; nothing was executed")
        self.push(name)

    def items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise Refused("entries for what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) not in (str, int) or key in target:
                raise Refused(f"the key {key!r} twice, or no key")
            target[key] = value

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise Refused("values for what is no list")
        target.extend(values)

    def storage(self, _: Any) -> None:
        match self.stack.pop():
            case ("storage", _Name() as kind, str(key), str(), int(size)) if size >= 0:
                found = Storage(STORAGES[kind], str(key), size)
                if self.sizes.get(found.key) != size * found.dtype.itemsize:
                    raise Refused(f"the storage {key!r}, whose values are missing or cut off")
                if self.storages.setdefault(found.key, found) != found:
                    raise Refused(f"the storage {key!r} as two different ones")
                self.push(found)
            case other:
                raise Refused(f"a reference to {str(other)[:60]}")

    def call(self, _: Any) -> None:
        function, arguments = self.last(2)
        self.push(_call(function, arguments))

    def build(self, _: Any) -> None:
        """Attributes of an object: ``state_dict`` hangs its ``_metadata`` on its dict."""
        target, attributes = self.last(2)
        if not isinstance(target, OrderedDict) or not isinstance(attributes, dict):
            raise Refused("attributes of what is no ordered dict")
        self.push(target)


def _call(function: Any, arguments: Any) -> Any:
    """What the few functions that make weights give; no function is executed."""
    if not isinstance(function, _Name):
        raise Refused("a call of what is no function")
    match str(function), arguments:
        case "collections.OrderedDict", ():
            return OrderedDict()
        case (
            "torch._utils._rebuild_tensor_v2",
            (Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), dict()),
        ):
            return _tensor(storage, offset, shape, strides)
        case ("torch._utils._rebuild_parameter", (TensorView() as tensor, bool(), dict())):
            return tensor
    raise Refused(f"a call of {function} with other arguments than torch.save gives it")


def _tensor(storage: Storage, offset: int, shape: Sizes, strides: Sizes) -> TensorView:
    """A view of a storage that lies inside it."""
    sizes = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in sizes):
        raise Refused("a tensor of odd shape")
    pairs = zip(shape, strides, strict=True)
    last = offset + sum((size - 1) * stride for size, stride in pairs)
    # PyTorch takes a stride of 0, which makes any number of values of one; no weights have it.
    if 0 not in shape and (last >= storage.size or math.prod(shape) > storage.size):
        raise Refused(f"a tensor that reaches beyond the {storage.size} values of its storage")
    if len(shape) > 32:
        raise Refused("a tensor of more axes than NumPy has")
    return TensorView(storage, offset, shape, strides)


_INSTRUCTIONS = {one.code.encode("latin-1"): one for one in pickletools.opcodes}

_VALUES = (*("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), "BINUNICODE")

_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    **dict.fromkeys(_VALUES, _Machine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "MARK": _Machine.mark,
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.last(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.last(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.last(3))),
    "SETITEM": lambda machine, _: machine.items(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.items(machine.since_mark()),
    "APPEND": lambda machine, _: machine.append(machine.last(1)),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINPERSID": _Machine.storage,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
