from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sd_jax.samplers import SAMPLERS, ddim, euler, euler_ancestral, make_sampler
from sd_jax.sampling import initial_noise, initial_state, sample, sample_history, sample_steps
from sd_jax.schedule import ScheduleConfig, add_noise, make_schedule, sampling_timesteps
from sd_jax.testing import formula_normal, oracle_denoiser, quick_jit, relative_rms

SCHEDULE = make_schedule(ScheduleConfig())
X0 = jnp.asarray(formula_normal("x0", (2, 4, 6, 4)))
NOISE = jnp.asarray(formula_normal("noise", X0.shape))
KEYS, OTHER_KEYS = jax.vmap(jax.vmap(jax.random.key))(jnp.array([[0, 1], [2, 3]]))


def toy(latents, timesteps):
    """A denoiser that is linear in nothing and treats every element alone."""
    return jnp.tanh(latents + 0.5 * jnp.sin(timesteps / 100)) + 0.1 * latents


run_toy = quick_jit(lambda table, latents, keys: sample(toy, table, latents, keys))
run_history = quick_jit(lambda table, latents, keys: sample_history(toy, table, latents, keys))
run_steps = quick_jit(lambda rows, state, keys, first: sample_steps(toy, rows, state, keys, first))
run_oracle = quick_jit(
    lambda table, latents, keys: sample_history(oracle_denoiser(SCHEDULE, X0), table, latents, keys)
)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "upstream"])
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_oracle_leads_back_to_the_data(sampler, spacing):
    for steps in (2, 5, 20):
        timesteps = sampling_timesteps(steps, spacing=spacing)
        start = add_noise(SCHEDULE, X0, NOISE, jnp.int32(timesteps[0]))
        history = run_oracle(make_sampler(sampler, SCHEDULE, timesteps), start, KEYS)
        np.testing.assert_allclose(history.x0[-1], X0, atol=2e-3)
        # DDIM ends at the first timestep, as in the papers' code; the others at the data itself.
        end = add_noise(SCHEDULE, X0, NOISE, jnp.int32(0)) if sampler == "ddim" else X0
        np.testing.assert_allclose(history.latents[-1], end, atol=2e-3)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 2, 3, 1000])
def test_coefficients_are_finite_for_any_number_of_steps(sampler, steps):
    timesteps = sampling_timesteps(steps, spacing="trailing")
    table = make_sampler(sampler, SCHEDULE, timesteps)
    for column in jax.tree.leaves(table):
        assert column.shape == (steps,)
        assert np.isfinite(column).all()


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_step_from_the_right_prediction_stays_on_the_schedule(sampler):
    """With the true x0 and noise, each step gives the noisy latents of the next timestep."""
    timesteps = sampling_timesteps(10)
    table = make_sampler(sampler, SCHEDULE, timesteps)
    following = np.append(SCHEDULE.alphas_cumprod[timesteps[1:]], 1.0)
    if sampler == "ddim":
        following[-1] = SCHEDULE.alphas_cumprod[0]
    np.testing.assert_allclose(table.x0 + table.previous_x0, np.sqrt(following), atol=1e-6)
    np.testing.assert_allclose(table.noise**2 + table.fresh_noise**2, 1 - following, atol=1e-6)


def test_euler_is_ddim_but_for_the_last_step():
    timesteps = sampling_timesteps(10)
    ours, theirs = euler(SCHEDULE, timesteps), ddim(SCHEDULE, timesteps)
    for name, column in vars(theirs).items():
        np.testing.assert_array_equal(getattr(ours, name)[:-1], column[:-1])
    assert (ours.x0[-1], ours.noise[-1]) == (1.0, 0.0)
    assert theirs.noise[-1] > 0.02


def test_euler_ancestral_without_noise_is_euler():
    timesteps = sampling_timesteps(10)
    quiet = vars(euler_ancestral(SCHEDULE, timesteps, eta=0.0))
    for name, column in vars(euler(SCHEDULE, timesteps)).items():
        np.testing.assert_allclose(quiet[name], column, atol=1e-6)


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral"])
def test_eta_is_the_amount_of_fresh_noise(sampler):
    timesteps = sampling_timesteps(10)
    tables = [make_sampler(sampler, SCHEDULE, timesteps, eta=eta) for eta in (0.0, 0.5, 1.0)]
    assert not np.any(tables[0].fresh_noise)
    np.testing.assert_allclose(2 * tables[1].fresh_noise, tables[2].fresh_noise, rtol=1e-6)
    for table, changes in ((tables[0], False), (tables[2], True)):
        here, there = (run_toy(table, NOISE, keys) for keys in (KEYS, OTHER_KEYS))
        assert (relative_rms(here, there) > 0.1) == changes


