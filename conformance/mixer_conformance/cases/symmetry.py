"""F13 to F16: changes of weights and inputs together that leave the function as it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mixer_conformance.findings import Finding, of_bits
from mixer_conformance.measure import Array, deviation
from mixer_conformance.tolerance import Judgement
from mixer_conformance.weights import conformance_weights
from mixer_spec import ModelSpec, families
from mixer_spec.shapes import Image
from mixer_spec.weights import Weights

from .base import Case, Trial, on, on_small, zeros

_MIXERS = on("mixer", "square", "signal", "tiny")


def _as_before(
    trial: Trial,
    what: str,
    weights: Weights,
    inputs: Array | None = None,
    classes: Array | None = None,
    spec: ModelSpec | None = None,
) -> Finding:
    """The logits of an equal function, within both runs' tolerances together."""
    problem = trial.standard
    expected = trial.loaded.logits(problem.inputs)
    found = trial.load({**problem.weights, **weights} if spec is None else weights, spec)
    logits = found.logits(problem.inputs if inputs is None else inputs)
    if classes is not None:
        logits = logits[:, classes]
    allowed = problem.standards[-1].end_to_end
    margin = Judgement(deviation(logits, expected.astype(np.float64)), allowed).margin / 2
    return Finding(margin, f"{what}: the logits moved by {margin:.2g} of the tolerance", "logits")


def _blocks(spec: ModelSpec) -> range:
    return range(spec.depth)


def _sides(spec: ModelSpec) -> tuple[int, int]:
    assert isinstance(spec.input, Image)  # the models that these are run on
    return spec.input.height, spec.input.width


def _order(length: int) -> Array:
    """A permutation that is neither the identity nor a reflection."""
    return np.roll(np.arange(length)[::-1], 2)


# --- F13 ---------------------------------------------------------------------------------------


def _permuted_patches(trial: Trial, order: Array) -> Array:
    inputs = trial.standard.inputs
    if inputs.ndim == 3:
        return inputs[:, order]
    batch, height, width, rgb = inputs.shape
    rows, columns = height // 4, width // 4
    patches = inputs.reshape(batch, rows, 4, columns, 4, rgb).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(batch, rows * columns, 4, 4, rgb)[:, order]
    patches = patches.reshape(batch, rows, columns, 4, 4, rgb).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(patches.reshape(inputs.shape))


def _tokens(trial: Trial) -> Iterator[Finding]:
    weights = trial.standard.weights
    order = _order(weights["blocks.0.token_mixing.dense_0.kernel"].shape[1])
    changed = {}
    for i in _blocks(trial.spec):
        path = f"blocks.{i}.token_mixing"
        changed[f"{path}.dense_0.kernel"] = weights[f"{path}.dense_0.kernel"][:, order]
        changed[f"{path}.dense_1.kernel"] = weights[f"{path}.dense_1.kernel"][order]
        changed[f"{path}.dense_1.bias"] = weights[f"{path}.dense_1.bias"][order]
    yield _as_before(trial, "patches in another order", changed, _permuted_patches(trial, order))


F13 = Case(
    id="F13",
    title="Patches in another order, and the token mixing's weights with them",
    catches="tokens column by column, an image flipped, a token that the pool forgets",
    level=1,
    suits=_MIXERS,
    check=_tokens,
    quick=("mixer",),
)


# --- F14 ---------------------------------------------------------------------------------------


def _widths(trial: Trial) -> Iterator[Finding]:
    weights = trial.standard.weights
    yield _as_before(trial, "channels in another order", _channels(trial.spec, weights))
    hidden = {}
    for i in _blocks(trial.spec):
        one, other = f"blocks.{i}.token_mixing", f"blocks.{i}.channel_mixing"
        order = _order(len(weights[f"{one}.dense_0.bias"]))
        hidden[f"{one}.dense_0.kernel"] = weights[f"{one}.dense_0.kernel"][order]
        hidden[f"{one}.dense_0.bias"] = weights[f"{one}.dense_0.bias"][order]
        hidden[f"{one}.dense_1.kernel"] = weights[f"{one}.dense_1.kernel"][:, order]
        order = _order(len(weights[f"{other}.dense_0.bias"]))
        hidden[f"{other}.dense_0.kernel"] = weights[f"{other}.dense_0.kernel"][:, order]
        hidden[f"{other}.dense_0.bias"] = weights[f"{other}.dense_0.bias"][order]
        hidden[f"{other}.dense_1.kernel"] = weights[f"{other}.dense_1.kernel"][order]
    yield _as_before(trial, "hidden units in another order", hidden)
    order = _order(trial.spec.classes)
    classes = {
        "head.kernel": weights["head.kernel"][:, order],
        "head.bias": weights["head.bias"][order],
    }
    yield _as_before(trial, "classes in another order", classes, classes=np.argsort(order))


def _channels(spec: ModelSpec, weights: Weights) -> dict[str, Array]:
    order = _order(len(weights["norm.scale"]))
    changed = {
        "stem.kernel": weights["stem.kernel"][..., order],
        "stem.bias": weights["stem.bias"][order],
        "head.kernel": weights["head.kernel"][order],
    }
    for name in weights:
        if name.endswith(("norm.scale", "norm.bias")):
            changed[name] = weights[name][order]
    for i in _blocks(spec):
        path = f"blocks.{i}.channel_mixing"
        changed[f"{path}.dense_0.kernel"] = weights[f"{path}.dense_0.kernel"][order]
        changed[f"{path}.dense_1.kernel"] = weights[f"{path}.dense_1.kernel"][:, order]
        changed[f"{path}.dense_1.bias"] = weights[f"{path}.dense_1.bias"][order]
    return changed


