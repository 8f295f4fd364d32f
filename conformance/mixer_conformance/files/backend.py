"""A backend that only files connect with the suite: every call becomes a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixer_conformance.measure import Array
from mixer_conformance.precision import PRECISIONS
from mixer_conformance.subject import ByFiles, Violation
from mixer_spec import BackendInfo, ModelSpec
from mixer_spec.backend import Profile
from mixer_spec.training import CrossEntropy, Gradients, Optimiser, TrainState
from mixer_spec.weights import Weights, digest

from .request import Answers, Ask, Kind, Request


class FileBackend(ByFiles):
    """The face of a program that is not here.

    Args:
        info: what it says of itself.
        ask: what becomes of a request.
    """

    def __init__(self, info: BackendInfo, ask: Ask) -> None:
        self._info = info
        self._ask = ask

    def info(self) -> BackendInfo:
        """See :meth:`mixer_spec.backend.Backend.info`."""
        return self._info

    def load(
        self, spec: ModelSpec, weights: Weights, *, profile: Profile = "f32-strict"
    ) -> FileModel:
        """See :meth:`mixer_spec.backend.Backend.load`; nothing is asked yet."""
        return FileModel(spec, weights, profile, self._ask)


class FileModel:
    """A model of such a program.

    Args:
        spec: the architecture.
        weights: canonical name to array.
        profile: the arithmetic that is claimed.
        ask: what becomes of a request.
    """

    def __init__(self, spec: ModelSpec, weights: Weights, profile: Profile, ask: Ask) -> None:
        self._spec = spec
        self._weights = weights
        self._profile = profile
        self._digest = digest(weights)
        self._ask = ask
        self._steps: list[tuple[TrainState, str]] = []
        """Each state that was returned, and the digest of the request that it answered."""

    def forward(self, inputs: Array, taps: Sequence[str] = ()) -> Answers:
        """See :meth:`mixer_spec.backend.Model.forward`."""
        wanted = tuple(tap for tap in self._spec.taps if tap in taps or tap == "logits")
        return self._ask(self._request("forward", {"inputs": inputs}, taps=wanted))

    def export_weights(self) -> Weights:
        """See :meth:`mixer_spec.backend.Model.export_weights`."""
        return self._ask(self._request("export_weights"))

    def vjp(self, inputs: Array, cotangents: Mapping[str, Array]) -> Gradients:
        """See :meth:`mixer_spec.backend.Differentiable.vjp`."""
        given = {f"cotangents.{tap}": array for tap, array in cotangents.items()}
        found = self._ask(self._request("vjp", {"inputs": inputs, **given}))
        self._check("vjp", found, ("weights",), {"inputs": inputs.shape})
        return Gradients(weights=_part(found, "weights"), inputs=found.get("inputs"))

    def train_step(
        self,
        state: TrainState,
        inputs: Array,
        labels: Array,
        *,
        loss: CrossEntropy,
        optimiser: Optimiser,
    ) -> tuple[float, TrainState]:
        """See :meth:`mixer_spec.backend.Trainable.train_step`.

        A program begins with the loaded weights, or goes on from its own answer to another step.
        """
        before = next((digest for known, digest in self._steps if known is state), None)
        if before is None and not self._is_initial(state):
            raise Violation("files cannot ask for a step from such a state", "unsupported")
        request = self._request(
            "train_step",
            {"inputs": inputs, "labels": labels},
            {
                "step": state.step + 1,
                "after": before,
                "loss": loss.to_data(),
                "optimiser": optimiser.to_data(),
                "slots": list(optimiser.slots),
            },
        )
        found = self._ask(request)
        parts = {name: _part(found, name) for name in ("weights", *optimiser.slots)}
        names = {"loss", *(f"{part}.{name}" for part in parts for name in self._weights)}
        if missing := sorted(names - found.keys()):
            raise Violation(f"train_step returned no {missing}", culprit=missing[0])
        self._check("train_step", found, tuple(parts), {"loss": ()})
        after = TrainState(
            step=state.step + 1,
            weights=parts["weights"],
            slots={slot: parts[slot] for slot in optimiser.slots},
        )
        self._steps.append((after, request.digest))
        return float(found["loss"]), after

    def _request(
        self,
        kind: Kind,
        tensors: Answers | None = None,
        settings: Mapping[str, Any] | None = None,
        taps: tuple[str, ...] = (),
    ) -> Request:
        return Request(
            kind=kind,
            profile=self._profile,
            spec=self._spec,
            weights=self._weights,
            weights_digest=self._digest,
            tensors=tensors or {},
            settings=settings or {},
            taps=taps,
        )

    def _check(
        self,
        kind: Kind,
        found: Answers,
        parts: tuple[str, ...],
        others: Mapping[str, tuple[int, ...]],
    ) -> None:
        """Hold shapes and dtype of an answer against the protocol; the parts are as the weights.

        Raises:
            Violation: that names every tensor that is wrong.
        """
        dtype = np.dtype(PRECISIONS[self._profile].dtype)
        shapes = {f"{part}.{name}": w.shape for part in parts for name, w in self._weights.items()}
        wrong = {
            name: f"{name}: expected {dtype.name} {list(shape)}, got {array.dtype.name} "
            f"{list(array.shape)}"
            for name, shape in {**shapes, **others}.items()
            if (array := found.get(name)) is not None
            and (array.dtype != dtype or array.shape != shape)
        }
        if wrong:
            raise Violation(f"{kind} returned {'; '.join(wrong.values())}", culprit=min(wrong))

    def _is_initial(self, state: TrainState) -> bool:
        same = all(
            np.array_equal(state.weights[name], self._weights[name]) for name in self._weights
        )
        return same and not any(
            array.any() for slot in state.slots.values() for array in slot.values()
        )


def _part(answers: Answers, of: str) -> dict[str, Array]:
    """The answers called ``of.*``, by the rest of their names."""
    return {
        name.removeprefix(f"{of}."): array
        for name, array in answers.items()
        if name.startswith(f"{of}.")
    }
