"""One training step for every run: (state, frozen, batch, key) -> (state, metrics).

    key, step -> one key for each example
    batch -> microbatches -> loss, gradients      their mean
    gradients -> optimizer -> params, ema         or, if anything is not finite, nothing changes

A loss is the mean of its examples' losses, each with a key of its own, so that neither the number
of microbatches nor the mesh changes what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from sd_jax.losses import Mean
from sd_jax.training.state import TrainState
from sd_jax.typing import Array, Float, KeyArray, Params

Batch: TypeAlias = Mapping[str, Array]
Metrics: TypeAlias = dict[str, Array | Mean]


@runtime_checkable
class LossFn(Protocol):
    """A run's loss: the mean over the examples of a batch.

    What an example contributes must depend on the parameters, the example, its key and the number
    of steps done alone.
    """

    def __call__(
        self, params: Params, frozen: Params, batch: Batch, keys: KeyArray, step: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        """Returns the loss and further scalars; `keys` has one for each example."""
        ...


@runtime_checkable
class StepFn(Protocol):
    """A training step; see `make_train_step`."""

    def __call__(
        self, state: TrainState, frozen: Params, batch: Batch, key: KeyArray, /
    ) -> tuple[TrainState, Metrics]:
        """Returns the state after the step and its metrics."""
        ...


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    accumulation: int = 1,
    ema_decay: float = 0.0,
) -> StepFn:
    """Returns the step of a run, to be jitted with the state donated.

    The metrics are scalars: `loss`, those of the loss function, `grad_norm` before clipping,
    `param_norm`, `update_norm`, and, where the update was left out, `skipped` is 1 and
    `skipped_in_a_row` tells how many such steps this one ends; `skipped_in_all` counts them.

    Args:
      loss_fn: of the run.
      optimizer: of the run (`sd_jax.training.optim`).
      accumulation: microbatches that a batch is split into; their gradients are averaged.
      ema_decay: of the average of the parameters, reached over the first steps as
        (1 + step) / (10 + step) grows to it; 0 where the state keeps none.
    """
    gradients_of = _accumulated(loss_fn, accumulation)

    def train_step(
        state: TrainState, frozen: Params, batch: Batch, key: KeyArray
    ) -> tuple[TrainState, Metrics]:
        rows = jax.tree.leaves(dict(batch))[0].shape[0]
        keys = jax.random.split(jax.random.fold_in(key, state.step), rows)
        (loss, metrics), gradients = gradients_of(state.params, frozen, batch, keys, state.step)
        metrics = {name: _value(metric) for name, metric in metrics.items()}
        grad_norm = optax.tree.norm(gradients)
        is_good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        def unless_bad(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda ours, theirs: jnp.where(is_good, ours, theirs), new, old)

        params = unless_bad(params, state.params)
        ema = state.ema
        if ema is not None:
            ema = unless_bad(_averaged(ema, params, state.step, ema_decay), ema)
        skipped = 1 - is_good.astype(jnp.int32)
        skipped_in_a_row = (state.skipped_in_a_row + 1) * skipped
        metrics = {
            **metrics,
            "loss": loss,
            "grad_norm": grad_norm,
            "param_norm": optax.tree.norm(params),
            "update_norm": optax.tree.norm(updates),
            "skipped": skipped,
            "skipped_in_a_row": skipped_in_a_row,
            "skipped_in_all": state.skipped + skipped,
        }
        state = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=unless_bad(opt_state, state.opt_state),
            ema=ema,
            skipped=state.skipped + skipped,
            skipped_in_a_row=skipped_in_a_row,
        )
        return state, metrics

    return train_step


def _value(metric: Array | Mean) -> Array:
    return metric.value if isinstance(metric, Mean) else metric


def _accumulated(loss_fn: LossFn, accumulation: int) -> Callable[..., Any]:
    """Returns (params, frozen, batch, keys, step) -> ((loss, metrics), mean gradients)."""
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    if accumulation == 1:
        return value_and_grad

    def accumulated(
        params: Params, frozen: Params, batch: Batch, keys: KeyArray, step: Array
    ) -> Any:
        def split(rows: Array) -> Array:
            # Every n-th row, not every n-th part: each device keeps the rows that it has.
            parts = rows.reshape(rows.shape[0] // accumulation, accumulation, *rows.shape[1:])
            return jnp.moveaxis(parts, 1, 0)

        def add(total: Any, microbatch: Any) -> tuple[Any, None]:
            result = value_and_grad(params, frozen, *microbatch, step)
            return jax.tree.map(jnp.add, total, result), None

        microbatches = jax.tree.map(split, (dict(batch), keys))
        first = jax.tree.map(lambda rows: rows[0], microbatches)
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(value_and_grad, params, frozen, *first, step),
        )
        total, _ = jax.lax.scan(add, zeros, microbatches)
        return jax.tree.map(lambda leaf: leaf / accumulation, total)

    return accumulated


def _averaged(ema: Params, params: Params, step: Array, decay: float) -> Params:
    steps = step.astype(jnp.float32)
    now = jnp.minimum(decay, (1.0 + steps) / (10.0 + steps))
    return jax.tree.map(lambda old, new: now * old + (1.0 - now) * new, ema, params)