F14 = Case(
    id="F14",
    title="Channels, hidden units and classes in another order",
    catches="reshape for transpose, a vector's tail, a class that is shifted",
    level=1,
    suits=_MIXERS,
    check=_widths,
    quick=("mixer",),
)


# --- F15 ---------------------------------------------------------------------------------------


def _identities(trial: Trial) -> Iterator[Finding]:
    spec, weights = trial.spec, trial.standard.weights
    shifted = {"stem.bias": weights["stem.bias"] + np.float32(2)}
    yield _as_before(trial, "the stem's bias + 2, which norms remove", shifted)

    folded = {}
    for i in _blocks(spec):
        path = f"blocks.{i}.channel_mixing"
        scale, bias = weights[f"{path}.norm.scale"], weights[f"{path}.norm.bias"]
        kernel = weights[f"{path}.dense_0.kernel"]
        folded[f"{path}.dense_0.kernel"] = scale[:, None] * kernel
        folded[f"{path}.dense_0.bias"] = weights[f"{path}.dense_0.bias"] + bias @ kernel
        folded[f"{path}.norm.scale"] = np.ones_like(scale)
        folded[f"{path}.norm.bias"] = np.zeros_like(bias)
    yield _as_before(trial, "norms folded into the layer behind them", folded)

    doubled = {name: 2 * weights[name] for name in ("head.kernel", "head.bias")}
    logits = trial.load({**weights, **doubled}).logits(trial.standard.inputs)
    expected = 2 * trial.loaded.logits(trial.standard.inputs)
    yield of_bits(logits, expected, "a head twice as large", "logits")


def _empty_block(trial: Trial) -> Iterator[Finding]:
    """The last block does nothing: exactly what the model without it computes."""
    spec, weights = trial.spec, trial.standard.weights
    shorter = families.mixer(
        image_size=_sides(spec),
        patch=4,
        channels=len(weights["norm.scale"]),
        depth=spec.depth - 1,
        token_hidden=len(weights["blocks.0.token_mixing.dense_0.bias"]),
        channel_hidden=len(weights["blocks.0.channel_mixing.dense_0.bias"]),
        classes=spec.classes,
    )
    last = f"blocks.{spec.depth - 1}."
    fewer = {name: array for name, array in weights.items() if not name.startswith(last)}
    ends = [n for n in weights if n.startswith(last) and ".dense_1." in n]
    idle = trial.load({**weights, **zeros(weights, ends)}).logits(trial.standard.inputs)
    without = trial.load(fewer, shorter).logits(trial.standard.inputs)
    # An engine may fuse the shorter graph in another way, so that bits may differ.
    allowed = trial.standard.standards[-1].end_to_end
    moved = Judgement(deviation(idle, without.astype(np.float64)), allowed).margin / 2
    yield Finding(moved, f"a block that adds nothing moves the logits by {moved:.2g}", "logits")


def _all_identities(trial: Trial) -> Iterator[Finding]:
    yield from _identities(trial)
    if trial.model.name == "mixer":
        yield from _empty_block(trial)


F15 = Case(
    id="F15",
    title="A shift that norms remove, norms folded away, a block of zeros, a head twice as large",
    catches="no mean in a norm, a residual scaled or missing, tied weights, a block too few",
    level=1,
    suits=_MIXERS,
    check=_all_identities,
    profiles=("f64", "f32-strict"),
    quick=("mixer",),
)


# --- F16 ---------------------------------------------------------------------------------------


def _tiled(trial: Trial) -> Iterator[Finding]:
    """Four copies of the image, and a token mixing that sees one copy at a time."""
    spec, weights = trial.spec, trial.standard.weights
    height, width = _sides(spec)
    hidden = len(weights["blocks.0.token_mixing.dense_0.bias"])
    larger = families.mixer(
        image_size=(2 * height, 2 * width),
        patch=4,
        channels=len(weights["norm.scale"]),
        depth=spec.depth,
        token_hidden=4 * hidden,
        channel_hidden=len(weights["blocks.0.channel_mixing.dense_0.bias"]),
        classes=spec.classes,
    )
    rows, columns = height // 4, width // 4
    grid = np.arange(4 * rows * columns).reshape(2, rows, 2, columns)
    places = grid.transpose(0, 2, 1, 3).reshape(4, rows * columns)  # [copy, token of the copy]
    changed = dict(conformance_weights(larger)) | {
        name: array for name, array in weights.items() if ".token_mixing.dense" not in name
    }
    for i in _blocks(spec):
        path = f"blocks.{i}.token_mixing"
        one, other = weights[f"{path}.dense_0.kernel"], weights[f"{path}.dense_1.kernel"]
        first = np.zeros((4 * hidden, 4 * rows * columns), np.float32)
        second = np.zeros((4 * rows * columns, 4 * hidden), np.float32)
        bias = np.zeros(4 * rows * columns, np.float32)
        for copy, tokens in enumerate(places):
            units = slice(copy * hidden, (copy + 1) * hidden)
            first[units, tokens] = one
            second[tokens, units] = other
            bias[tokens] = weights[f"{path}.dense_1.bias"]
        changed |= {
            f"{path}.dense_0.kernel": first,
            f"{path}.dense_0.bias": np.tile(weights[f"{path}.dense_0.bias"], 4),
            f"{path}.dense_1.kernel": second,
            f"{path}.dense_1.bias": bias,
        }
    tiled = np.tile(trial.standard.inputs, (1, 2, 2, 1))
    yield _as_before(trial, "an image four times over", changed, tiled, spec=larger)


F16 = Case(
    id="F16",
    title="Four copies of the image in a grid, and weights for the higher resolution",
    catches="token order, an image resized in silence, the number of tokens fixed",
    level=1,
    suits=lambda model, spec: on_small(model, spec) and model.name in ("mixer", "square"),
    check=_tiled,
    quick=("mixer",),
)
