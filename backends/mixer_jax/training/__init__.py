"""Training in JAX: one step at the protocol's boundary, and whole runs of a recipe.

``train_step`` and ``optax_of`` need Optax only; a run (``mixer_jax.training.run``) also Orbax.
"""

from .one_step import optax_of, train_step

__all__ = ["optax_of", "train_step"]
