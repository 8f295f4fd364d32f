"""PyTorch: a spec as an ``nn.Module`` whose ``state_dict`` keys are the canonical names.

Example:
    >>> import torch
    >>> from mixer_spec import families
    >>> spec = families.mixer(image_size=8, patch=4, channels=6, depth=1, token_hidden=5,
    ...                       channel_hidden=7, classes=3)
    >>> model = build(spec)
    >>> model(torch.ones(2, 3, 8, 8)).shape
    torch.Size([2, 3])
    >>> list(model.state_dict())[:3]
    ['stem.kernel', 'stem.bias', 'blocks.0.token_mixing.norm.scale']
"""

from .backend import TorchBackend
from .model import SpecModel, build, export_weights, load_weights

__all__ = ["SpecModel", "TorchBackend", "build", "export_weights", "load_weights"]
