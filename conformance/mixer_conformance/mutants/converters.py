"""The catalogue of wrong conversions: weights on their way through another layout, and back."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np

from mixer_conformance.measure import Array

from .changes import blocks_from, changed, swapped
from .mutant import Known, Mutant, Weights

_TOKENS0, _CHANNELS0 = "blocks.0.token_mixing", "blocks.0.channel_mixing"
_QKV = ("query", "key", "value")


# --- one weight --------------------------------------------------------------------------------


def _under_another_shape(*axes: int) -> Callable[[Array], Array]:
    """The bytes of the other layout, whose axes these are, under the shape of this one."""
    return lambda array: np.ascontiguousarray(array.transpose(axes)).reshape(array.shape)


def _fortran(array: Array) -> Array:
    """Read column by column, as Fortran and MATLAB files have it."""
    return array.ravel(order="F").reshape(array.shape)


def _square_transposed(weights: Weights) -> Weights:
    """Transposed for a framework that keeps ``[out, in]``: only where nothing tells."""
    return {
        name: array.T if array.ndim == 2 and array.shape[0] == array.shape[1] else array
        for name, array in weights.items()
    }


def _halves(array: Array) -> Array:
    return np.roll(array, array.shape[-1] // 2, axis=-1)


# --- attention ---------------------------------------------------------------------------------


def _fused(weights: Weights, read: Callable[[Array], tuple[Array, ...]]) -> Weights:
    """Query, key and value of every attention through one fused weight ``[in, 3 * out]``."""
    found = dict(weights)
    for name in weights:
        stem, _, part = name.partition(".query.")
        if not part:
            continue
        names = [f"{stem}.{which}.{part}" for which in _QKV]
        fused = np.concatenate([weights[n] for n in names], axis=-1)
        found |= zip(names, read(fused), strict=True)
    return found


def _head_by_head(fused: Array) -> tuple[Array, ...]:
    """Read as ``[head, q or k or v, size]`` where ``[q or k or v, head, size]`` is stored."""
    split = fused.reshape(*fused.shape[:-1], 3, 3, -1)  # the zoo's attention has three heads
    return tuple(split[..., i, :].reshape(*fused.shape[:-1], -1) for i in range(3))


def _backwards(fused: Array) -> tuple[Array, ...]:
    return tuple(np.split(fused, 3, axis=-1)[::-1])


def _sizes_first(kernel: Array) -> Array:
    """The rows of the output's kernel as ``[size, head]`` where ``[head, size]`` is stored."""
    return kernel.reshape(3, -1, kernel.shape[-1]).swapaxes(0, 1).reshape(kernel.shape)


# --- names -------------------------------------------------------------------------------------


def _renamed_by_prefix(weights: Weights) -> Weights:
    """``blocks.1`` taken for the beginning of ``blocks.10`` and ``blocks.11``."""
    found = dict(weights)
    for name in weights:
        block = name.split(".")[1] if name.startswith("blocks.") else ""
        if len(block) > 1 and block[0] == "1":
            found[name] = weights[name.replace(f"blocks.{block}.", "blocks.1.")]
    return found


def _not_loaded(path: str) -> Callable[[Weights], Weights]:
    """Names that are not found keep their initial values: zeros, and ones for a scale."""

    def load(weights: Weights) -> Weights:
        return {
            name: np.full_like(array, float(name.endswith("scale")))
            if name.startswith(path)
            else array
            for name, array in weights.items()
        }

    return load


def _first_dropped(embedding: Array) -> Array:
    """The class token has no position."""
    return np.concatenate([0 * embedding[:1], embedding[1:]])


def _moved(embedding: Array) -> Array:
    """The positions of the patches, one early; the class token's comes last."""
    return np.roll(embedding, -1, axis=0)


# --- through other numbers ---------------------------------------------------------------------


def _through(change: Callable[[Array], Array]) -> Callable[[Weights], Weights]:
    return lambda weights: {
        name: change(array).astype(array.dtype) for name, array in weights.items()
    }


@np.vectorize
def _as_text(number: float) -> float:
    """Six digits, as a program prints them by default."""
    return float(f"{number:.6g}")


def _known(
    name: str,
    change: Callable[[Weights], Weights],
    stage: str | None,
    model: str = "mixer",
    killer: str = "F01",
) -> Known:
    """What was converted is what is run and what is exported."""
    backend = Mutant(weights=change, exported=change)
    return Known(name=name, backend=backend, model=model, stage=stage, killer=killer)


def _of(
    name: str, weight: str, change: Callable[[Array], Array], stage: str, model: str = "mixer"
) -> Known:
    return _known(name, changed(weight, change), stage, model)


