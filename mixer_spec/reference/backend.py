"""The reference behind the backend protocol, so that it can be run and judged like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixer_spec.backend import BackendInfo, Profile, check_photos, check_profile
from mixer_spec.errors import InputError
from mixer_spec.model import ModelSpec
from mixer_spec.preprocess import Preprocessing, preprocess
from mixer_spec.shapes import Image
from mixer_spec.training import CrossEntropy, Gradients, Optimiser, TrainState
from mixer_spec.weights import Weights, validate

from .arithmetic import Arithmetic, Array
from .backward import backward
from .forward import forward
from .training import train_step

_DTYPES: dict[Profile, type[np.floating[Any]]] = {"f32-strict": np.float32, "f64": np.float64}


@dataclass(frozen=True, slots=True)
class ReferenceModel:
    """A spec with weights, run by NumPy."""

    spec: ModelSpec
    weights: Weights
    arithmetic: Arithmetic

    def forward(self, inputs: Array, taps: Sequence[str] = ()) -> Mapping[str, Array]:
        """See :meth:`mixer_spec.backend.Model.forward`."""
        return forward(self.spec, self.weights, inputs, taps, arithmetic=self.arithmetic)

    def vjp(self, inputs: Array, cotangents: Mapping[str, Array]) -> Gradients:
        """See :meth:`mixer_spec.backend.Differentiable.vjp`."""
        return backward(self.spec, self.weights, inputs, cotangents, arithmetic=self.arithmetic)

    def train_step(
        self,
        state: TrainState,
        inputs: Array,
        labels: Array,
        *,
        loss: CrossEntropy,
        optimiser: Optimiser,
    ) -> tuple[float, TrainState]:
        """See :meth:`mixer_spec.backend.Trainable.train_step`."""
        return train_step(
            self.spec,
            state,
            inputs,
            labels,
            loss=loss,
            optimiser=optimiser,
            arithmetic=self.arithmetic,
        )

    def preprocess(self, photos: Array, preprocessing: Preprocessing) -> Array:
        """See :meth:`mixer_spec.backend.Preprocessor.preprocess`."""
        check_photos(photos)
        given = self.spec.input
        if not isinstance(given, Image) or given.channels != 3:
            raise InputError("preprocess", f"only a model of RGB images takes photos, got {given}")
        size = (given.height, given.width)
        return np.stack([preprocess(photo, preprocessing, size) for photo in photos])

    def export_weights(self) -> Weights:
        """See :meth:`mixer_spec.backend.Model.export_weights`."""
        return self.weights


class ReferenceBackend:
    """The NumPy reference as a backend."""

    def info(self) -> BackendInfo:
        """See :meth:`mixer_spec.backend.Backend.info`."""
        return BackendInfo(
            name="reference",
            versions={"numpy": np.__version__},
            device="cpu",
            profiles=("f32-strict", "f64"),
        )

    def load(
        self, spec: ModelSpec, weights: Weights, *, profile: Profile = "f32-strict"
    ) -> ReferenceModel:
        """See :meth:`mixer_spec.backend.Backend.load`."""
        check_profile(self.info(), profile)
        validate(spec, weights)
        return ReferenceModel(spec, weights, Arithmetic(_DTYPES[profile]))
