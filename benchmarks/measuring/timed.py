"""One contender, timed in a process of its own beside a matrix product of its framework."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .contender import Contender, task_of


def measure(contender: Contender, repeats: int, products: int) -> dict[str, Any]:
    """Time forward passes and, after each, ``products``; the first of each does not count."""
    logits = contender.forward()
    contender.product()
    forward_seconds, product_seconds = [], []
    for _ in range(repeats):
        forward_seconds.append(_seconds(contender.forward))
        product_seconds += [_seconds(contender.product) for _ in range(products)]
    return {
        "forward_seconds": forward_seconds,
        "product_seconds": product_seconds,
        "logits": logits.tolist(),
    }


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main(
    contender: str, name: str, batch: str, threads: str, repeats: str, products: str, folder: str
) -> None:
    """Print what :func:`measure` found, in one line of JSON.

    Args:
        contender: module and function, as in ``with_torch:plain``.
        name: of the variant.
        batch: number of images.
        threads: of the framework, each on a core of its own.
        repeats: number of forward passes that count.
        products: number of products after each.
        folder: where the ONNX files are.
    """
    # XLA has a thread for each core that the process may use, and no other setting.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    module, _, function = contender.partition(":")
    prepare = getattr(importlib.import_module(f"measuring.{module}"), function)
    task = task_of(name, batch=int(batch), threads=int(threads), folder=Path(folder))
    print(json.dumps(measure(prepare(task), int(repeats), int(products))))


if __name__ == "__main__":
    main(*sys.argv[1:])
