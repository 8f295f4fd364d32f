"""Where a backend goes wrong: by its taps in one run, or without taps by ever longer models.

An engine that only has logits is given the model up to a tap, with the norm, pool and head behind
it. Each prefix is judged at its own tolerance, so that small errors which add up are no culprit; a
binary search finds the first that is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixer_spec import ModelSpec, SpecError
from mixer_spec.model import Stage

from .cases.base import Trial
from .diagnosis import Diagnosis, diagnose
from .findings import Finding, of_taps
from .problem import conformance_problem
from .subject import Violation
from .tolerance import K_MAX, K_RMS


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """The stage at fault.

    Args:
        stage: its tap; for an engine without taps, the last one of the shortest wrong model.
        message: what was seen there.
        diagnosis: the known mistake that explains it; ``None`` for an engine without taps.
        runs: how many models were run to find it.
        plain: whether a forward pass of conformance inputs shows it.
    """

    stage: str
    message: str
    diagnosis: Diagnosis | None
    runs: int
    plain: bool = True


def locate(trial: Trial, level: int = 2) -> Location | None:
    """Find the first bad stage of a backend on a model; ``None`` if there is none.

    Args:
        trial: the backend and the model.
        level: the highest that is looked at: 2 taps, 3 gradients, 4 optimiser.

    Raises:
        Violation: if the backend raises, hangs or breaks the protocol on the whole model.
    """
    whole = trial.judged(trial.standard)
    if not whole.passed and not trial.subject.sees_taps:
        return _by_prefixes(trial)
    diagnosis = diagnose(trial, level)
    if diagnosis is None:
        return None
    return Location(
        stage=diagnosis.stage,
        message=diagnosis.message,
        diagnosis=diagnosis,
        runs=1,
        plain=not whole.passed,
    )


def _by_prefixes(trial: Trial) -> Location:
    """The shortest prefix whose logits are wrong; all of the longer ones then are."""
    taps = [tap for tap in trial.spec.taps if tap.startswith("blocks.")]
    low, high, runs = -1, len(taps), 1  # prefix `low` is right, `high` is the whole model
    message = ""
    none = _judged(trial, prefix(trial.spec, None))
    if not none.passed:
        return Location(
            stage="stem, norm, pooled or logits", message=none.message, diagnosis=None, runs=2
        )
    while high - low > 1:
        middle = (low + high) // 2
        found = _judged(trial, prefix(trial.spec, taps[middle]))
        runs += 1
        if found.passed:
            low = middle
        else:
            high, message = middle, found.message
    stage = taps[high] if high < len(taps) else "logits"
    return Location(stage=stage, message=message, diagnosis=None, runs=runs + 1)


def _judged(trial: Trial, spec: ModelSpec) -> Finding:
    problem = conformance_problem(spec, trial.subject.precision, seed=trial.seed)
    return of_taps(problem.judge(trial.load(problem.weights, spec).forward(problem.inputs)))


def prefix(spec: ModelSpec, tap: str | None) -> ModelSpec:
    """The model that ends with the branch behind ``tap``, or has no block at all.

    Example:
        >>> from mixer_spec import families
        >>> spec = families.resmlp(image_size=8, patch=4, channels=6, depth=3, classes=3)
        >>> prefix(spec, "blocks.1.token_mixing").taps[1:4]
        ('blocks.0.token_mixing', 'blocks.0.channel_mixing', 'blocks.1.token_mixing')
    """
    stages: list[Stage] = []
    if tap is not None:
        _, number, name = tap.split(".", 2)
        left = int(number)
        for stage in spec.stages:
            if left >= stage.depth:
                stages.append(stage)
                left -= stage.depth
                continue
            names = [branch.name for branch in stage.block]
            part = Stage(
                transition=() if left else stage.transition,
                block=stage.block[: names.index(name) + 1],
                depth=1,
            )
            stages += [replace(stage, depth=left), part] if left else [part]
            break
    return replace(spec, stages=tuple(stages))


# --- a minimal reproduction --------------------------------------------------------------------


def shrunk(spec: ModelSpec, stage: str, still_fails: Callable[[ModelSpec], bool]) -> ModelSpec:
    """The smallest model that still fails, found by cutting one thing after the other.

    Args:
        spec: that fails.
        stage: the first bad one, whose prefix is tried first.
        still_fails: whether a smaller model does too.
    """
    again = True
    while again:
        again = False
        for smaller in _smaller(spec, stage):
            if smaller != spec and still_fails(smaller):
                spec, again = smaller, True
                break
    return spec


def _smaller(spec: ModelSpec, stage: str) -> Iterator[ModelSpec]:
    if stage in spec.taps:
        yield prefix(spec, stage if stage.startswith("blocks.") else None)
    for index, one in enumerate(spec.stages):
        others = spec.stages[:index], spec.stages[index + 1 :]
        yield replace(spec, stages=(*others[0], *others[1]))
        if one.depth > 1:
            yield replace(spec, stages=(*others[0], replace(one, depth=1), *others[1]))
        for branch in one.block:
            if len(one.block) > 1:
                kept = tuple(b for b in one.block if b is not branch)
                yield replace(spec, stages=(*others[0], replace(one, block=kept), *others[1]))
    yield replace(spec, head=replace(spec.head, classes=2))
    yield from _narrower(spec)


def _narrower(spec: ModelSpec) -> Iterator[ModelSpec]:
    """Every hidden width on its own, as 2: the first of two dense layers in a branch."""
    for index, stage in enumerate(spec.stages):
        for place, branch in enumerate(stage.block):
            dense = [i for i, layer in enumerate(branch.layers) if hasattr(layer, "features")]
            if len(dense) < 2:
                continue
            layers = list(branch.layers)
            first: Any = layers[dense[0]]
            layers[dense[0]] = replace(first, features=2)
            block = list(stage.block)
            try:
                block[place] = replace(branch, layers=tuple(layers))
                stages = list(spec.stages)
                stages[index] = replace(stage, block=tuple(block))
                yield replace(spec, stages=tuple(stages))
            except SpecError:  # a gate needs an even width, a rearrangement another
                continue


def reproduction(trial: Trial, stage: str) -> ModelSpec:
    """The smallest model of the same kind that the backend gets wrong."""

    def still_fails(spec: ModelSpec) -> bool:
        try:
            return not _judged(trial, spec).passed
        except Violation:
            return False

    return shrunk(trial.spec, stage, still_fails)


_SCRIPT = '''"""A model that backend {backend!r} gets wrong; found by `mixer-spec conformance locate`.

