"""One way to load a model into PyTorch, measured in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

import mixer_torch
from mixer_converters import load, save
from mixer_spec import variant
from mixer_spec.weights import initial

CANONICAL, PICKLED = "canonical.safetensors", "weights.pt"


def write(name: str, folder: Path) -> int:
    """Write both files with the same weights; their size in memory."""
    spec = variant(name).spec()
    weights = initial(spec)
    save(folder / CANONICAL, spec, weights, variant=name)
    torch.save({key: torch.from_numpy(array) for key, array in weights.items()}, folder / PICKLED)
    return sum(array.nbytes for array in weights.values())


def canonical(name: str, folder: Path) -> Iterable[Tensor]:
    """The canonical file as a model: spec and weights come from the file alone."""
    file = load(folder / CANONICAL)
    return mixer_torch.build(file.spec, file.weights).state_dict().values()


def safetensors_file(name: str, folder: Path) -> Iterable[Tensor]:
    """The same file through safetensors' own loader."""
    return _into_model(name, safetensors.torch.load_file(folder / CANONICAL))


def torch_mapped(name: str, folder: Path) -> Iterable[Tensor]:
    """PyTorch's file, mapped."""
    return _into_model(name, torch.load(folder / PICKLED, weights_only=True, mmap=True))


def torch_file(name: str, folder: Path) -> Iterable[Tensor]:
    """PyTorch's file, as it is read by default."""
    return _into_model(name, torch.load(folder / PICKLED, weights_only=True))


def _into_model(name: str, state: dict[str, Tensor]) -> Iterable[Tensor]:
    model = mixer_torch.SpecModel(variant(name).spec(), device="meta")
    model.load_state_dict(state, assign=True)
    return model.state_dict().values()


WAYS: dict[str, Callable[[str, Path], Iterable[Tensor]]] = {
    way.__name__: way for way in (canonical, safetensors_file, torch_mapped, torch_file)
}


def measure(way: str, name: str, folder: Path) -> dict[str, Any]:
    """Load, then read every weight once; seconds of both and the growth of memory after both.

    The peak is the kernel's own mark, so that no copy escapes by being short-lived.
    """
    torch.ones(1).sum()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the mark begins here
    before = _memory()
    started = time.perf_counter()
    tensors = list(WAYS[way](name, folder))
    loaded = time.perf_counter()
    for tensor in tensors:
        tensor.sum()
    read = time.perf_counter()
    after = _memory()
    return {
        "load_seconds": loaded - started,
        "read_seconds": read - loaded,
        "anonymous_bytes": after["RssAnon"] - before["RssAnon"],
        "file_bytes": after["RssFile"] - before["RssFile"],
        "peak_bytes": after["VmHWM"] - before["VmRSS"],
    }


def _memory() -> dict[str, int]:
    """The process's memory by the kernel's names, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = (line.partition(":") for line in lines if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, _, value in fields}


def main(way: str, name: str, folder: str) -> None:
    """Print what was measured, in one line of JSON; ``write`` makes the files."""
    found = write(name, Path(folder)) if way == "write" else measure(way, name, Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
