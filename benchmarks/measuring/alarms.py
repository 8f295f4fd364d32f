"""A process that judges right backends one after the other; a line of JSON for each run."""

from __future__ import annotations

import functools
import json
import sys
import time
from typing import Any

from mixer_conformance.audit import Worst, honest_margins
from mixer_spec import load_backend


def main() -> None:
    """Judge what stdin lists: backend, model, seed. Those that follow share oracles and programs."""
    load = functools.cache(load_backend)
    for name, model, seed in json.load(sys.stdin):
        backend = load(name)
        before = time.process_time()
        worst = [of_family(one) for one in honest_margins([backend], [seed], [model])]
        seconds = round(time.process_time() - before, 2)
        line = {"backend": name, "model": model, "seed": seed, "cpu_seconds": seconds}
        print(json.dumps(line | {"worst": worst}), flush=True)


def of_family(worst: Worst) -> dict[str, Any]:
    """What is recorded of one family of cases; only an alarm needs its message."""
    data = worst.to_data()
    names = ("case", "runs", "alarms", "status", "margin", "culprit")
    return {name: data[name] for name in names} | (
        {"message": data["message"]} if worst.alarms else {}
    )


if __name__ == "__main__":
    main()
