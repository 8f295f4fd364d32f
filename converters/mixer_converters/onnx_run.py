"""Running a graph here: by ONNX Runtime, or by ONNX's own reference where that has no kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from mixer_spec.errors import InputError

_REFERENCE_BYTES = 20_000_000  # ONNX's reference is for small models


class OnnxRun:
    """A graph ready to run, fed in the spec's axes.

    Args:
        graph: a path, or a serialised model.

    Raises:
        InputError: if ONNX Runtime has no kernel for the graph, as for bfloat16 on a CPU, and the
            graph is too large for ONNX's reference.
    """

    def __init__(self, graph: Path | bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        given = str(graph) if isinstance(graph, Path) else graph
        self.engine = f"onnxruntime {onnxruntime.__version__}"
        try:
            session = onnxruntime.InferenceSession(
                given, options, providers=["CPUExecutionProvider"]
            )
        except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
            size = graph.stat().st_size if isinstance(graph, Path) else len(graph)
            if size > _REFERENCE_BYTES:
                raise InputError(
                    "ONNX Runtime", f"cannot run this graph on a CPU; got: {error}"
                ) from None
            from onnx.reference import ReferenceEvaluator

            self._session: Any = ReferenceEvaluator(given)
            self.engine = f"onnx.reference {onnx.__version__}"
            (entering,) = self._session.proto_.graph.input
            dims = [d.dim_value for d in entering.type.tensor_type.shape.dim]
            self._name, self._shape = entering.name, dims
        else:
            self._session = session
            (entering,) = session.get_inputs()
            self._name, self._shape = entering.name, list(entering.shape)

    def __call__(self, inputs: NDArray[Any], outputs: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        """The outputs by name; images are ``[batch, height, width, rgb]`` whatever the graph has."""
        if self._name == "pixel_values" and tuple(self._shape[1:]) != inputs.shape[1:]:
            inputs = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
        if np.issubdtype(inputs.dtype, np.floating):
            inputs = inputs.astype(np.float32)
        found = self._session.run(list(outputs), {self._name: inputs})
        return dict(zip(outputs, found, strict=True))
