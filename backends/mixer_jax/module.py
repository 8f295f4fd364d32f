"""The Flax face: a ``linen`` module over the pure functions, with the same parameter names."""

from __future__ import annotations

import flax.linen as nn
import jax

from mixer_spec import ModelSpec

from .forward import Precision, apply
from .params import init


class SpecModule(nn.Module):
    """Any spec as a ``flax.linen`` module.

    ``module.init(key, images)`` draws from the distributions of ``mixer_spec.weights.initial``,
    by ``jax.random``; for the very values of that function, apply ``{"params": init(spec, seed)}``
    with a whole number for a seed. Parameters may also come from
    :func:`~mixer_jax.params.from_canonical` or :func:`~mixer_jax.params.stack`.

    Args:
        spec: the architecture.
        precision: of matrix products, as for :func:`~mixer_jax.forward.apply`.

    Raises:
        InputError: if the inputs do not fit the spec.
        WeightsError: if the parameters do not fit the spec.

    Example:
        >>> import jax.numpy as jnp
        >>> from mixer_spec import families
        >>> spec = families.mixer(image_size=8, patch=4, channels=6, depth=1, token_hidden=5,
        ...                       channel_hidden=7, classes=3)
        >>> images = jnp.ones((2, 8, 8, 3))
        >>> SpecModule(spec).apply({"params": init(spec, 0)}, images).shape
        (2, 3)
    """

    spec: ModelSpec
    precision: Precision = None

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """The logits ``[batch, class]`` of images ``[batch, height, width, rgb]``, or of sequences."""
        if self.is_initializing():
            for name, subtree in init(self.spec, self.make_rng("params")).items():
                self.put_variable("params", name, subtree)
        params = self.variables.get("params", {})
        return apply(self.spec, params, inputs, precision=self.precision)
