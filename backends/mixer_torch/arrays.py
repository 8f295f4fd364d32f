"""NumPy arrays as tensors and back, on the same memory, bfloat16 included."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

DTYPES = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64))
"""The floating dtypes that both NumPy and PyTorch have."""


class _Alias:
    """The memory of a read-only array, without the flag that makes PyTorch warn of it."""

    def __init__(self, array: NDArray[Any]) -> None:
        interface = array.__array_interface__
        self.owner = array
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def to_tensor(array: NDArray[Any]) -> Tensor:
    """``array`` as a tensor, without a copy if it is contiguous and in native byte order.

    The tensor of a read-only array must not be written to: memory that is mapped read-only would
    end the process.

    Args:
        array: any axes, of a dtype in :data:`DTYPES`.
    """
    if array.dtype == BFLOAT16:
        return to_tensor(array.view(np.int16)).view(torch.bfloat16)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Alias(array)))


def to_array(tensor: Tensor) -> NDArray[Any]:
    """``tensor`` as an array, without a copy if it is in the memory of the CPU.

    Example:
        >>> to_array(torch.ones(2, dtype=torch.bfloat16))
        array([1, 1], dtype=bfloat16)
    """
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return to_array(tensor.view(torch.int16)).view(BFLOAT16)
    array: NDArray[Any] = tensor.numpy()
    return array
