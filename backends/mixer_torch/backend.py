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
from mixer_spec.weights import Weights

from .arrays import to_array, to_tensor
from .model import SpecModel, assemble, export_weights

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
        parameter = next(self.module.parameters())
        with torch.inference_mode(), strict_arithmetic(parameter.device):
            tensor = _as_pytorch_expects(inputs).to(parameter.device)
            if tensor.is_floating_point():
                tensor = tensor.to(parameter.dtype)
            found = self.module.forward_taps(tensor, taps)
        return {tap: to_array(x) for tap, x in found.items()}

    def export_weights(self) -> Weights:
        """See :meth:`mixer_spec.backend.Model.export_weights`; the arrays are read-only."""
        found = {}
        for name, array in export_weights(self.module).items():
            found[name] = array.astype(self._dtypes[name], copy=False)
            found[name].flags.writeable = False
        return found


def _as_pytorch_expects(inputs: NDArray[Any]) -> torch.Tensor:
    """Images with their channels first, as a view; ids as int64; vectors as they are."""
    if np.issubdtype(inputs.dtype, np.integer):
        return torch.from_numpy(inputs.astype(np.int64))
    tensor = to_tensor(inputs)
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


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
