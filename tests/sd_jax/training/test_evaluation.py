"""Loss by timestep on a fixed set."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sd_jax.training.evaluation import bucket_timesteps, evaluate, make_eval_step

SETTINGS = {"num_buckets": 4, "num_train_timesteps": 1000}


def losses(params, frozen, batch, keys, timesteps):
    """The timestep itself, so that the buckets show what they were asked."""
    return timesteps * params["w"] + batch["x"]


def run(batches, w=1.0):
    step = jax.jit(make_eval_step(losses))
    return evaluate(step, {"w": jnp.float32(w)}, {}, batches, jax.random.key(0), **SETTINGS)


def test_timesteps_fill_their_bucket_evenly():
    timesteps = bucket_timesteps(0, 200, 3, 10, 1000)
    assert timesteps.min() >= 300
    assert timesteps.max() < 400
    counts = np.bincount((timesteps - 300) // 10, minlength=10)
    assert counts.min() >= 17


def test_timesteps_do_not_depend_on_how_the_set_is_cut():
    whole = bucket_timesteps(0, 12, 1, 4, 1000)
    parts = [bucket_timesteps(first, 4, 1, 4, 1000) for first in (0, 4, 8)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_each_bucket_has_its_mean():
    batches = [{"x": jnp.zeros(8)}, {"x": jnp.ones(8)}]
    values = run(batches)
    assert list(values) == ["loss", "loss_000_249", "loss_250_499", "loss_500_749", "loss_750_999"]
    for bucket, name in enumerate(list(values)[1:]):
        assert values[name] == pytest.approx(250 * bucket + 125 + 0.5, abs=15)
    assert values["loss"] == pytest.approx(np.mean(list(values.values())[1:]))


def test_noise_does_not_depend_on_how_the_set_is_cut():
    def noise(params, frozen, batch, keys, timesteps):
        return jax.vmap(jax.random.normal)(keys) * batch["x"]

    step, x = jax.jit(make_eval_step(noise)), jnp.arange(1.0, 9.0)
    whole, parts = (
        evaluate(step, {}, {}, batches, jax.random.key(0), **SETTINGS)["loss"]
        for batches in ([{"x": x}], [{"x": x[:4]}, {"x": x[4:]}])
    )
    assert whole == pytest.approx(parts, rel=1e-6)
    # Each example has noise of its own.
    own = [jax.random.normal(jax.random.fold_in(jax.random.key(0), row)) for row in range(8)]
    assert whole == pytest.approx(float(jnp.mean(jnp.stack(own) * x)), rel=1e-5)


def test_the_same_every_time():
    batches = [{"x": jnp.arange(8.0)}]
    assert run(batches) == run(batches)
    assert run(batches) != run(batches, w=2.0)


def test_an_empty_set_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        run([])
