"""The ONNX contenders: one file each, written beforehand, run by ONNX Runtime."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from .contender import PRODUCT, Contender, Task, task_of

OURS, DYNAMO, TORCHSCRIPT = "ours.onnx", "torch_dynamo.onnx", "torch_torchscript.onnx"
EXTERNAL, DYNAMO_INLINE = "external.onnx", "dynamo_inline.onnx"


def ours(task: Task) -> Contender:
    """The file that ``export_onnx`` writes."""
    return _contender(OURS, task)


def dynamo(task: Task) -> Contender:
    """The file that ``torch.onnx.export(dynamo=True)`` writes of our own module."""
    return _contender(DYNAMO, task)


def torchscript(task: Task) -> Contender:
    """The file that ``torch.onnx.export(dynamo=False)`` writes of our own module."""
    return _contender(TORCHSCRIPT, task)


def _contender(name: str, task: Task) -> Contender:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    model = _session(str(task.folder / name), options)
    product = _session(_product(), options)
    (pixels,) = (value.name for value in model.get_inputs())
    images = task.images.transpose(0, 3, 1, 2).copy()
    left = np.ones(PRODUCT[:2], np.float32)
    return Contender(
        lambda: np.asarray(model.run(None, {pixels: images})[0]),
        lambda: product.run(None, {"left": left}),
    )


def _session(graph: str | bytes, options: Any) -> Any:
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _product() -> bytes:
    """A graph of one product, whose right operand is a weight as in the models."""
    rows, inner, columns = PRODUCT
    left = ir.val("left", ir.DataType.FLOAT, (rows, inner))
    weight = ir.Tensor(np.ones((inner, columns), np.float32), name="right")
    right = ir.val("right", const_value=weight)
    node = ir.node("MatMul", (left, right))
    out = node.outputs[0]
    out.name, out.dtype, out.shape = "out", ir.DataType.FLOAT, ir.Shape((rows, columns))
    graph = ir.Graph(
        [left], [out], nodes=[node], initializers=[right], opset_imports={"": 20}, name="product"
    )
    serialised: bytes = ir.to_proto(ir.Model(graph, ir_version=9)).SerializeToString()
    return serialised


def write_files(task: Task) -> None:
    """Write the file of each contender; all have opset 20 and a free batch."""
    import torch

    import mixer_torch
    from mixer_converters.onnx_export import export_onnx

    export_onnx(task.spec, task.weights, task.folder / OURS)
    export_onnx(task.spec, task.weights, task.folder / EXTERNAL, placing="external")
    module = mixer_torch.build(task.spec, task.weights).eval().requires_grad_(False)
    images = torch.from_numpy(task.images.transpose(0, 3, 1, 2).copy())
    named: Any = {"input_names": ["pixel_values"], "output_names": ["logits"], "opset_version": 20}
    for file, external in ((DYNAMO, True), (DYNAMO_INLINE, False)):
        torch.onnx.export(
            module,
            (images,),
            task.folder / file,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=external,
            verbose=False,
            **named,
        )
    torch.onnx.export(
        module,
        (images,),
        str(task.folder / TORCHSCRIPT),
        dynamo=False,
        dynamic_axes={"pixel_values": {0: "batch"}, "logits": {0: "batch"}},
        **named,
    )


if __name__ == "__main__":
    write_files(task_of(sys.argv[1], batch=2, threads=1, folder=Path(sys.argv[2])))
