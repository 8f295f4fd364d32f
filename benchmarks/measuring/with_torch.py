"""The PyTorch contenders, ready to run."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import mixer_torch

from . import plain_family
from .contender import PRODUCT, Contender, Task
from .plain_torch import PlainMixer, state_dict
from .sizes import sizes_of


def backend(task: Task) -> Contender:
    """The module of the torch backend."""
    return _contender(mixer_torch.build(task.spec, task.weights), task)


def plain(task: Task) -> Contender:
    """The plain transposing module."""
    sizes = sizes_of(task.spec)
    module = PlainMixer(sizes)
    module.load_state_dict(state_dict(task.weights, sizes.depth))
    return _contender(module, task)


def family(task: Task) -> Contender:
    """The plain module of a relative of the Mixer."""
    module = plain_family.MODELS[task.name]()
    module.load_state_dict(plain_family.state_dict(task.weights, module))
    return _contender(module, task)


def _contender(module: nn.Module, task: Task) -> Contender:
    torch.set_num_threads(task.threads)
    module.eval()
    images = torch.from_numpy(task.images.transpose(0, 3, 1, 2).copy())
    rows, inner, columns = PRODUCT
    left, right = torch.rand(rows, inner), torch.rand(inner, columns)

    def forward() -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = module(images).numpy()
        return logits

    return Contender(forward, lambda: left @ right)
