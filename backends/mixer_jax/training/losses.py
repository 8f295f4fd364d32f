"""The losses of a recipe, on labels that are distributions over the classes."""

from __future__ import annotations

import jax

from mixer_spec.recipe import SigmoidCrossEntropy
from mixer_spec.training import CrossEntropy

Loss = CrossEntropy | SigmoidCrossEntropy


def losses(loss: Loss, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of each example ``[row]``.

    Args:
        loss: which.
        logits: ``[row, class]``.
        labels: ``[row, class]``, of sum 1 for each row: one class, or a mixture.

    Example:
        >>> rows = jax.numpy.zeros((1, 4)), jax.numpy.array([[0.0, 1.0, 0.0, 0.0]])
        >>> round(float(losses(CrossEntropy(label_smoothing=0.0), *rows)[0]), 4)  # log 4
        1.3863
        >>> round(float(losses(SigmoidCrossEntropy(), *rows)[0]), 4)  # 4 log 2
        2.7726
    """
    match loss:
        case CrossEntropy(label_smoothing=smoothing):
            smooth = labels * (1.0 - smoothing) + smoothing / labels.shape[-1]
            return -(smooth * jax.nn.log_softmax(logits)).sum(axis=-1)
        case SigmoidCrossEntropy():
            yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
            return -(labels * yes + (1.0 - labels) * no).sum(axis=-1)
