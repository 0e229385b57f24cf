"""Sampling of several factors, jointly or one after the other: one scan for both.

Jointly, every step advances the parents before their children, so that a child sees what its
parents have become in the same step (arXiv:2410.21638, eq. 4 to 6: the parents' z_{t-1} goes into
the child's). A variable that is given, or drawn before, gets the noise that it would have there,
as in training (`known_state`); so sampling one factor at a time is the same scan with one factor.

As in `sd_jax.sampling`, a sampler is data, and any cut of it can be run:

    rows = joint_rows(tables, keep=(0, 9))
    state = initial_joint_state(shapes, keys, num_kept=2)
    for first in range(0, num_steps, size):
        chunk = jax.tree.map(lambda column: column[first : first + size], rows)
        state = steps(model, chunk, state, keys, given)   # jitted; makes FactorRuns, joint_steps
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fgdm_jax.runs import FactorDenoiseFn, FactorRun, check_runs
from fgdm_jax.timetable import FactorRows, JointRows, joint_rows
from sd_jax.guidance import guided
from sd_jax.sampling import SamplerState, SamplerTable, initial_noise, initial_state, sampler_step
from sd_jax.typing import Array, Float, KeyArray

ParentLatents: TypeAlias = Literal["latents", "x0"]


class JointState(NamedTuple):
    """What one joint step hands to the next.

    Attributes:
      factors: state of each variable.
      kept: predicted clean latents of each variable at the steps that `joint_rows` was told to
        keep, [kept b h w c]; zeros where the run has not been yet. Empty if nothing is kept.
    """

    factors: dict[str, SamplerState]
    kept: dict[str, Float[Array, "kept b h w c"]]


def factor_keys(keys: KeyArray, variable: str) -> KeyArray:
    """Returns the keys of one factor: the image's keys, folded with the CRC-32 of its name.

    So a variable's draws do not depend on which others are drawn beside it, nor on their order.

    Args:
      keys: [batch] keys, one for each image.
      variable: name of the factor's variable.
    """
    number = np.uint32(zlib.crc32(variable.encode()))
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def initial_joint_state(
    shapes: Mapping[str, tuple[int, int, int]], keys: KeyArray, num_kept: int = 0
) -> JointState:
    """Returns the state before the first step: noise, by `factor_keys`, and nothing kept.

    Args:
      shapes: (height, width, channels) of each variable's latents.
      keys: [batch] keys, one for each image.
      num_kept: number of steps whose predictions are kept.
    """
    factors = {
        variable: initial_state(initial_noise(factor_keys(keys, variable), shape))
        for variable, shape in shapes.items()
    }
    if num_kept == 0:
        return JointState(factors, {})
    kept = {
        variable: jnp.zeros((num_kept, *state.x0.shape), state.x0.dtype)
        for variable, state in factors.items()
    }
    return JointState(factors, kept)


def joint_steps(
    runs: Mapping[str, FactorRun],
    rows: JointRows,
    state: JointState,
    keys: KeyArray,
    given: Mapping[str, Array] | None = None,
) -> JointState:
    """Returns the state after some steps of the joint run.

    Any cut into pieces of two steps or more gives the same bits. A loop of one step is inlined by
    XLA, after which the last bits may differ.

    Args:
      runs: parents before their children (`graph.sampling_order`). Build them inside the jitted
        function, so that the parameters stay an argument of the program.
      rows: of `joint_rows`, or a cut of them.
      state: before these steps.
      keys: [batch] keys, one for each image; an image depends on its key alone.
      given: clean latents [b h w c] of variables that are not drawn; see `known_state`.

    Raises:
      ValueError: runs, rows, state and given do not fit; all problems are listed.
    """
    given = {} if given is None else given
    check_runs(runs, rows, state.factors, state.kept, keys.shape[0], given)
    noise = {
        variable: initial_noise(factor_keys(keys, variable), _shape(latents))
        for variable, latents in given.items()
    }
    own_keys = {variable: factor_keys(keys, variable) for variable in runs}

    def step(state: JointState, rows: JointRows) -> tuple[JointState, None]:
        current = dict(state.factors)
        for variable, run in runs.items():
            row = rows.factors[variable].row
            parents = {
                parent: known_state(given[parent], noise[parent], row)
                if parent in given
                else current[parent]
                for parent in run.parents
            }
            current[variable] = _advance(
                run, rows.factors[variable], current[variable], parents, own_keys[variable]
            )
        factors = {variable: current[variable] for variable in runs}
        # A slot past the end is dropped.
        kept = {
            variable: held.at[rows.slots].set(factors[variable].x0, mode="drop")
            for variable, held in state.kept.items()
        }
        return JointState(factors, kept), None

    return jax.lax.scan(step, state, rows)[0]


def _shape(latents: Array) -> tuple[int, int, int]:
    _, height, width, channels = latents.shape
    return height, width, channels


def known_state(
    clean: Float[Array, "b h w c"], noise: Float[Array, "b h w c"], row: SamplerTable
) -> SamplerState:
    """Returns what a child sees of a parent that is known: what the parent would have become.

    Its latents have the noise that is left after the child's step, its prediction is perfect. Had
    the parent been drawn beside the child, from `noise`, by a sampler that draws no noise of its
    own and a network that knows the result, it would be the same.

    Args:
      clean: the parent's latents.
      noise: the parent's own.
      row: of the child.
    """
    # Of every sampler, the share of clean latents in what a step makes; all keep the variance.
    signal = row.x0 + row.previous_x0
    deviation = jnp.sqrt(jnp.maximum(1.0 - jnp.square(signal), 0.0))
    return SamplerState(signal * clean + deviation * noise, clean)


def _advance(
    run: FactorRun,
    rows: FactorRows,
    state: SamplerState,
    parents: Mapping[str, SamplerState],
    keys: KeyArray,
) -> SamplerState:
    """Returns the factor's state after this step, in which it may wait."""

    def advance(state: SamplerState) -> SamplerState:
        noise = run.denoise(state.latents, rows.row.timesteps, parents)
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, rows.index))(keys)
        return sampler_step(rows.row, state, noise, step_keys)

    if rows.advances is None:
        return advance(state)
    return jax.lax.cond(rows.advances, advance, lambda state: state, state)


