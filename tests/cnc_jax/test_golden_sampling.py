"""Whole samplings against the original DDIM."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from cnc_jax.condition import concatenate_conditions
from cnc_jax.denoise import denoise_fn
from sd_jax.guidance import guided
from sd_jax.samplers import ddim, euler_ancestral
from sd_jax.sampling import sample_history
from sd_jax.schedule import ScheduleConfig, make_schedule, sampling_timesteps
from sd_jax.testing import relative_rms

pytestmark = pytest.mark.parity
TOLERANCE = 1e-4
CHUNK = 5


class Sampling:
    """Guided DDIM samplings of the tiny model, with one program; counts how often it is traced."""

    def __init__(self, model, inputs):
        self.model, self.inputs, self.traces = model, inputs, 0
        self.program = jax.jit(self._run)

    def _run(self, model, table, texts, condition, scales, latents, keys):
        self.traces += 1
        both = concatenate_conditions(condition, condition)
        denoise = denoise_fn(model, (2 * latents.shape[0], *latents.shape[1:]), texts, both)
        return sample_history(guided(denoise, scales), table, latents, keys)

    def __call__(self, scale, strengths=(1.0, 1.0), steps=CHUNK, *, sampler=ddim, seed=0):
        """Returns latents and predicted clean latents after each of the last five steps."""
        inputs, latents = self.inputs, self.inputs.initial
        table = sampler(make_schedule(ScheduleConfig()), sampling_timesteps(steps))
        # DDIM remembers nothing from one step to the next, so its table can be cut anywhere.
        for first in range(0, steps, CHUNK):
            rows = jax.tree.map(lambda column, first=first: column[first : first + CHUNK], table)
            history = self.program(
                self.model,
                rows,
                jnp.concatenate([inputs.negative, inputs.text]),
                inputs.condition.replace(exemplar_strengths=jnp.array(strengths)),
                jnp.array([scale]),
                latents,
                jax.vmap(jax.random.key)(seed + jnp.arange(2)),
            )
            latents = history.latents[-1]
        return history


@pytest.fixture(scope="module")
def sampling(golden_model, golden_inputs):
    return Sampling(golden_model, golden_inputs)


def assert_close(ours, theirs, tolerance=TOLERANCE):
    assert relative_rms(ours, theirs.transpose(0, 2, 3, 1)) <= tolerance


def test_five_steps(sampling, golden):
    goldens, history = golden("ddim"), sampling(7.5)
    assert_close(history.latents[-1], goldens["ddim5_cfg7.5"])
    for number, step in ((0, 0), (1, -1)):
        assert_close(history.latents[step], goldens[f"ddim5_cfg7.5.logged_x.{number}"])
        assert_close(history.x0[step], goldens[f"ddim5_cfg7.5.logged_pred_x0.{number}"])


def test_strengths(sampling, golden):
    history = sampling(7.5, (0.5, 1.5))
    assert_close(history.latents[-1], golden("ddim")["ddim5_cfg7.5_strength_0.5_1.5"])


def test_scale_one(sampling, golden):
    assert_close(sampling(1.0).latents[-1], golden("ddim")["ddim5_cfg1"])


def test_strengths_count_at_scale_one_too(sampling, golden):
    # The original drops them there, so that its result is the one without strengths.
    theirs = golden("ddim")["ddim5_cfg1_strength_0.5_1.5"]
    assert (theirs == golden("ddim")["ddim5_cfg1"]).all()
    ours = sampling(1.0, (0.5, 1.5)).latents
    assert relative_rms(ours[-1], theirs.transpose(0, 2, 3, 1)) > 1e-2
    # The first step is linear in the scale, and at the other scale strengths agree with theirs.
    none, strong = (sampling(scale, (0.5, 1.5)).latents[0] for scale in (0.0, 7.5))
    assert relative_rms(ours[0], none + (strong - none) / 7.5) <= 1e-5


def test_fifty_steps(sampling, golden):
    assert_close(sampling(7.5, steps=50).latents[-1], golden("ddim")["ddim50_cfg7.5"])


def test_other_values_trace_nothing(sampling, golden_inputs):
    before = sampling(7.5).latents[-1]
    traces = sampling.traces
    sampling(3.0, (0.1, 0.9), steps=10)
    noisy = sampling(7.5, sampler=euler_ancestral)
    assert relative_rms(noisy.latents[-1], before) > 1e-2
    other_seed = sampling(7.5, sampler=euler_ancestral, seed=5)
    assert relative_rms(other_seed.latents[-1], noisy.latents[-1]) > 1e-2
    sampling.inputs = SimpleNamespace(**{**vars(golden_inputs), "text": golden_inputs.negative})
    other_prompt = sampling(7.5)
    sampling.inputs = golden_inputs
    assert relative_rms(other_prompt.latents[-1], before) > 1e-2
    assert sampling.traces == traces
