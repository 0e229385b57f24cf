"""The training step on a problem small enough to check by hand."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sd_jax.losses import Mean
from sd_jax.training.state import make_state
from sd_jax.training.step import make_train_step

KEY = jax.random.key(3)


def loss_fn(params, frozen, batch, keys, step):
    """Linear regression with noise of each example's own key."""
    noise = jax.vmap(lambda key: jax.random.normal(key, ()))(keys)
    prediction = batch["x"] @ params["w"] * frozen["scale"] + 0.1 * noise
    error = prediction - batch["y"]
    return jnp.mean(error**2), {"mean_error": jnp.mean(error)}


def batch_of(seed, rows=8):
    x, y = np.random.default_rng(seed).normal(size=(2, rows, 3)).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.asarray(y[:, 0])}


FROZEN = {"scale": jnp.float32(2.0)}


def fresh(optimizer, has_ema=False):
    return make_state({"w": jnp.array([1.0, -1.0, 0.5])}, optimizer, has_ema=has_ema)


def run(steps, optimizer=None, **settings):
    optimizer = optimizer or optax.adamw(0.1)
    step = jax.jit(make_train_step(loss_fn, optimizer, **settings))
    state, history = fresh(optimizer, settings.get("ema_decay", 0) > 0), []
    for number in range(steps):
        state, metrics = step(state, FROZEN, batch_of(number), KEY)
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


def test_a_step_is_the_optimizers_on_the_mean_gradient():
    state, history = run(1, optax.sgd(0.1))
    keys = jax.random.split(jax.random.fold_in(KEY, 0), 8)
    params = {"w": jnp.array([1.0, -1.0, 0.5])}
    (loss, _), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
        params, FROZEN, batch_of(0), keys, 0
    )
    np.testing.assert_allclose(state.params["w"], params["w"] - 0.1 * gradients["w"], rtol=1e-5)
    assert history[0]["loss"] == pytest.approx(float(loss), rel=1e-6)
    assert history[0]["grad_norm"] == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-5)
    assert int(state.step) == 1


@pytest.mark.parametrize("accumulation", [2, 4, 8])
def test_microbatches_change_nothing(accumulation):
    whole, one = run(4)
    parts, many = run(4, accumulation=accumulation)
    np.testing.assert_allclose(parts.params["w"], whole.params["w"], rtol=1e-5)
    for ours, theirs in zip(many, one, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_each_step_draws_anew_and_each_run_the_same():
    _, history = run(2)
    _, again = run(2)
    assert history == again
    optimizer = optax.sgd(0.0)
    step = jax.jit(make_train_step(loss_fn, optimizer))
    state, first = step(fresh(optimizer), FROZEN, batch_of(0), KEY)
    _, second = step(state, FROZEN, batch_of(0), KEY)
    assert float(first["loss"]) != float(second["loss"])


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_changes_nothing_but_counters(bad, accumulation):
    optimizer = optax.adamw(0.1)
    step = jax.jit(make_train_step(loss_fn, optimizer, ema_decay=0.9, accumulation=accumulation))
    state, _ = step(fresh(optimizer, has_ema=True), FROZEN, batch_of(0), KEY)
    broken = batch_of(1)
    broken["y"] = broken["y"].at[3].set(bad)
    after, metrics = step(state, FROZEN, broken, KEY)
    again, _ = step(after, FROZEN, broken, KEY)
    assert float(metrics["skipped"]) == 1
    for name in ("params", "opt_state", "ema"):
        for ours, theirs in zip(
            *(jax.tree.leaves(getattr(s, name)) for s in (again, state)), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert [int(s.skipped) for s in (state, after, again)] == [0, 1, 2]
    assert int(again.skipped_in_a_row) == 2
    assert int(again.step) == 3
    good, _ = step(again, FROZEN, batch_of(2), KEY)
    assert int(good.skipped_in_a_row) == 0
    assert int(good.skipped) == 2
    assert np.isfinite(np.asarray(good.params["w"])).all()
    assert not np.array_equal(good.params["w"], again.params["w"])


def test_a_gradient_that_is_not_finite_is_skipped_too():
    def root(params, frozen, batch, keys, step):
        return jnp.sum(jnp.sqrt(params["w"] * 0.0)), {}

    optimizer = optax.sgd(0.1)
    state, metrics = jax.jit(make_train_step(root, optimizer))(
        fresh(optimizer), FROZEN, batch_of(0), KEY
    )
    assert np.isfinite(float(metrics["loss"]))
    assert float(metrics["skipped"]) == 1
    np.testing.assert_array_equal(state.params["w"], [1.0, -1.0, 0.5])


def test_the_average_follows_the_parameters():
    optimizer = optax.sgd(0.1)
    step = jax.jit(make_train_step(loss_fn, optimizer, ema_decay=0.5))
    state = fresh(optimizer, has_ema=True)
    expected = np.asarray(state.ema["w"], np.float64)
    for number in range(12):
        state, _ = step(state, FROZEN, batch_of(number), KEY)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * np.asarray(state.params["w"])
    np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-5)


def test_frozen_parameters_get_no_state():
    state = fresh(optax.adamw(0.1))
    assert all("scale" not in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(state))
    assert dataclasses.asdict(state)["ema"] is None


def test_a_mean_over_some_examples_does_not_depend_on_microbatches():
    def loss_of_some(params, frozen, batch, keys, step):
        counts = (batch["x"][:, 0] > 0.8).astype(jnp.float32)
        loss, _ = loss_fn(params, frozen, batch, keys, step)
        return loss, {"some": Mean(jnp.sum(counts * batch["y"]), jnp.sum(counts))}

    batch = batch_of(0)
    chosen = np.asarray(batch["y"])[np.asarray(batch["x"])[:, 0] > 0.8]
    # Few enough that some microbatches have none.
    assert 0 < len(chosen) < 4
    for accumulation in (1, 2, 4):
        step = jax.jit(make_train_step(loss_of_some, optax.sgd(0.1), accumulation=accumulation))
        _, metrics = step(fresh(optax.sgd(0.1)), FROZEN, batch, KEY)
        assert float(metrics["some"]) == pytest.approx(chosen.mean(), rel=1e-5)
    batch["x"] = batch["x"] * 0
    assert float(step(fresh(optax.sgd(0.1)), FROZEN, batch, KEY)[1]["some"]) == 0
