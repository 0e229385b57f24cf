"""A chain of factors with denoisers in closed form, and what is drawn from it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgdm_jax.runs import FactorRun
from fgdm_jax.sampling import factor_keys, sample_jointly
from sd_jax.samplers import make_sampler
from sd_jax.sampling import SamplerState, initial_noise, sample, sample_history
from sd_jax.schedule import ScheduleConfig, make_schedule, sampling_timesteps
from sd_jax.testing import formula_normal, quick_jit

SCHEDULE = make_schedule(ScheduleConfig())
SIZE = (4, 6)
SHAPE = (*SIZE, 4)
KEYS = jax.vmap(jax.random.key)(jnp.array([3, 4]))
GIVEN = jnp.asarray(formula_normal("given", (2, *SHAPE)))
ETAS = {"ddim": 1.0, "dpmpp_2m": None, "euler_ancestral": None}
JITS = {"quick": quick_jit, "optimised": jax.jit}


def toy(weight, *parents):
    """Returns a run whose noise is linear in nothing and depends on all that it sees."""

    def denoise(latents, timesteps, seen):
        assert tuple(seen) == parents
        noise = jnp.tanh(weight * latents + 0.5 * jnp.sin(timesteps / 100)) + 0.1 * latents
        for index, parent in enumerate(parents):
            noise += jnp.cos((index + 2) * seen[parent].latents) * 0.3
            noise -= jnp.tanh((index + 1) * seen[parent].x0) * latents * 0.2
        return noise

    return FactorRun(denoise, SIZE, parents=parents)


def toy_of_clean(weight, *parents):
    """Returns a run like `toy`, which sees the clean latents of its parents alone."""
    run = toy(weight, *parents)

    def denoise(latents, timesteps, seen):
        clean = {name: SamplerState(state.x0, state.x0) for name, state in seen.items()}
        return run.denoise(latents, timesteps, clean)

    return FactorRun(denoise, SIZE, parents=parents)


RUNS = {
    "segmentation": toy(1.0),
    "depth": toy(0.7, "segmentation"),
    "image": toy(0.4, "depth", "segmentation"),
}


CLEAN = toy_of_clean(0.4, "depth", "segmentation")
"""The image's run, but of clean parents."""


def table(name="ddim", steps=6):
    timesteps = sampling_timesteps(steps, spacing="trailing")
    return make_sampler(name, SCHEDULE, timesteps, eta=ETAS[name])


def tables(*names, sampler="ddim", **steps):
    return {name: table(sampler, steps.get(name, 6)) for name in names}


def only(*names):
    return {name: RUNS[name] for name in names}


@functools.cache
def program(*names, jit="quick"):
    """Returns sample_jointly of some of the RUNS, compiled: (tables, keys, given) -> states."""
    return JITS[jit](lambda *args: sample_jointly(only(*names), *args))


def alone(name, rows, jit="quick", history=False, given=None, run=None):
    """Returns what `sd_jax.sampling` makes of one of the RUNS alone."""
    run = run or RUNS[name]

    def draw(rows, keys, given):
        seen = {parent: SamplerState(given[parent], given[parent]) for parent in run.parents}
        keys = factor_keys(keys, name)
        start = initial_noise(keys, run.shape)
        sampler = sample_history if history else sample
        return sampler(lambda *inputs: run.denoise(*inputs, seen), rows, start, keys)

    return JITS[jit](draw)(rows, KEYS, given)


def assert_same(actual, expected):
    """Compares trees bit for bit; their types allow for no tree of None."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def lowered(draw, rows, jit=jax.jit):
    """Returns a lowered function of tables, whose types allow for no tree of shapes."""
    leaves, structure = jax.tree.flatten(rows)
    return jit(lambda *leaves: draw(jax.tree.unflatten(structure, leaves))).lower(*leaves)


def problems_of(call, *args, **kwargs):
    with pytest.raises(ValueError, match=r"\S") as caught:
        call(*args, **kwargs)
    return str(caught.value).splitlines()