Run it with `python {name}`. It needs mixer-spec and the backend, and nothing else.
"""

import numpy as np
from mixer_conformance import conformance_inputs, conformance_weights
from mixer_spec import ModelSpec, load_backend
from mixer_spec.reference import forward

SPEC = ModelSpec.from_json(r"""{spec}""")

weights = conformance_weights(SPEC, seed={seed})
inputs = conformance_inputs(SPEC, 1, seed={seed})
model = load_backend({backend!r}).load(SPEC, weights, profile={profile!r})
oracle = forward(SPEC, weights, inputs, SPEC.taps)
found = model.forward(inputs, {taps})
for tap, table in found.items():
    error = np.abs(table - oracle[tap]).max() / np.sqrt(np.mean(oracle[tap] ** 2))
    print(f"{{tap:30}} largest error {{error:.1e}} of the tap's size")
# A tolerance is {k_rms:g} x (root mean square) and {k_max:g} x (largest error) float32's noise, about 1e-7.
'''


def write_reproduction(path: Path, trial: Trial, backend: str, stage: str) -> ModelSpec:
    """Write a stand-alone script with the smallest model that fails.

    Args:
        path: of the script.
        trial: the backend and the model.
        backend: its name, or ``package.module:Class``.
        stage: the first bad one.
    """
    spec = reproduction(trial, stage)
    taps = list(trial.subject.taps(spec))
    text = _SCRIPT.format(
        backend=backend,
        name=path.name,
        spec=json.dumps(json.loads(spec.to_json()), indent=1),
        seed=trial.seed,
        profile=trial.subject.precision.profile,
        taps=taps,
        k_rms=K_RMS,
        k_max=K_MAX,
    )
    path.write_text(text, encoding="utf-8")
    return spec
