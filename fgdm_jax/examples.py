"""What the factors see of a batch: noisy latents of variables, parents, text, and what is there.

A variable's noise is the same in both of its latents, those of timestep t and those of t - 1 that
its children see: the latter are what a sampler without fresh noise would make of the former.
Every random choice follows from the example's key and the variables' names, so that it does not
depend on what else is in the batch or in the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fgdm_jax.graph import Factor
from fgdm_jax.sampling import factor_keys
from sd_jax.encoding import Batch, latents_scale, posterior_of
from sd_jax.losses import draw
from sd_jax.model import Model
from sd_jax.schedule import add_noise, make_schedule
from sd_jax.typing import Array, Float, Int, KeyArray

# What the draws of nulls are folded with: apart from those of `sd_jax.losses.draw`.
_NULL = 100


class Noisy(NamedTuple):
    """A variable of a batch on its way to noise.

    Attributes:
      x0: clean latents, scaled.
      noise: that is added.
      now: noisy latents of timestep t.
      before: noisy latents of timestep t - 1, with the same noise; the clean ones for t = 0.
    """

    x0: Array
    noise: Array
    now: Array
    before: Array


def noisy_latents(
    model: Model,
    batch: Batch,
    variable: str,
    keys: KeyArray,
    timesteps: Int[Array, " b"],
    dtype: Any = jnp.float32,
) -> Noisy:
    """Returns the latents of a variable with noise.

    Args:
      model: with its autoencoder, unless the batch has cached latents.
      batch: with the variable.
      variable: which.
      keys: one for each example.
      timesteps: how much noise.
      dtype: type of the autoencoder's computation.
    """
    schedule = make_schedule(model.config.schedule)
    posterior = posterior_of(model, batch, variable, dtype)
    draws = draw(factor_keys(keys, variable), posterior.mean.shape[1:], 1)
    x0 = posterior.sample_each(draws.latents) * latents_scale(model)
    now = add_noise(schedule, x0, draws.noise, timesteps)
    earlier = add_noise(schedule, x0, draws.noise, jnp.maximum(timesteps - 1, 0))
    before = jnp.where(column(timesteps, 4) > 0, earlier, x0)
    return Noisy(x0, draws.noise, now, before)


def seen_parents(
    factor: Factor,
    batch: Batch,
    columns: Sequence[str],
    keys: KeyArray,
    null_parents: float,
) -> dict[str, Float[Array, " b"]]:
    """Returns for each parent 1 where the factor sees it, and 0 where it sees zeros instead.

    Args:
      factor: whose parents.
      batch: with `present`, unless every variable is there.
      columns: variables of `present`.
      keys: one for each example.
      null_parents: probability with which each parent is hidden, on its own.
    """
    own_keys = factor_keys(keys, factor.variable)
    seen = {}
    for name in factor.parents:
        seen[name] = presence(batch, columns, name, len(keys))
        if null_parents:
            fold = jax.vmap(jax.random.fold_in, (0, None))
            draws = jax.vmap(jax.random.uniform)(fold(factor_keys(own_keys, name), _NULL))
            seen[name] *= (draws >= null_parents).astype(jnp.float32)
    return seen


def examples_of(
    factor: Factor, batch: Batch, columns: Sequence[str], rows: int
) -> Float[Array, " b"]:
    """Returns 1 for the examples that a factor learns from, else 0.

    They have its variable and, if it has parents, at least one of these.

    Args:
      factor: which.
      batch: as in `seen_parents`.
      columns: as in `seen_parents`.
      rows: of the batch.
    """
    counts = presence(batch, columns, factor.variable, rows)
    if not factor.parents:
        return counts
    there = [presence(batch, columns, name, rows) for name in factor.parents]
    return counts * jnp.max(jnp.stack(there), axis=0)


def presence(batch: Batch, columns: Sequence[str], variable: str, rows: int) -> Float[Array, " b"]:
    """Returns 1 for the examples that have a variable, else 0; arguments as in `examples_of`."""
    if "present" not in batch or variable not in columns:
        return jnp.ones(rows)
    return batch["present"][:, columns.index(variable)].astype(jnp.float32)


def column(values: Array, ndim: int) -> Array:
    """Returns one value for each example, to be broadcast over its other axes.

    Args:
      values: [b].
      ndim: axes of what they are broadcast over.
    """
    return values.reshape(-1, *(1,) * (ndim - 1))
