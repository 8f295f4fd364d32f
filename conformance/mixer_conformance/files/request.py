"""A request: one call of a backend as data, with a digest that the answer must repeat."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mixer_conformance.measure import Array
from mixer_spec import ModelSpec
from mixer_spec.backend import Profile
from mixer_spec.weights import Weights, digest

Kind = Literal["forward", "export_weights", "vjp", "train_step"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What a program is asked.

    Args:
        kind: the method of the backend's model.
        profile: the arithmetic that is claimed.
        spec: the architecture.
        weights: that the model is loaded with.
        weights_digest: of their names, shapes, dtypes and bytes.
        tensors: the arguments that are arrays.
        settings: the arguments that are not.
        taps: that a forward pass must return; several requests may differ in them alone, and are
            asked as one.
    """

    kind: Kind
    profile: Profile
    spec: ModelSpec
    weights: Weights
    weights_digest: str
    tensors: Mapping[str, Array] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    taps: tuple[str, ...] = ()

    @functools.cached_property
    def digest(self) -> str:
        """64 hexadecimal digits over everything but the taps."""
        content = {
            "kind": self.kind,
            "profile": self.profile,
            "spec": self.spec.fingerprint,
            "weights": self.weights_digest,
            "tensors": digest(self.tensors),
            "settings": self.settings,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


Answers = Mapping[str, Array]
"""What came back: name to array."""

Ask = Callable[[Request], Answers]
"""Somebody who writes a request down, or finds its answer."""
