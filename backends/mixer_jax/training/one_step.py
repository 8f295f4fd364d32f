"""One step of training with Optax, on weights under their canonical names: the protocol's."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import optax

from mixer_jax.forward import apply
from mixer_jax.params import from_canonical, stack
from mixer_spec import ModelSpec
from mixer_spec.training import AdamW, CrossEntropy, Momentum, Optimiser, Sgd

Tree = Mapping[str, jax.Array]
"""Canonical name to array: a flat pytree."""

_OPTAX_NAMES = {"momentum": "trace", "first_moment": "mu", "second_moment": "nu"}


def train_step(
    spec: ModelSpec,
    weights: Tree,
    slots: Mapping[str, Tree],
    step: jax.Array,
    inputs: jax.Array,
    labels: jax.Array,
    *,
    loss: CrossEntropy,
    optimiser: Optimiser,
    scan: bool,
) -> tuple[jax.Array, Tree, dict[str, Tree]]:
    """The loss before one step, the weights and the slots after it.

    Two programs: one for each spec, which every optimiser shares, and one for each optimiser.

    Args:
        spec: the architecture.
        weights: of the dtype to compute in, as are ``slots`` and ``inputs``.
        slots: what the steps before left; zeros before the first.
        step: how many steps were taken.
        inputs: images ``[batch, height, width, rgb]``, or sequences.
        labels: ``[batch]``.
        loss: what is differentiated.
        optimiser: how the weights follow the gradients.
        scan: run the blocks of a stage as one scanned body.
    """
    value, gradients = _loss_and_gradients(spec, weights, inputs, labels, loss=loss, scan=scan)
    return value, *_update(weights, slots, step, gradients, optimiser=optimiser)


@functools.partial(jax.jit, static_argnames=("spec", "loss", "scan"))
def _loss_and_gradients(
    spec: ModelSpec,
    weights: Tree,
    inputs: jax.Array,
    labels: jax.Array,
    *,
    loss: CrossEntropy,
    scan: bool,
) -> tuple[jax.Array, Tree]:
    def objective(weights: Tree) -> jax.Array:
        params = from_canonical(weights)
        if scan:
            params = stack(spec, params)
        logits = apply(spec, params, inputs, precision=jax.lax.Precision.HIGHEST)
        targets = jax.nn.one_hot(labels, spec.classes, dtype=logits.dtype)
        targets = optax.smooth_labels(targets, loss.label_smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean()

    return jax.value_and_grad(objective)(weights)


@functools.partial(jax.jit, static_argnames=("optimiser",))
def _update(
    weights: Tree,
    slots: Mapping[str, Tree],
    step: jax.Array,
    gradients: Tree,
    *,
    optimiser: Optimiser,
) -> tuple[Tree, dict[str, Tree]]:
    transformation = optax_of(optimiser)
    state = transformation.init(weights)
    remembered: dict[str, Any] = {_OPTAX_NAMES[slot]: tree for slot, tree in slots.items()}
    if isinstance(optimiser, AdamW):
        remembered["count"] = step
    state = optax.tree_utils.tree_set(state, **remembered)
    updates, state = transformation.update(gradients, state, weights)
    found = {slot: optax.tree_utils.tree_get(state, _OPTAX_NAMES[slot]) for slot in optimiser.slots}
    return optax.apply_updates(weights, updates), found


def optax_of(optimiser: Optimiser) -> optax.GradientTransformation:
    """The Optax transformation of an optimiser, for pytrees of canonical names.

    Example:
        >>> sgd = optax_of(Sgd(learning_rate=0.5))
        >>> ones = {"head.bias": jax.numpy.ones(1)}
        >>> updates, _ = sgd.update(ones, sgd.init(ones))
        >>> updates["head.bias"].tolist()
        [-0.5]
    """
    rate = optimiser.learning_rate
    match optimiser:
        case Sgd():
            return optax.sgd(rate)
        case Momentum(decay=decay, form=form):
            return optax.sgd(rate, momentum=decay, nesterov=form == "nesterov")
        case AdamW(decayed=ends):
            return optax.adamw(
                rate,
                b1=optimiser.beta1,
                b2=optimiser.beta2,
                eps=optimiser.epsilon,
                weight_decay=optimiser.weight_decay,
                mask=lambda weights: {name: name.endswith(ends) for name in weights},
            )
