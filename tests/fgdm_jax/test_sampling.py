from __future__ import annotations

import itertools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgdm_jax.runs import FactorRun
from fgdm_jax.sampling import (
    factor_keys,
    guided_factor,
    hand_over,
    initial_joint_state,
    joint_steps,
    known_state,
    sample_jointly,
)
from fgdm_jax.timetable import joint_rows
from sd_jax.guidance import guided
from sd_jax.samplers import make_sampler
from sd_jax.sampling import SamplerState, initial_noise, initial_state, sample, sampler_step
from sd_jax.schedule import add_noise, sampling_timesteps
from sd_jax.testing import formula_normal, oracle_denoiser, quick_jit, relative_rms
from tests.fgdm_jax.toy_factors import (
    CLEAN,
    ETAS,
    GIVEN,
    JITS,
    KEYS,
    RUNS,
    SCHEDULE,
    SHAPE,
    SIZE,
    alone,
    assert_same,
    program,
    table,
    tables,
    toy,
)


@pytest.mark.parametrize("jit", sorted(JITS))
@pytest.mark.parametrize("sampler", sorted(ETAS))
def test_one_factor_is_plain_sampling(sampler, jit):
    rows = table(sampler)
    states = program("segmentation", jit=jit)({"segmentation": rows}, KEYS)
    assert_same(states["segmentation"].latents, alone("segmentation", rows, jit))


