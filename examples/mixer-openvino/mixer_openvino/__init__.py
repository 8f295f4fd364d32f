"""A backend of mixer-spec that runs the exported ONNX graph in OpenVINO, on the CPU."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from mixer_converters.onnx_export import export_onnx
from mixer_spec import BackendInfo, ModelSpec
from mixer_spec.backend import Profile, check_inputs, check_profile
from mixer_spec.shapes import Image, TokenIds
from mixer_spec.weights import Weights, validate

Array = np.ndarray[Any, Any]

PRECISION: Mapping[Profile, str] = {"f32-strict": "f32", "bf16": "bf16"}
"""What the plugin is told. Untold, it computes in bfloat16 wherever the processor can."""


class Model:
    """A spec with its weights as at most two compiled graphs, each made when first needed."""

    def __init__(self, spec: ModelSpec, weights: Weights, precision: str) -> None:
        self._spec = spec
        self._hints = {"INFERENCE_PRECISION_HINT": precision, "EXECUTION_MODE_HINT": "ACCURACY"}
        self._weights = {name: array.copy() for name, array in weights.items()}

    def forward(self, inputs: Array, taps: Sequence[str] = ()) -> Mapping[str, Array]:
        """See :meth:`mixer_spec.backend.Model.forward`."""
        check_inputs(self._spec, inputs, taps)
        if isinstance(self._spec.input, Image):  # the graph takes [batch, rgb, height, width]
            inputs = inputs.transpose(0, 3, 1, 2)
        dtype = np.int64 if isinstance(self._spec.input, TokenIds) else np.float32
        compiled = self._tapped if set(taps) - {"logits"} else self._plain
        # A request of its own for each call, so that threads do not share one's buffers.
        found = compiled.create_infer_request().infer([np.ascontiguousarray(inputs, dtype)])
        return {tap: np.array(found[tap]) for tap in {*taps, "logits"}}

    def export_weights(self) -> Weights:
        """See :meth:`mixer_spec.backend.Model.export_weights`."""
        return self._weights

    @functools.cached_property
    def _plain(self) -> openvino.CompiledModel:
        return self._compiled(())

    @functools.cached_property
    def _tapped(self) -> openvino.CompiledModel:
        return self._compiled(self._spec.taps)

    def _compiled(self, taps: Sequence[str]) -> openvino.CompiledModel:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(self._spec, self._weights, path, taps=taps, placing="inline")
            return openvino.Core().compile_model(path, "CPU", self._hints)


class Backend:
    """What ``--backend openvino`` finds."""

    def info(self) -> BackendInfo:
        """See :meth:`mixer_spec.backend.Backend.info`."""
        able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return BackendInfo(
            name="openvino",
            versions={"openvino": version("openvino")},
            device="cpu",
            profiles=("f32-strict", "bf16") if "BF16" in able else ("f32-strict",),
        )

    def load(self, spec: ModelSpec, weights: Weights, *, profile: Profile = "f32-strict") -> Model:
        """See :meth:`mixer_spec.backend.Backend.load`."""
        check_profile(self.info(), profile)
        validate(spec, weights)
        return Model(spec, weights, PRECISION[profile])
