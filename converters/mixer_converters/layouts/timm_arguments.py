"""The constructor arguments that make a timm model run another function than timm's own."""

from __future__ import annotations

from collections.abc import Callable

from mixer_converters.semantics import Semantics

_GELU = {"tanh": "torch.nn.GELU, approximate='tanh'", "none": "torch.nn.GELU"}


def timm_arguments(runs: Semantics) -> Callable[[Semantics], str]:
    """For a model that runs ``runs`` by default, the arguments that make it run another.

    Example:
        >>> own = Semantics(gelu="none", epsilon=1e-6, gate_epsilon=1e-6)
        >>> google = Semantics(gelu="tanh", epsilon=1e-6, gate_epsilon=1e-6)
        >>> timm_arguments(own)(google)
        "act_layer=functools.partial(torch.nn.GELU, approximate='tanh')"
    """

    def arguments(wanted: Semantics) -> str:
        found = []
        if wanted.gelu != runs.gelu:
            found.append(f"act_layer=functools.partial({_GELU[wanted.gelu]})")
        if wanted.epsilon != runs.epsilon:
            norm = f"functools.partial(torch.nn.LayerNorm, eps={wanted.epsilon:g})"
            found.append(f"norm_layer={norm}")
        return ", ".join(found)

    return arguments
