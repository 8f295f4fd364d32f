"""One ONNX Runtime session, fed and read in the spec's axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from mixer_converters.onnx_input import InputLayout

Array = NDArray[Any]

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
}


class Session:
    """A graph ready to run on the CPU, with as many threads as ONNX Runtime sees fit.

    Args:
        graph: the path of an ONNX file, or a serialised model.
        input_layout: the axes of its images; ``None`` for a sequence.
        outside: initializers that the graph only names; their memory is used in place.
    """

    def __init__(
        self,
        graph: str | bytes,
        input_layout: InputLayout | None,
        outside: Mapping[str, Array] | None = None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; they are raised as well
        values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(array)
            for name, array in (outside or {}).items()
        }
        if values:
            options.add_external_initializers(list(values), list(values.values()))
        self._outside = values  # the session points into them
        self._input_layout = input_layout
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )

    def run(self, inputs: Array, outputs: Sequence[str]) -> dict[str, Array]:
        """The outputs asked for, by name.

        Args:
            inputs: ``[batch, height, width, rgb]``, ``[batch, token, channel]`` or ids
                ``[batch, token]``.
            outputs: names of the graph's outputs.
        """
        (entering,) = self._session.get_inputs()
        if self._input_layout == "NCHW":
            inputs = inputs.transpose(0, 3, 1, 2)
        fed = {entering.name: np.ascontiguousarray(inputs, _DTYPES[entering.type])}
        return dict(zip(outputs, self._session.run(outputs, fed), strict=True))
