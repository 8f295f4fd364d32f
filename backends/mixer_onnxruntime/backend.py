"""The backend protocol on ONNX Runtime."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from mixer_converters.onnx_build import graph_and_weights, preprocessing_graph
from mixer_converters.onnx_input import default_layout
from mixer_spec.backend import BackendInfo, Profile, check_inputs, check_photos, check_profile
from mixer_spec.model import ModelSpec
from mixer_spec.preprocess import Preprocessing
from mixer_spec.weights import Weights, validate

from .file import OnnxFileModel, load_onnx
from .session import Session


class OnnxRuntimeModel:
    """A spec with weights, run by ONNX Runtime through the graph that the exporter writes.

    There are at most two sessions, each made when it is first needed: one with the logits alone,
    which ONNX Runtime may optimise freely, and one with every tap.

    Args:
        spec: the architecture.
        weights: canonical name to array.
    """

    def __init__(self, spec: ModelSpec, weights: Weights) -> None:
        self.spec = spec
        self._weights = weights

    def forward(self, inputs: NDArray[Any], taps: Sequence[str] = ()) -> Mapping[str, NDArray[Any]]:
        """See :meth:`mixer_spec.backend.Model.forward`."""
        check_inputs(self.spec, inputs, taps)
        session = self._tapped if set(taps) - {"logits"} else self._plain
        return session.run(inputs, list(dict.fromkeys([*taps, "logits"])))

    def preprocess(self, photos: NDArray[Any], preprocessing: Preprocessing) -> NDArray[Any]:
        """See :meth:`mixer_spec.backend.Preprocessor.preprocess`."""
        check_photos(photos)
        session = Session(preprocessing_graph(self.spec, preprocessing), None)
        (pixels,) = session.run(photos, ["pixel_values"]).values()
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))

    def export_weights(self) -> Weights:
        """See :meth:`mixer_spec.backend.Model.export_weights`."""
        return self._weights

    @functools.cached_property
    def _plain(self) -> Session:
        return self._session(())

    @functools.cached_property
    def _tapped(self) -> Session:
        return self._session(self.spec.taps)

    def _session(self, taps: Sequence[str]) -> Session:
        graph, arrays = graph_and_weights(self.spec, self._weights, taps=taps)
        return Session(graph, default_layout(self.spec.input), arrays)


class OnnxRuntimeBackend:
    """ONNX Runtime's CPU provider as a backend."""

    def info(self) -> BackendInfo:
        """See :meth:`mixer_spec.backend.Backend.info`."""
        return BackendInfo(
            name="onnxruntime",
            versions={"onnxruntime": onnxruntime.__version__},
            device="cpu",
            profiles=("f32-strict",),
        )

    def load(
        self, spec: ModelSpec, weights: Weights, *, profile: Profile = "f32-strict"
    ) -> OnnxRuntimeModel:
        """See :meth:`mixer_spec.backend.Backend.load`."""
        check_profile(self.info(), profile)
        validate(spec, weights)
        return OnnxRuntimeModel(spec, weights)

    def load_file(self, path: Path) -> OnnxFileModel:
        """Open an exported file, as ``mixer-spec predict`` asks for.

        Raises:
            FileError: if it was not exported by mixer_spec, or its weights are not those it was
                exported with.
        """
        return load_onnx(path)