CONVERTERS: tuple[Known, ...] = (
    _of(
        "patch kernel [out, in, row, column] without a transpose",
        "stem.kernel",
        _under_another_shape(3, 2, 0, 1),
        "stem",
    ),
    _of(
        "patch kernel [row, in, column, out] without a transpose",
        "stem.kernel",
        _under_another_shape(0, 2, 1, 3),
        "stem",
    ),
    _of("patch kernel column by column", "stem.kernel", _fortran, "stem"),
    _of(
        "channel kernel [out, in] without a transpose",
        f"{_CHANNELS0}.dense_0.kernel",
        _under_another_shape(1, 0),
        _CHANNELS0,
    ),
    _of(
        "token kernel [in, out] without a transpose",
        f"{_TOKENS0}.dense_0.kernel",
        _under_another_shape(1, 0),
        _TOKENS0,
    ),
    _of(
        "head's kernel [class, in] without a transpose",
        "head.kernel",
        _under_another_shape(1, 0),
        "logits",
    ),
    _of(
        "vectors' kernel [out, in] without a transpose",
        "stem.kernel",
        _under_another_shape(1, 0),
        "stem",
        "signal",
    ),
    _of(
        "untied kernels [channel, in, out] without a transpose",
        f"{_TOKENS0}.dense_1.kernel",
        _under_another_shape(0, 2, 1),
        _TOKENS0,
        "untied",
    ),
    _of(
        "untied kernels [out, in, channel] without a transpose",
        f"{_TOKENS0}.dense_0.kernel",
        _under_another_shape(1, 2, 0),
        _TOKENS0,
        "untied",
    ),
    _of(
        "convolution's kernel [channel, row, column] without a transpose",
        f"{_TOKENS0}.conv.kernel",
        _under_another_shape(2, 0, 1),
        _TOKENS0,
        "conv",
    ),
    _known("square kernels transposed", _square_transposed, _TOKENS0, "square", "F04"),
    _known(
        "token and channel weights swapped",
        swapped(f"{_TOKENS0}.", f"{_CHANNELS0}."),
        _TOKENS0,
        "square",
        "F04",
    ),
    _known(
        "first and second kernel swapped",
        swapped(f"{_CHANNELS0}.dense_0.", f"{_CHANNELS0}.dense_1."),
        _CHANNELS0,
        "square",
        "F04",
    ),
    _known("norm's scale and bias swapped", swapped("norm.scale", "norm.bias"), "norm"),
    _of("head's columns moved, its bias not", "head.kernel", lambda k: np.roll(k, 1, 1), "logits"),
    _of(
        "halves of the gate's kernel swapped, not of its bias",
        "blocks.0.gated_mixing.dense_0.kernel",
        _halves,
        "blocks.0.gated_mixing",
        "gmlp",
    ),
    _of(
        "halves of the gated unit's kernel swapped",
        f"{_CHANNELS0}.dense_0.kernel",
        _halves,
        _CHANNELS0,
        "gmixer",
    ),
    _known(
        "fused attention read head by head",
        lambda weights: _fused(weights, _head_by_head),
        _TOKENS0,
        "vit",
    ),
    _known(
        "fused attention as value, key, query",
        lambda weights: _fused(weights, _backwards),
        _TOKENS0,
        "vit",
    ),
    _of(
        "attention's output kernel by sizes and heads",
        f"{_TOKENS0}.attention.out.kernel",
        _sizes_first,
        _TOKENS0,
        "vit",
    ),
    _of(
        "class token without its position",
        "stem.position.embedding",
        _first_dropped,
        "stem",
        "vit",
    ),
    _of("positions one early", "stem.position.embedding", _moved, "stem", "vit"),
    _known(
        "weights of blocks 10 and 11 by the prefix of 1",
        _renamed_by_prefix,
        "blocks.10.token_mixing",
        "deep",
    ),
    _known(
        "blocks counted from one",
        blocks_from(lambda i, depth: (i + 1) % depth),
        _TOKENS0,
        "tiny",
    ),
    _known("last norm not loaded", _not_loaded("norm."), "norm"),
    _known("last affine not loaded", _not_loaded("norm."), "norm", "resmlp"),
    _known("head not loaded", _not_loaded("head."), "logits"),
    _known("a block not loaded", _not_loaded("blocks.1."), "blocks.1.token_mixing"),
    # Conformance weights have 8 bits: what is lost on the way only shows in weights of 24.
    *(
        _known(name, _through(change), "stem.kernel", killer="F21")
        for name, change in {
            "converted through float16": lambda array: array.astype(np.float16),
            "converted through bfloat16": lambda array: array.astype(ml_dtypes.bfloat16),
            "converted through six digits of text": lambda array: _as_text(array),
        }.items()
    ),
)
"""Every wrong conversion."""
