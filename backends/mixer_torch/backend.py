"""PyTorch behind the backend protocol: NumPy in, NumPy out, strict arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixer_spec.backend import BackendInfo, Profile, check_inputs, check_profile
from mixer_spec.errors import InputError
from mixer_spec.model import ModelSpec
from mixer_spec.training import (
    CrossEntropy,
    Gradients,
    Optimiser,
    TrainState,
    check_cotangents,
    check_labels,
    check_state,
)
from mixer_spec.weights import Weights

from .arrays import to_array, to_tensor
from .model import SpecModel, assemble, export_weights
from .training import tap_gradients, train_step

_DTYPES: Mapping[Profile, torch.dtype] = {"f32-strict": torch.float32, "f64": torch.float64}


@contextmanager
def strict_arithmetic(device: torch.device) -> Iterator[None]:
    """Products in IEEE arithmetic: no TF32, no bfloat16, no autocast; restores what was set.

    The precision of products is a setting of the whole process, so other threads see it too.
    """
    onednn: Any = torch.backends.mkldnn  # its settings are made at run time
    cudnn: Any = torch.backends.cudnn
    settings = (torch.backends.cuda.matmul, cudnn.conv, onednn.matmul, onednn.conv)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


class TorchModel:
    """A :class:`SpecModel` behind the protocol; made by :meth:`TorchBackend.load`."""

    def __init__(self, module: SpecModel, dtypes: Mapping[str, np.dtype[Any]]) -> None:
        self.module = module
        self._dtypes = dtypes

    def forward(self, inputs: NDArray[Any], taps: Sequence[str] = ()) -> Mapping[str, NDArray[Any]]:
        """See :meth:`mixer_spec.backend.Model.forward`."""
        check_inputs(self.module.spec, inputs, taps)
        with torch.inference_mode(), strict_arithmetic(self._device):
            found = self.module.forward_taps(_channels_first(self._tensor(inputs)), taps)
        return {tap: to_array(x) for tap, x in found.items()}

    def vjp(self, inputs: NDArray[Any], cotangents: Mapping[str, NDArray[Any]]) -> Gradients:
        """See :meth:`mixer_spec.backend.Differentiable.vjp`."""
        check_inputs(self.module.spec, inputs)
        check_cotangents(self.module.spec, len(inputs), cotangents)
        tensor = self._tensor(inputs)
        wanted = [tensor.requires_grad_()] if tensor.is_floating_point() else []
        with torch.enable_grad(), strict_arithmetic(self._device):
            of_parameters, of_inputs = tap_gradients(
                self.module,
                _channels_first(tensor),
                {tap: self._tensor(cotangent) for tap, cotangent in cotangents.items()},
                wanted,
            )
        return Gradients(
            weights={name: to_array(gradient) for name, gradient in of_parameters.items()},
            inputs=to_array(of_inputs[0]) if wanted else None,
        )

    def train_step(
        self,
        state: TrainState,
        inputs: NDArray[Any],
        labels: NDArray[Any],
        *,
        loss: CrossEntropy,
        optimiser: Optimiser,
    ) -> tuple[float, TrainState]:
        """See :meth:`mixer_spec.backend.Trainable.train_step`."""
        check_state(self.module.spec, optimiser, state)
        check_inputs(self.module.spec, inputs)
        check_labels(self.module.spec, len(inputs), labels)
        parameters = {
            name: self._tensor(array).clone().requires_grad_()
            for name, array in state.weights.items()
        }
        slots = {
            slot: {name: self._tensor(array).clone() for name, array in arrays.items()}
            for slot, arrays in state.slots.items()
        }
        with strict_arithmetic(self._device):
            value = train_step(
                self.module,
                parameters,
                slots,
                state.step,
                _channels_first(self._tensor(inputs)),
                self._tensor(labels),
                loss,
                optimiser,
            )
        return value, TrainState(
            step=state.step + 1,
            weights={name: to_array(tensor) for name, tensor in parameters.items()},
            slots={
                slot: {name: to_array(tensor) for name, tensor in tensors.items()}
                for slot, tensors in slots.items()
            },
        )

    def export_weights(self) -> Weights:
        """See :meth:`mixer_spec.backend.Model.export_weights`; the arrays are read-only."""
        found = {}
        for name, array in export_weights(self.module).items():
            found[name] = array.astype(self._dtypes[name], copy=False)
            found[name].flags.writeable = False
        return found

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        """On the model's device and in its dtype; whole numbers as int64."""
        if np.issubdtype(array.dtype, np.integer):
            return torch.from_numpy(array.astype(np.int64)).to(self._device)
        return to_tensor(array).to(self._device, next(self.module.parameters()).dtype)


def _channels_first(inputs: torch.Tensor) -> torch.Tensor:
    """Images as the module takes them, as a view; sequences as they are."""
    return inputs.permute(0, 3, 1, 2) if inputs.ndim == 4 else inputs


class TorchBackend:
    """PyTorch as a backend.

    Args:
        device: where it computes, as in ``torch.device``: ``"cpu"``, ``"cuda:1"``.

    Raises:
        InputError: if PyTorch cannot compute there.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        try:
            self._device = torch.device(device)
            torch.zeros(1, device=self._device).cpu()
        except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
            reason = str(error).partition("\n")[0]
            raise InputError(
                "TorchBackend",
                f"unusable device; expected one that PyTorch can compute on, got {device!r}: "
                f"{reason}",
            ) from None

    def info(self) -> BackendInfo:
        """See :meth:`mixer_spec.backend.Backend.info`."""
        return BackendInfo(
            name="torch",
            versions={"torch": torch.__version__},
            device=str(self._device),
            profiles=tuple(_DTYPES),
        )

    def load(
        self, spec: ModelSpec, weights: Weights, *, profile: Profile = "f32-strict"
    ) -> TorchModel:
        """See :meth:`mixer_spec.backend.Backend.load`; float32 arrays are not copied on the CPU."""
        check_profile(self.info(), profile)
        module = assemble(spec, weights, device=self._device, dtype=_DTYPES[profile])
        module.requires_grad_(False).eval()
        return TorchModel(module, {name: array.dtype for name, array in weights.items()})
