"""Samplers as tables: every sampler here is one row of four coefficients a step.

DDIM, Euler, Euler-ancestral and DPM-Solver++(2M) all map the network's noise prediction to the next
latents by a linear rule,

    x0       = (latents - sqrt(1 - a) noise) / sqrt(a)
    latents' = c_x0 x0 + c_noise noise + c_previous x0_previous + c_fresh n,    n ~ N(0, I),

and differ in the numbers alone. So a sampler is data (`SamplerTable`), made on the host in float64
by the functions of `sd_jax.samplers`, and one `lax.scan` runs them all. As the table is an argument
of the compiled program, another sampler, eta or spacing with the same number of steps compiles
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from sd_jax.typing import Array, DenoiseFn, Float, Int, KeyArray


@flax.struct.dataclass
class SamplerTable:
    """One row a step; arrays of shape [steps], or scalars inside the loop.

    Attributes:
      timesteps: what the network is evaluated at, descending.
      alphas_cumprod: at these timesteps.
      x0: coefficient of the predicted clean latents.
      noise: coefficient of the predicted noise.
      previous_x0: coefficient of the clean latents predicted one step earlier; 0 in the first row.
      fresh_noise: deviation of the noise that is added.
    """

    timesteps: Int[Array, "*steps"]
    alphas_cumprod: Float[Array, "*steps"]
    x0: Float[Array, "*steps"]
    noise: Float[Array, "*steps"]
    previous_x0: Float[Array, "*steps"]
    fresh_noise: Float[Array, "*steps"]


class SamplerState(NamedTuple):
    """What one step hands to the next.

    Attributes:
      latents: noisy latents, in the variance-preserving scale of training.
      x0: the clean latents as predicted by the step before; zeros before the first.
    """

    latents: Float[Array, "b h w c"]
    x0: Float[Array, "b h w c"]


def initial_noise(keys: KeyArray, shape: tuple[int, int, int]) -> Float[Array, "b h w c"]:
    """Returns standard normal latents, one image per key, whatever else is in the batch.

    Args:
      keys: [batch] keys of `jax.random.key`.
      shape: (height, width, channels) of the latents.
    """
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def sampler_step(
    row: SamplerTable, state: SamplerState, noise: Float[Array, "b h w c"], keys: KeyArray
) -> SamplerState:
    """Returns the state after one step.

    Args:
      row: this step's row of the table (scalars).
      state: before the step.
      noise: the network's prediction at `row.timesteps`.
      keys: [batch] keys of this step.
    """
    signal, sigma = jnp.sqrt(row.alphas_cumprod), jnp.sqrt(1.0 - row.alphas_cumprod)
    x0 = (state.latents - sigma * noise) / signal
    latents = row.x0 * x0 + row.noise * noise + row.previous_x0 * state.x0
    _, height, width, channels = noise.shape
    latents += row.fresh_noise * initial_noise(keys, (height, width, channels))
    return SamplerState(latents, x0)


def _advance(
    denoise: DenoiseFn, keys: KeyArray
) -> Callable[[SamplerState, tuple[Array, SamplerTable]], SamplerState]:
    def advance(state: SamplerState, inputs: tuple[Array, SamplerTable]) -> SamplerState:
        index, row = inputs
        noise = denoise(state.latents, row.timesteps)
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)
        return sampler_step(row, state, noise, step_keys)

    return advance


def initial_state(latents: Float[Array, "b h w c"]) -> SamplerState:
    """Returns the state before the first step."""
    return SamplerState(latents, jnp.zeros_like(latents))


def sample_steps(
    denoise: DenoiseFn,
    table: SamplerTable,
    state: SamplerState,
    keys: KeyArray,
    first_step: Int[Array, ""] | int = 0,
) -> SamplerState:
    """Returns the state after the table's steps, which may be some rows of a longer table.

    Args:
      denoise: (latents, timestep) -> noise. Build it inside the jitted function, so that the
        parameters stay an argument of the program.
      table: the rows to run.
      state: before them.
      keys: [batch] keys; only samplers with `fresh_noise` draw from them.
      first_step: index of the first row in the whole table, so that draws do not depend on how a
        table is cut.
    """
    advance = _advance(denoise, keys)
    steps = first_step + jnp.arange(table.timesteps.shape[0])
    state, _ = jax.lax.scan(lambda state, row: (advance(state, row), None), state, (steps, table))
    return state


def sample(
    denoise: DenoiseFn, table: SamplerTable, latents: Float[Array, "b h w c"], keys: KeyArray
) -> Float[Array, "b h w c"]:
    """Returns clean latents.

    Args:
      denoise: see `sample_steps`.
      table: the sampler.
      latents: standard normal noise.
      keys: [batch] keys; only samplers with `fresh_noise` draw from them.
    """
    return sample_steps(denoise, table, initial_state(latents), keys).latents


def sample_history(
    denoise: DenoiseFn, table: SamplerTable, latents: Float[Array, "b h w c"], keys: KeyArray
) -> SamplerState:
    """Returns latents and predicted clean latents after every step, stacked: [steps, b, h, w, c].

    Arguments as in `sample`.
    """
    advance = _advance(denoise, keys)

    def body(
        state: SamplerState, inputs: tuple[Array, SamplerTable]
    ) -> tuple[SamplerState, SamplerState]:
        state = advance(state, inputs)
        return state, state

    steps = jnp.arange(table.timesteps.shape[0])
    _, history = jax.lax.scan(body, initial_state(latents), (steps, table))
    return history


def chunk_size(num_steps: int, largest: int = 8) -> int:
    """Returns how many steps to do in one call of `sample_steps`: a divisor, so one program does.

    Args:
      num_steps: of the whole table.
      largest: of the result.
    """
    return max(size for size in range(1, largest + 1) if num_steps % size == 0)