def sample_jointly(
    runs: Mapping[str, FactorRun],
    tables: Mapping[str, SamplerTable],
    keys: KeyArray,
    given: Mapping[str, Array] | None = None,
) -> dict[str, SamplerState]:
    """Returns the last state of every variable: clean latents, and the last prediction of them.

    Args:
      runs: see `joint_steps`.
      tables: the sampler of each variable.
      keys: see `joint_steps`.
      given: see `joint_steps`.
    """
    return joint_history(runs, tables, keys, given).factors


def joint_history(
    runs: Mapping[str, FactorRun],
    tables: Mapping[str, SamplerTable],
    keys: KeyArray,
    given: Mapping[str, Array] | None = None,
    *,
    keep: Sequence[int] = (),
) -> JointState:
    """Returns the last state with the predicted clean latents of chosen steps.

    They show what each factor expects its variable to be, long before it is drawn. Only the chosen
    ones take memory.

    Args:
      runs: see `joint_steps`.
      tables: the sampler of each variable.
      keys: see `joint_steps`.
      given: see `joint_steps`.
      keep: see `joint_rows`.
    """
    state = initial_joint_state({name: run.shape for name, run in runs.items()}, keys, len(keep))
    return joint_steps(runs, joint_rows(tables, keep), state, keys, given)


def hand_over(
    denoise: Callable[[Array, Array, list[Array] | None], Array],
    parents: Sequence[str],
    what: ParentLatents = "latents",
) -> FactorDenoiseFn:
    """Returns a factor's denoiser from one that takes the latents of its parents as a list.

    Args:
      denoise: (latents, timesteps, one array for each parent, or None) -> noise, such as
        `fgdm_jax.denoise.factor_denoise_fn`.
      parents: names, in the order that `denoise` takes them; none make it None.
      what: "latents" hands over the noisy latents of this step, as the paper does; "x0" the clean
        latents predicted from them, and given ones as they are, for adapters that were trained on
        clean ones, as the released code trains them.
    """

    def denoise_factor(latents: Array, timesteps: Array, seen: Mapping[str, SamplerState]) -> Array:
        handed = [getattr(seen[parent], what) for parent in parents]
        return denoise(latents, timesteps, handed or None)

    return denoise_factor


def guided_factor(
    denoise: FactorDenoiseFn, guidance_scales: Float[Array, " scales"]
) -> FactorDenoiseFn:
    """Returns a factor's denoiser with guidance; all branches see the same parents.

    So the parents stand on both sides of guidance and are not amplified, as upstream's ControlNet
    has its hint in the unconditional branch too.

    Args:
      denoise: takes (scales + 1) times the batch, branch after branch, of latents and parents.
      guidance_scales: see `sd_jax.guidance.guided`.
    """
    num_branches = guidance_scales.shape[0] + 1

    def denoise_guided(
        latents: Array, timesteps: Array, parents: Mapping[str, SamplerState]
    ) -> Array:
        # Parent by parent: jax.tree.map over the mapping would bring them into another order.
        repeated = {
            name: jax.tree.map(lambda array: jnp.concatenate([array] * num_branches), parent)
            for name, parent in parents.items()
        }

        def denoise_branches(latents: Array, timesteps: Array) -> Array:
            return denoise(latents, timesteps, repeated)

        return guided(denoise_branches, guidance_scales)(latents, timesteps)

    return denoise_guided