@pytest.mark.parametrize("jit", sorted(JITS))
@pytest.mark.parametrize("sampler", sorted(ETAS))
def test_given_parents_make_conditional_sampling(sampler, jit):
    rows = table(sampler)
    given = {"depth": GIVEN, "segmentation": 0.5 * GIVEN}
    draw = JITS[jit](lambda *args: sample_jointly({"image": CLEAN}, *args))
    states = draw({"image": rows}, KEYS, given)
    assert list(states) == ["image"]
    expected = alone("image", rows, jit, given=given, run=CLEAN)
    assert_same(states["image"].latents, expected)
    other = draw({"image": rows}, KEYS, {**given, "depth": -GIVEN})
    assert relative_rms(other["image"].latents, expected) > 1e-2


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_every_child_sees_what_its_parents_have_become_in_the_same_step(sampler):
    """The loop that the paper describes (eq. 4 to 6), written out."""
    rows = tables(*RUNS, sampler=sampler)
    keys = {name: factor_keys(KEYS, name) for name in RUNS}
    states = {name: initial_state(initial_noise(keys[name], SHAPE)) for name in RUNS}
    for index in range(6):
        for name, run in RUNS.items():
            row = jax.tree.map(lambda column, i=index: column[i], rows[name])
            seen = {parent: states[parent] for parent in run.parents}
            noise = run.denoise(states[name].latents, row.timesteps, seen)
            step_keys = jax.vmap(lambda key, i=index: jax.random.fold_in(key, i))(keys[name])
            states[name] = sampler_step(row, states[name], noise, step_keys)
    actual = program(*RUNS)(rows, KEYS)
    for name in RUNS:
        np.testing.assert_allclose(actual[name].latents, states[name].latents, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(actual[name].x0, states[name].x0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("what", ["latents", "x0"])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_the_hand_over_is_the_advanced_state(what, step):
    """A child that becomes what it sees of its parent is, after step i, the parent after step i."""
    becomes = FactorRun(
        lambda _, t, seen: getattr(seen["segmentation"], what), SIZE, 4, ("segmentation",)
    )
    zeros, ones = jnp.zeros(6), jnp.ones(6)
    recorder = table().replace(x0=zeros, noise=ones, previous_x0=zeros, fresh_noise=zeros)
    runs = {"segmentation": RUNS["segmentation"], "image": becomes}

    @quick_jit
    def run(tables):
        rows = jax.tree.map(lambda column: column[: step + 1], joint_rows(tables))
        start = initial_joint_state({name: run.shape for name, run in runs.items()}, KEYS)
        return joint_steps(runs, rows, start, KEYS).factors

    states = run({"segmentation": table(), "image": recorder})
    history = alone("segmentation", table(), history=True)
    assert_same(states["image"].latents, getattr(history, what)[step])
    assert_same(states["image"].latents, getattr(states["segmentation"], what))


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler"])
def test_a_given_variable_is_seen_as_if_it_had_been_drawn(sampler):
    """A perfect parent and the same one given make the same child, whatever it sees of it."""
    depth = oracle_denoiser(SCHEDULE, GIVEN)
    runs = {
        "depth": FactorRun(lambda latents, timesteps, seen: depth(latents, timesteps), SIZE),
        "image": toy(0.4, "depth"),
    }
    rows = make_sampler(sampler, SCHEDULE, sampling_timesteps(6, spacing="trailing"))
    both = quick_jit(lambda *args: sample_jointly(runs, *args))(dict.fromkeys(runs, rows), KEYS)
    own, given = {"image": rows}, {"depth": GIVEN}
    child = {"image": runs["image"]}
    one = quick_jit(lambda *args: sample_jointly(child, *args))(own, KEYS, given)
    # Not the same, as drawing starts from noise alone, where a trace of the clean latents belongs.
    assert relative_rms(one["image"].latents, both["image"].latents) < 0.05

    def of_clean(latents, timesteps, seen):
        clean = SamplerState(seen["depth"].x0, seen["depth"].x0)
        return runs["image"].denoise(latents, timesteps, {"depth": clean})

    other = {"image": FactorRun(of_clean, SIZE, parents=("depth",))}
    clean = quick_jit(lambda *args: sample_jointly(other, *args))(own, KEYS, given)
    assert relative_rms(clean["image"].latents, both["image"].latents) > 0.3


def test_what_is_known_of_a_given_variable():
    noise = jnp.asarray(formula_normal("noise", GIVEN.shape))
    rows = make_sampler("ddim", SCHEDULE, sampling_timesteps(6, spacing="trailing"))
    for index in range(6):
        row = jax.tree.map(lambda column, i=index: column[i], rows)
        state = known_state(GIVEN, noise, row)
        level = rows.timesteps[index + 1] if index < 5 else 0
        expected = add_noise(SCHEDULE, GIVEN, noise, jnp.full(2, level))
        np.testing.assert_allclose(state.latents, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(state.x0, GIVEN)


@pytest.mark.parametrize("jit", sorted(JITS))
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_another_factor_leaves_the_others_as_they_are(sampler, jit):
    results = [
        program(*names, jit=jit)(tables(*names, sampler=sampler), KEYS)
        for names in (("segmentation",), ("segmentation", "depth"), tuple(RUNS))
    ]
    for fewer, more in itertools.pairwise(results):
        assert_same({name: more[name] for name in fewer}, fewer)
    # Variables have noise of their own.
    assert relative_rms(results[2]["image"].latents, results[2]["depth"].latents) > 0.1


@pytest.mark.parametrize("jit", sorted(JITS))
@pytest.mark.parametrize("sampler", sorted(ETAS))
@pytest.mark.parametrize("steps", [3, 5])
def test_a_factor_of_few_steps_is_what_it_is_alone(steps, sampler, jit):
    names = ("segmentation", "depth")
    rows = tables(*names, sampler=sampler, segmentation=steps, depth=10)
    states = program(*names, jit=jit)(rows, KEYS)
    assert_same(states["segmentation"].latents, alone("segmentation", rows["segmentation"], jit))


def test_a_factor_of_one_step_is_what_it_is_alone():
    # XLA inlines a loop of one step, so that the last bits may differ.
    rows = tables("segmentation", "depth", segmentation=1, depth=10)
    states = program("segmentation", "depth")(rows, KEYS)
    expected = alone("segmentation", rows["segmentation"])
    np.testing.assert_allclose(states["segmentation"].latents, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["joint", "sequential"])
def test_perfect_factors_draw_a_consistent_pair(mode):
    """An image that is a function of its depth comes out as that of the depth that was drawn."""

    def of_parent(latents, timesteps, seen):
        return oracle_denoiser(SCHEDULE, -2.0 * seen["depth"].x0)(latents, timesteps)

    depth = oracle_denoiser(SCHEDULE, GIVEN)
    runs = {
        "depth": FactorRun(lambda latents, timesteps, seen: depth(latents, timesteps), SIZE),
        "image": FactorRun(of_parent, SIZE, parents=("depth",)),
    }
    own = tables("depth", "image", sampler="dpmpp_2m", depth=4, image=12)
    parts = [runs] if mode == "joint" else [{name: run} for name, run in runs.items()]
    states = {}
    for part in parts:
        given = {name: state.latents for name, state in states.items()}
        tables_of = {name: own[name] for name in part}
        states |= quick_jit(lambda *args, part=part: sample_jointly(part, *args))(
            tables_of, KEYS, given
        )
    np.testing.assert_allclose(states["depth"].latents, GIVEN, atol=2e-3)
    np.testing.assert_allclose(states["image"].latents, -2.0 * GIVEN, atol=5e-3)


def test_factors_may_have_sizes_of_their_own():
    def enlarged(latents, timesteps, seen):
        return jnp.tanh(latents) + jnp.repeat(jnp.repeat(seen["depth"].x0, 2, 1), 2, 2)

    runs = {
        "depth": toy(1.0),
        "image": FactorRun(enlarged, (8, 12), parents=("depth",)),
    }
    states = quick_jit(lambda *args: sample_jointly(runs, *args))(tables(*runs), KEYS)
    assert states["image"].latents.shape == (2, 8, 12, 4)
    assert states["depth"].latents.shape == (2, *SHAPE)


def test_an_image_depends_on_its_key_and_not_on_its_batch():
    keys = jax.vmap(jax.random.key)(jnp.array([5, 6, 7]))
    own = tables(*RUNS)
    three, one = (program(*RUNS)(own, some)["image"].latents for some in (keys, keys[1:2]))
    np.testing.assert_allclose(three[1], one[0], rtol=1e-5, atol=1e-5)
    assert relative_rms(three[0], three[1]) > 0.1


def test_keys_of_factors_are_folded_with_the_name():
    for keys in (KEYS, jax.vmap(jax.random.PRNGKey)(jnp.array([3, 4]))):
        folded = factor_keys(keys, "depth")
        expected = jax.random.fold_in(keys[1], np.uint32(zlib.crc32(b"depth")))
        assert_same(jax.random.normal(folded[1], (3,)), jax.random.normal(expected, (3,)))
    draws = [jax.random.normal(factor_keys(KEYS, name)[0], (100,)) for name in (*RUNS, "pose")]
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.4


@pytest.mark.parametrize("what", ["latents", "x0"])
def test_parents_are_handed_over_in_their_order(what):
    seen = {
        "segmentation": SamplerState(jnp.ones((2, *SHAPE)), 2.0 * GIVEN),
        "depth": SamplerState(GIVEN, -GIVEN),
    }
    calls = []

    def denoise(latents, timesteps, parents):
        calls.append((parents, timesteps))
        return 2.0 * latents

    noise = hand_over(denoise, ("depth", "segmentation"), what)(GIVEN, jnp.int32(7), seen)
    assert_same(noise, 2.0 * GIVEN)
    assert_same(calls[0][0], [getattr(seen[name], what) for name in ("depth", "segmentation")])
    assert calls[0][1] == 7
    hand_over(denoise, ())(GIVEN, jnp.int32(7), {})
    assert calls[1][0] is None


@pytest.mark.parametrize("scales", [[7.5], [1.5, 7.5]])
def test_guidance_repeats_the_parents_in_every_branch(scales):
    branches = len(scales) + 1
    contexts = [jnp.asarray(formula_normal(f"context{i}", (2, *SHAPE))) for i in range(branches)]
    seen = {
        "segmentation": SamplerState(GIVEN, 2.0 * GIVEN),
        "depth": SamplerState(GIVEN[:, :2, :3], -GIVEN[:, :2, :3]),
    }
    calls = []

    def predict(latents, parents, context):
        small = parents["depth"].latents * parents["depth"].x0
        noise = jnp.tanh(latents * context) + parents["segmentation"].x0 * context
        return noise + jnp.repeat(jnp.repeat(small, 2, 1), 2, 2) * context

    def denoise(latents, timesteps, parents):
        calls.append((latents.shape[0], list(parents), parents["depth"].x0.shape[0]))
        return predict(latents, parents, jnp.concatenate(contexts))

    noise = guided_factor(denoise, jnp.array(scales))(0.5 * GIVEN, jnp.int32(300), seen)
    assert calls == [(2 * branches, ["segmentation", "depth"], 2 * branches)]
    passes = [predict(0.5 * GIVEN, seen, context) for context in contexts]
    expected = passes[0]
    for scale, before, after in zip(scales, passes, passes[1:], strict=False):
        expected = expected + scale * (after - before)
    np.testing.assert_allclose(noise, expected, rtol=1e-5, atol=1e-4)


def test_guidance_within_a_joint_run_is_guidance_of_the_factor_alone():
    context = jnp.concatenate([GIVEN, -GIVEN])

    def denoise(latents, timesteps, seen):
        noise = jnp.tanh(latents + context) + 0.1 * jnp.sin(timesteps / 100)
        return noise * jnp.cos(seen["depth"].x0)

    def run(scales, rows, keys, given):
        image = FactorRun(guided_factor(denoise, scales), SIZE, parents=("depth",))
        return sample_jointly({"image": image}, {"image": rows}, keys, given)["image"].latents

    def by_hand(scales, rows, keys, given):
        twice = jnp.concatenate([given["depth"]] * 2)
        seen = {"depth": SamplerState(twice, twice)}
        keys = factor_keys(keys, "image")
        guided_denoise = guided(lambda *inputs: denoise(*inputs, seen), scales)
        return sample(guided_denoise, rows, initial_noise(keys, SHAPE), keys)

    inputs = (jnp.array([3.0]), table(), KEYS, {"depth": 0.3 * GIVEN})
    np.testing.assert_allclose(
        quick_jit(run)(*inputs), quick_jit(by_hand)(*inputs), rtol=1e-5, atol=1e-5
    )
