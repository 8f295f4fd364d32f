"""Gradients and steps of training of a :class:`SpecModel`, on parameters from outside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mixer_spec.training import AdamW, CrossEntropy, Momentum, Optimiser, Sgd

from .model import SpecModel

Slots = Mapping[str, Mapping[str, Tensor]]
"""What an optimiser remembers, by slot and by the weight's canonical name."""

_TORCH_NAMES = {
    "momentum": "momentum_buffer",
    "first_moment": "exp_avg",
    "second_moment": "exp_avg_sq",
}


class _Taps(nn.Module):
    """``forward_taps`` as a module's forward, which is what ``functional_call`` calls."""

    def __init__(self, model: SpecModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        return self.model.forward_taps(inputs, taps)


def tap_gradients(
    model: SpecModel,
    inputs: Tensor,
    cotangents: Mapping[str, Tensor],
    wanted: Sequence[Tensor] = (),
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The gradients of ``sum over taps of sum(cotangent * tap)``; the model stays as it is.

    Args:
        model: whose parameters they are with respect to, whether or not these require gradients.
        inputs: as the model takes them.
        cotangents: tap to tensor of the tap's shape.
        wanted: tensors that ``inputs`` were made of.

    Returns:
        Those of every parameter by name, and those of ``wanted``.
    """
    with torch.enable_grad():
        parameters = {
            name: parameter.detach().requires_grad_()
            for name, parameter in model.named_parameters()
        }
        named = {f"model.{name}": parameter for name, parameter in parameters.items()}
        found = functional_call(_Taps(model), named, (inputs, tuple(cotangents)))
        gradients = torch.autograd.grad(
            [found[tap] for tap in cotangents],
            [*parameters.values(), *wanted],
            list(cotangents.values()),
            materialize_grads=True,
        )
    of_parameters = dict(zip(parameters, gradients, strict=False))
    return of_parameters, list(gradients[len(parameters) :])


def train_step(
    model: SpecModel,
    parameters: Mapping[str, Tensor],
    slots: Slots,
    step: int,
    inputs: Tensor,
    labels: Tensor,
    loss: CrossEntropy,
    optimiser: Optimiser,
) -> float:
    """One step with ``torch.optim``, which changes ``parameters`` and ``slots``; returns the loss.

    Args:
        model: whose forward pass is trained; its own parameters stay as they are.
        parameters: canonical name to tensor that requires gradients.
        slots: what the steps before left; zeros before the first.
        step: how many steps were taken.
        inputs: as the model takes them.
        labels: ``[batch]``.
        loss: what is differentiated.
        optimiser: how the parameters follow the gradients.
    """
    torch_optimiser = torch_optimiser_of(optimiser, parameters)
    for name, parameter in parameters.items():
        remembered = {_TORCH_NAMES[slot]: tensors[name] for slot, tensors in slots.items()}
        torch_optimiser.state[parameter] = {"step": torch.tensor(float(step)), **remembered}
    with torch.enable_grad():
        logits = functional_call(model, dict(parameters), (inputs,))
        value = F.cross_entropy(logits, labels, label_smoothing=loss.label_smoothing)
        value.backward()  # type: ignore[no-untyped-call]
    torch_optimiser.step()
    return value.item()


def torch_optimiser_of(
    optimiser: Optimiser, parameters: Mapping[str, Tensor]
) -> torch.optim.Optimizer:
    """The ``torch.optim`` object of an optimiser, on parameters under their canonical names.

    Example:
        >>> from mixer_spec.training import AdamW
        >>> adamw = AdamW(learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8,
        ...               weight_decay=0.1, decayed=("kernel",))
        >>> head = {"head.kernel": torch.ones(2, 3), "head.bias": torch.ones(3)}
        >>> [group["weight_decay"] for group in torch_optimiser_of(adamw, head).param_groups]
        [0.1, 0.0]
    """
    rate = optimiser.learning_rate
    match optimiser:
        case Sgd():
            return torch.optim.SGD(parameters.values(), lr=rate)
        case Momentum(decay=decay, form=form):
            nesterov = form == "nesterov"
            return torch.optim.SGD(parameters.values(), lr=rate, momentum=decay, nesterov=nesterov)
        case AdamW(decayed=ends):
            groups: list[dict[str, Any]] = [
                {
                    "params": [
                        p for name, p in parameters.items() if name.endswith(ends) is decays
                    ],
                    "weight_decay": optimiser.weight_decay if decays else 0.0,
                }
                for decays in (True, False)
            ]
            betas = (optimiser.beta1, optimiser.beta2)
            return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=optimiser.epsilon)
