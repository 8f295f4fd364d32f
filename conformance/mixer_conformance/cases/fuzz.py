"""F30: models that nobody thought of, drawn from a counter hash and the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mixer_conformance.findings import Finding, of_taps
from mixer_conformance.problem import conformance_problem
from mixer_conformance.weights import splitmix64
from mixer_spec import ModelSpec, ablations, families
from mixer_spec.blocks import NORM
from mixer_spec.layers import Affine
from mixer_spec.shapes import TokenIds, Vectors

from .base import EVERY, Case, Trial

_MODELS = {"quick": 3, "full": 24, "nightly": 300}
_SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33)


class _Draws:
    """Choices from one stream of the hash."""

    def __init__(self, seed: int) -> None:
        self._numbers = iter([int(h) for h in next(splitmix64(seed * 7919 + 1, 64))])

    def of(self, choices: tuple[int, ...]) -> int:
        return choices[next(self._numbers) % len(choices)]


def drawn_spec(seed: int) -> ModelSpec:
    """The architecture that ``seed`` stands for; sizes of one and odd ones are likely.

    Example:
        >>> drawn_spec(3) == drawn_spec(3), drawn_spec(3) == drawn_spec(4)
        (True, False)
    """
    draw = _Draws(seed)
    patch = draw.of((1, 2, 3, 4))
    common: dict[str, Any] = {
        "image_size": (patch * draw.of((1, 2, 3, 5)), patch * draw.of((1, 2, 3, 4))),
        "patch": patch,
        "channels": draw.of(_SIZES),
        "depth": draw.of((0, 1, 2, 3)),
        "classes": draw.of(_SIZES),
    }
    hidden, wide, heads = draw.of(_SIZES), draw.of(_SIZES), draw.of((1, 2, 3))
    widths: dict[str, Any] = {"token_hidden": hidden, "channel_hidden": wide}
    even: dict[str, Any] = {"token_hidden": 2 * hidden, "channel_hidden": 2 * wide}
    sequence: dict[str, Any] = {
        name: common[name] for name in ("channels", "depth", "classes")
    } | widths
    tokens = draw.of(_SIZES)
    makers = (
        lambda: families.mixer(**common, **widths),
        lambda: families.mixer(**common, **widths, gelu="none"),
        lambda: families.resmlp(**common),
        lambda: families.gmlp(**common),
        lambda: families.gmixer(**common, **even),
        lambda: families.vit(
            **common | {"channels": heads * common["channels"]}, heads=heads, channel_hidden=wide
        ),
        lambda: families.feed_forward(**common),
        lambda: families.sequence_mixer(
            input=TokenIds(tokens=tokens, vocabulary=draw.of(_SIZES)), **sequence
        ),
        lambda: families.sequence_mixer(
            input=Vectors(tokens=tokens, channels=draw.of(_SIZES)), **sequence
        ),
        lambda: ablations.mixer_untied(**common, **widths),
        lambda: ablations.mixer_grouped(
            **common | {"channels": 2 * common["channels"]}, **widths, groups=2, views=True
        ),
        lambda: ablations.resmlp_ablation(**common, mixing="conv", norm=Affine()),
        lambda: ablations.resmlp_ablation(**common, mixing="separable_conv", norm=NORM),
    )
    return makers[seed % len(makers)]()


def _check(trial: Trial) -> Iterator[Finding]:
    for number in range(_MODELS[trial.effort]):
        seed = trial.seed * 1000 + number
        spec = drawn_spec(seed)
        problem = conformance_problem(spec, trial.subject.precision, seed=trial.seed)
        found = of_taps(problem.judge(trial.load(problem.weights, spec).forward(problem.inputs)))
        message = f"drawn model {seed} ({spec.parameter_count} weights): {found.message}"
        # The taps are not those of the model that the result names.
        yield replace(found, message=message, taps=())


F30 = Case(
    id="F30",
    title="Models drawn at random from every family, with sizes of one and odd sizes",
    catches="broadcasting of a size of one, the tail of a vector loop, no block at all",
    level=1,
    suits=lambda model, spec: model.name == "no_block",
    check=_check,
    profiles=EVERY,
)
