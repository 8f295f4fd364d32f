"""One ONNX file made ready to run, in a process of its own."""

from __future__ import annotations

import json
import sys
import time

import onnxruntime


def main(path: str, threads: str) -> None:
    """Print how long ONNX Runtime takes from the file's name to a session, in one line of JSON."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    started = time.perf_counter()
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    print(json.dumps(time.perf_counter() - started))


if __name__ == "__main__":
    main(*sys.argv[1:])
