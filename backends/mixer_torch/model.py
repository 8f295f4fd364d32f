"""A spec as one ``nn.Module``, and its weights in and out of NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mixer_spec.errors import InputError, WeightsError
from mixer_spec.model import ModelSpec
from mixer_spec.weights import Weights, initial, validate

from .arrays import DTYPES, to_array, to_tensor
from .modules import module_of


class SpecModel(nn.Module):
    """The model that ``spec`` describes, with the paper's initial values.

    Submodules and parameters stand under their canonical names (``blocks.0.token_mixing``,
    ``head.kernel``) and kernels are stored in canonical orientation.

    Args:
        spec: the architecture.
        device: as in ``nn.Linear``; nothing is allocated on ``"meta"``.
        dtype: as in ``nn.Linear``.
    """

    stem: nn.Module
    norm: nn.Module
    pool: nn.Module
    head: nn.Module

    def __init__(
        self,
        spec: ModelSpec,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self._taps = spec.taps
        self.register_module("stem", None)  # so that it stands in front of the blocks
        self.transitions = nn.ModuleDict()
        self.blocks = nn.ModuleList(nn.Sequential() for _ in range(spec.depth))
        self._transition_before: dict[int, str] = {}  # index of a stage's first block -> its key
        first = 0
        for number, stage in enumerate(spec.stages):
            if stage.transition:
                self.transitions[str(number)] = nn.Sequential()
                self._transition_before[first] = str(number)
            first += stage.depth
        for step in spec.steps:
            for node in step.nodes:
                parent, _, name = node.path.rpartition(".")
                self.get_submodule(parent).add_module(name, module_of(node))
        device = torch.get_default_device() if device is None else torch.device(device)
        self.to(dtype or torch.get_default_dtype())
        if device.type != "meta":
            self.to_empty(device=device)
            self.reset_parameters()

    def reset_parameters(self, seed: int = 0) -> None:
        """Draw the paper's initial values; see :func:`mixer_spec.weights.initial`."""
        load_weights(self, initial(self.spec, seed=seed))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``[batch, class]`` of images ``[batch, rgb, height, width]``, or of sequences.

        Raises:
            InputError: if the inputs do not have the spec's shape.
        """
        x = self.stem(inputs)
        for index, block in enumerate(self.blocks):
            x = block(self._entering(index, x))
        logits: Tensor = self.head(self.pool(self.norm(x)))
        return logits

    def forward_taps(self, inputs: Tensor, taps: Sequence[str] = ()) -> dict[str, Tensor]:
        """``"logits"`` and the intermediates called ``taps``, each as it leaves its module.

        Hooks of the modules inside a block run; those of the model and of whole blocks do not.

        Raises:
            InputError: if a tap is not one of the spec's, or the inputs have another shape.
        """
        unknown = [tap for tap in taps if tap not in self._taps]
        if unknown:
            some = list(self._taps[:3])
            raise InputError("taps", f"unknown taps; expected names like {some}, got {unknown}")
        wanted = {*taps, "logits"}
        return {tap: x for tap, x in self._stream(inputs) if tap in wanted}

    def _stream(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Every tap with its value: the computation of :meth:`forward`, one residual at a time."""
        x = self.stem(x)
        yield "stem", x
        for index, block in enumerate(self.blocks):
            x = self._entering(index, x)
            for name, residual in block.named_children():
                x = residual(x)
                yield f"blocks.{index}.{name}", x
        for tap, module in (("norm", self.norm), ("pooled", self.pool), ("logits", self.head)):
            x = module(x)
            yield tap, x

    def _entering(self, index: int, x: Tensor) -> Tensor:
        """What enters block ``index``: ``x``, after the transition if a stage begins there."""
        key = self._transition_before.get(index)
        return x if key is None else self.transitions[key](x)


def build(
    spec: ModelSpec,
    weights: Weights | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> SpecModel:
    """The model of ``spec`` with ``weights``, or with the paper's initial values.

    Writable arrays that are on the right device in the right dtype become the parameters
    themselves, without a copy; read-only ones are copied, so that the model can be trained.

    Args:
        spec: the architecture.
        weights: canonical name to array.
        device: where the parameters are put; the default device if ``None``.
        dtype: of the parameters; that of the arrays if ``None``, PyTorch's default if there are none.

    Raises:
        WeightsError: if the weights do not fit the spec.

    Example:
        >>> import numpy as np
        >>> from mixer_spec import families
        >>> from mixer_spec.weights import initial
        >>> spec = families.resmlp(image_size=8, patch=4, channels=6, depth=1, classes=3)
        >>> weights = initial(spec, seed=1)
        >>> model = build(spec, weights)
        >>> np.shares_memory(model.head.kernel.detach().numpy(), weights["head.kernel"])
        True
    """
    if weights is None:
        return SpecModel(spec, device=device, dtype=dtype)
    model = assemble(spec, weights, device=device, dtype=dtype)
    for name, parameter in model.named_parameters():
        if not weights[name].flags.writeable:
            parameter.data = parameter.data.clone()
    return model


def assemble(
    spec: ModelSpec,
    weights: Weights,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> SpecModel:
    """The model of ``spec`` on the memory of ``weights``, also where it is read-only.

    Such a model may run, but must not be trained.
    """
    device = torch.get_default_device() if device is None else device
    model = SpecModel(spec, device="meta")
    tensors = {name: t.to(device, dtype) for name, t in _tensors(spec, weights).items()}
    model.load_state_dict(tensors, assign=True)
    return model


def load_weights(model: SpecModel, weights: Weights) -> None:
    """Copy ``weights`` into the parameters, which keep their device and dtype.

    Args:
        model: any model but one on the meta device; that one :func:`build` makes.
        weights: canonical name to array.

    Raises:
        WeightsError: if the weights do not fit the model's spec.
    """
    model.load_state_dict(_tensors(model.spec, weights))


def _tensors(spec: ModelSpec, weights: Weights) -> dict[str, Tensor]:
    """The weights as tensors on the same memory, after every check."""
    for name, array in weights.items():
        if not isinstance(array, np.ndarray):
            rule = "weights must be NumPy arrays; tensors go through load_state_dict"
            raise WeightsError("weights", f"{rule}; {name} is a {type(array).__name__}")
    validate(spec, weights)
    problems = [
        f"+ {name} {array.dtype} (wrong dtype; expected one of {[d.name for d in DTYPES]})"
        for name, array in weights.items()
        if array.dtype.newbyteorder("=") not in DTYPES
    ]
    if problems:
        raise WeightsError("weights", problems)
    return {name: to_tensor(array) for name, array in weights.items()}


def export_weights(model: SpecModel) -> dict[str, NDArray[Any]]:
    """The parameters under their canonical names, bit for bit, in their own dtype.

    On the CPU the arrays share the model's memory: copy them before the model is trained on.
    """
    return {name: to_array(tensor) for name, tensor in model.state_dict().items()}
