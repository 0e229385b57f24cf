"""The loss by timestep on a fixed set of examples with fixed noise: a curve that can be compared.

The training loss hides progress, since most of it is the timesteps and the noise that were drawn.
Here every example is seen once in each of a few equal ranges of timesteps, with the same key at
every evaluation, so that all that moves the numbers is the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from sd_jax.training.step import Batch
from sd_jax.typing import Array, Float, Int, KeyArray, Params


@runtime_checkable
class ExampleLossFn(Protocol):
    """The loss of each example at given timesteps, as training would have it without dropout."""

    def __call__(
        self, params: Params, frozen: Params, batch: Batch, keys: KeyArray, timesteps: Array
    ) -> Float[Array, " b"]:
        """Returns [batch] losses."""
        ...


def bucket_timesteps(
    first_row: int, rows: int, bucket: int, num_buckets: int, num_train_timesteps: int
) -> Int[np.ndarray, " rows"]:
    """Returns a timestep of a bucket for each example, spread evenly over the bucket.

    Args:
      first_row: number of the first example in the whole set.
      rows: of the batch.
      bucket: from 0, the clean end, to num_buckets - 1.
      num_buckets: equal ranges that the schedule is divided into.
      num_train_timesteps: of the schedule.
    """
    # The golden ratio's multiples fill an interval evenly, however many of them there are.
    places = (np.arange(first_row, first_row + rows) * 0.6180339887498949) % 1.0
    return ((bucket + places) * num_train_timesteps / num_buckets).astype(np.int32)


def make_eval_step(
    loss_fn: ExampleLossFn,
) -> Callable[[Params, Params, Batch, KeyArray, Array, Array], Float[Array, ""]]:
    """Returns (params, frozen, batch, key, first_row, timesteps) -> the sum of the losses.

    Example n of the whole set has the n-th key, in whatever batches the set is cut.

    Args:
      loss_fn: of the run.
    """

    def eval_step(
        params: Params,
        frozen: Params,
        batch: Batch,
        key: KeyArray,
        first_row: Array,
        timesteps: Array,
    ) -> Float[Array, ""]:
        rows = first_row + jnp.arange(timesteps.shape[0])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
        return jnp.sum(loss_fn(params, frozen, batch, keys, timesteps))

    return eval_step


def evaluate(
    eval_step: Callable[..., Any],
    params: Params,
    frozen: Params,
    batches: Iterable[Mapping[str, Any]],
    key: KeyArray,
    *,
    num_buckets: int,
    num_train_timesteps: int,
    place: Callable[[Any], Any] = jnp.asarray,
) -> dict[str, float]:
    """Returns the mean loss of all ("loss"), and of each bucket ("loss_000_099") if there are some.

    Args:
      eval_step: of `make_eval_step`, compiled.
      params: trainable parameters, or their average.
      frozen: the others.
      batches: of the fixed set, on the devices.
      key: of the fixed noise.
      num_buckets: equal ranges of timesteps; 1 for a loss that does not depend on them.
      num_train_timesteps: of the schedule.
      place: puts numbers that all devices need on them.
    """
    sums, first_row = np.zeros(num_buckets), 0
    for batch in batches:
        rows = jax.tree.leaves(dict(batch))[0].shape[0]
        results = []
        for bucket in range(num_buckets):
            timesteps = bucket_timesteps(first_row, rows, bucket, num_buckets, num_train_timesteps)
            numbers = place(np.int32(first_row)), place(timesteps)
            results.append(eval_step(params, frozen, batch, key, *numbers))
        sums += [float(result) for result in results]
        first_row += rows
    if not first_row:
        raise ValueError("the evaluation set is empty")
    means = sums / first_row
    if num_buckets == 1:
        return {"loss": float(means[0])}
    width = num_train_timesteps / num_buckets
    named = {
        f"loss_{int(number * width):03d}_{int((number + 1) * width) - 1:03d}": float(mean)
        for number, mean in enumerate(means)
    }
    return {"loss": float(means.mean()), **named}
