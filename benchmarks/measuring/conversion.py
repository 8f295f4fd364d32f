"""A file copied or converted in a process of its own, which ends when the disk has the bytes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

_PAUSE = 0.005


def copy(source: str, target: str) -> None:
    """Copy a file and wait for the disk, as every write of ours does."""
    shutil.copyfile(source, target)
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def convert(source: str, target: str, layout: str) -> None:
    """Convert a file, and print the most anonymous memory that was seen, in one line of JSON."""
    from mixer_converters import convert

    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(_PAUSE):
            most = max(most, _anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        convert(source, target, to=layout)
    finally:
        done.set()
        watching.join()
    print(json.dumps({"anonymous_bytes": max(most, _anonymous())}))


def write(variant: str, target: str) -> None:
    """Write a variant's initial weights as a canonical file."""
    import mixer_spec
    from mixer_converters import save
    from mixer_spec.weights import initial

    spec = mixer_spec.variant(variant).spec()
    save(target, spec, initial(spec), variant=variant)


def _anonymous() -> int:
    """Bytes of memory that are of no file, at this moment."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
    return int(found) * 1024


ACTIONS: dict[str, Callable[..., None]] = {"copy": copy, "convert": convert, "write": write}


if __name__ == "__main__":
    ACTIONS[sys.argv[1]](*sys.argv[2:])
