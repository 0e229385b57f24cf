"""What training changes: parameters, the optimizer's moments, their average, and counters."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from sd_jax.typing import Array, Params


@flax.struct.dataclass
class TrainState:
    """All that a step reads and writes, and all that a checkpoint needs to go on from.

    The random key is not in it: a step's key follows from the run's key and `step`, and a donated
    buffer cannot be shared.

    Attributes:
      step: int32 []; updates tried, skipped ones included.
      params: trainable parameters, float32.
      opt_state: of the optimizer.
      ema: exponential moving average of `params`, or None.
      skipped: int32 []; updates left out because the loss or a gradient was not finite.
      skipped_in_a_row: int32 []; how many of them the last update tried ends.
    """

    # Not typed by shape, as transformations put other things than arrays in a pytree.
    step: Any
    params: Any
    opt_state: Any
    ema: Any
    skipped: Any
    skipped_in_a_row: Any


def make_state(
    params: Params, optimizer: optax.GradientTransformation, *, has_ema: bool = False
) -> TrainState:
    """Returns the state before the first step.

    Args:
      params: trainable parameters; copied to float32, as the step gives up the state's.
      optimizer: whose state is made.
      has_ema: whether an average of the parameters is kept.
    """
    params = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), params)
    zero: Array = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        opt_state=optimizer.init(params),
        # A copy, as the two are donated side by side.
        ema=jax.tree.map(jnp.copy, params) if has_ema else None,
        skipped=jnp.copy(zero),
        skipped_in_a_row=jnp.copy(zero),
    )
