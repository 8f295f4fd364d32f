"""Which function weights are of: as the file says, or its published name, or whoever has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mixer_spec.blocks import GeluForm
from mixer_spec.errors import InputError, SpecError
from mixer_spec.layers import Gelu
from mixer_spec.model import ModelSpec
from mixer_spec.shapes import ImageSize

from .containers import Contents
from .layouts import Layout
from .layouts.layout import known_sizes
from .provenance import Published
from .semantics import NEUTRAL, Semantics, semantics_of


def trained_semantics(
    spec: ModelSpec,
    layout: Layout | None,
    published: Published | None,
    contents: Contents,
    gelu: GeluForm | None,
    epsilon: float | None,
    where: str,
) -> tuple[Semantics, list[str]]:
    """The function that the weights were trained with, and how that is known.

    Args:
        spec: the architecture that the shapes tell, with any GELU.
        layout: the file's, or ``None`` for canonical names.
        published: the checkpoint that the file's name says it is.
        contents: of the file.
        gelu: what somebody says.
        epsilon: likewise.
        where: the file, for the message.

    Raises:
        SpecError: if nobody says the GELU, and it matters.
    """
    candidates = layout.trained if layout else (NEUTRAL,)
    reason = layout.because if layout else "canonical names do not say it"
    chosen = candidates[0]
    told = _told_by_config(contents.config)
    if gelu is not None:
        chosen = _of_form(candidates, gelu)
        reason = "as you said"
    elif published is not None:
        chosen = _of_form(candidates, published.gelu)
        reason = f"published as {published.name}, {published.source}"
    elif told is not None:
        chosen = _of_form(candidates, told)
        reason = "config.json has it among the model's arguments"
    elif _has_gelu(spec) and (layout is None or len({c.gelu for c in candidates}) > 1):
        raise SpecError(
            where,
            f"nothing in it says which GELU it was trained with: {reason}; expected gelu='tanh' "
            "(Google's JAX code) or 'none' (erf; PyTorch's default), got nothing; say it to "
            "`mixer-spec convert`, with --gelu tanh or --gelu none",
        )
    if epsilon is not None:
        chosen = Semantics(gelu=chosen.gelu, epsilon=epsilon, gate_epsilon=epsilon)
        reason += "; epsilon as you said"
    return chosen, [f"trained with {chosen}: {reason}"]


def _has_gelu(spec: ModelSpec) -> bool:
    return any(isinstance(node.layer, Gelu) for node in spec.nodes())


def _of_form(candidates: tuple[Semantics, ...], gelu: GeluForm) -> Semantics:
    """The candidate of that GELU; if there is none, the first with that GELU put in."""
    first = candidates[0]
    changed = Semantics(gelu=gelu, epsilon=first.epsilon, gate_epsilon=first.gate_epsilon)
    return next((c for c in candidates if c.gelu == gelu), changed)


def _told_by_config(config: Mapping[str, Any]) -> GeluForm | None:
    arguments = config.get("model_args")
    layer = arguments.get("act_layer") if isinstance(arguments, Mapping) else None
    forms: dict[Any, GeluForm] = {"gelu_tanh": "tanh", "gelu": "none"}
    return forms.get(layer) if isinstance(layer, str) else None


def refuse_others(
    spec: ModelSpec,
    gelu: GeluForm | None,
    epsilon: float | None,
    image_size: ImageSize | None,
    heads: int | None,
    where: str,
) -> None:
    """Refuse what somebody says of a file that says something else of itself.

    Args:
        spec: what the file says.
        gelu, epsilon, image_size, heads: what somebody says, as for :func:`load`.
        where: the file, for the message.

    Raises:
        InputError: with everything that differs.
    """
    own = semantics_of(spec)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    said = {
        "gelu": (gelu if _has_gelu(spec) else None, own.gelu),
        "epsilon": (epsilon, own.epsilon),
        "image_size": (size, spec.input.shape[:2]),
        "heads": (heads, known_sizes(spec).get("heads")),
    }
    problems = [
        f"it says of itself {name} {true!r}; expected nothing else, got {given!r}"
        for name, (given, true) in said.items()
        if given not in (None, true)
    ]
    if problems:
        raise InputError(where, problems)