def test_defaults_of_eta():
    timesteps = sampling_timesteps(10)
    assert not np.any(make_sampler("ddim", SCHEDULE, timesteps).fresh_noise)
    assert np.all(make_sampler("euler_ancestral", SCHEDULE, timesteps).fresh_noise[:-1] > 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "heun"}, "unknown sampler 'heun'; choose one of ddim, dpmpp_2m, euler"),
        ({"name": "euler", "eta": 0.5}, "'euler' draws no noise and takes no eta"),
        ({"name": "ddim", "eta": 1.5}, "eta must be from 0 to 1, got 1.5"),
        ({"name": "ddim", "eta": -0.1}, "eta must be from 0 to 1, got -0.1"),
    ],
)
def test_wrong_requests(arguments, message):
    name = arguments.pop("name")
    with pytest.raises(ValueError, match=message):
        make_sampler(name, SCHEDULE, sampling_timesteps(10), **arguments)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_history_ends_at_the_sample(sampler):
    table = make_sampler(sampler, SCHEDULE, sampling_timesteps(6))
    history = run_history(table, NOISE, KEYS)
    assert history.latents.shape == (6, *NOISE.shape)
    np.testing.assert_allclose(history.latents[-1], run_toy(table, NOISE, KEYS), atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler_ancestral"])
def test_a_table_may_be_cut_anywhere(sampler):
    table = make_sampler(sampler, SCHEDULE, sampling_timesteps(6))
    state = initial_state(NOISE)
    for first, last in ((0, 2), (2, 3), (3, 6)):
        rows = jax.tree.map(lambda column, a=first, b=last: column[a:b], table)
        state = run_steps(rows, state, KEYS, jnp.int32(first))
    np.testing.assert_allclose(state.latents, run_toy(table, NOISE, KEYS), atol=1e-5)


def test_an_image_depends_on_its_key_and_not_on_its_batch():
    table = make_sampler("euler_ancestral", SCHEDULE, sampling_timesteps(6))

    def draw(seeds):
        keys = jax.vmap(jax.random.key)(jnp.array(seeds))
        return np.asarray(run_toy(table, initial_noise(keys, (4, 6, 4)), keys))

    two, one, others = draw([5, 6]), draw([6]), draw([6, 7])
    np.testing.assert_allclose(two[1], one[0], atol=1e-6)
    np.testing.assert_allclose(two[1], others[0], atol=1e-6)
    assert relative_rms(two[0], two[1]) > 0.1


def test_fresh_noise_differs_from_step_to_step_and_from_the_initial_noise():
    table = make_sampler("ddim", SCHEDULE, sampling_timesteps(6), eta=1.0)
    # Nothing but the fresh noise is left.
    zeros, ones = jnp.zeros(6), jnp.ones(6)
    bare = table.replace(x0=zeros, noise=zeros, previous_x0=zeros, fresh_noise=ones)
    keys = jax.vmap(jax.random.key)(jnp.arange(40))
    start = initial_noise(keys, (4, 6, 4))
    draws = [start, *run_history(bare, start, keys).latents]
    correlations = np.corrcoef([np.ravel(draw) for draw in draws])
    assert np.abs(correlations - np.eye(7)).max() < 0.06
    assert np.std(draws) == pytest.approx(1.0, abs=0.02)


def test_other_values_compile_nothing():
    traces = []

    @jax.jit
    def run(table, weight, seeds):
        traces.append(seeds)
        keys = jax.vmap(jax.random.key)(seeds)
        return sample(
            lambda latents, t: toy(weight * latents, t), table, initial_noise(keys, (2, 2, 4)), keys
        )

    results = [
        run(make_sampler(name, SCHEDULE, timesteps, eta=eta), jnp.float32(weight), jnp.array(seeds))
        for name, eta, timesteps, weight, seeds in (
            ("ddim", None, sampling_timesteps(6), 1.0, [1, 2]),
            ("ddim", 1.0, sampling_timesteps(6, spacing="trailing"), 0.5, [3, 4]),
            ("euler_ancestral", None, sampling_timesteps(6), 1.0, [1, 2]),
            ("dpmpp_2m", None, sampling_timesteps(6), 1.0, [1, 2]),
        )
    ]
    assert len(traces) == 1
    for other in results[1:]:
        assert relative_rms(other, results[0]) > 1e-3
