from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sd_jax.training.adam8bit import (
    count_blocks,
    dequantize,
    quantize,
    scale_by_adam8bit,
    signed_table,
    unsigned_table,
)

ROWS, LENGTH = 16, 512


def nearest(values, table):
    """Returns the nearest of the table's values, by comparing with all of them."""
    return table.values[np.abs(values[..., None] - table.values).argmin(-1)]


@pytest.mark.parametrize("table", [signed_table(), unsigned_table()])
def test_tables_are_those_of_the_paper(table):
    assert table.values.shape == (256,)
    assert np.all(np.diff(table.values) > 0)
    assert table.values[-1] == 1.0
    assert table.values[table.zero] == 0.0
    positive = table.values[table.values > 0]
    assert positive[0] < 6e-7
    # The last decade has half of the values, in equal steps.
    last = positive[positive >= 0.1][:-1]
    assert len(last) == 64 * (1 if table is signed_table() else 2)
    np.testing.assert_allclose(np.diff(last), 0.9 / len(last), rtol=1e-3)


@pytest.mark.parametrize("table", [signed_table(), unsigned_table()])
def test_every_number_gets_the_nearest_code(rng, table):
    values = (10.0 ** rng.uniform(-6, 0, (ROWS, LENGTH))).astype(np.float32)
    if table is signed_table():
        values *= rng.choice([-1.0, 1.0], values.shape).astype(np.float32)
    values[:, ::64] = 1.0  # the largest of each block, so that scales are 1
    codes, scales = quantize(jnp.asarray(values), 8, table)
    assert codes.dtype == jnp.uint8
    assert (codes.shape, scales.shape) == ((ROWS, LENGTH), (ROWS, 8))
    expected = nearest(values, table)
    if table is unsigned_table():
        expected = np.maximum(expected, table.values[1])
    np.testing.assert_array_equal(dequantize(codes, scales, table), expected)


@pytest.mark.parametrize("table", [signed_table(), unsigned_table()])
def test_codes_survive_any_size_and_zeros(rng, table):
    ratios = rng.uniform(0.2, 1, (ROWS, LENGTH))
    values = (ratios * np.geomspace(1e-30, 1e30, ROWS)[:, None]).astype(np.float32)
    values[:, ::2] = 0.0
    back = dequantize(*quantize(jnp.asarray(values), 8, table), table)
    np.testing.assert_allclose(back, values, rtol=0.04)
    assert np.all(np.asarray(back)[:, ::2] == 0.0)
    again = dequantize(*quantize(back, 8, table), table)
    np.testing.assert_allclose(again, back, rtol=0.08)
    nothing = dequantize(*quantize(jnp.zeros((2, 64)), 2, table), table)
    np.testing.assert_array_equal(nothing, np.zeros((2, 64)))


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((320, 320), 8),
        ((320, 1280), 8),
        ((768, 10240), 40),
        ((3, 3, 320, 320), 8),
        ((3, 3, 320, 4), 0),
        ((320,), 0),
        ((), 0),
        ((64, 64), 1),
        ((1, 8192), 32),
        ((100, 77), 1),
        ((100, 521), 0),
    ],
)
def test_blocks_cut_the_last_axis_evenly_or_not_at_all(shape, blocks):
    assert count_blocks(shape) == blocks
    if blocks:
        assert shape[-1] % blocks == 0
        assert 32 <= shape[-1] // blocks <= 256


def test_small_arrays_have_adams_own_moments(rng):
    params = {"norm": {"scale": jnp.zeros((64,))}, "odd": jnp.zeros((1500, 4))}
    ours, theirs = scale_by_adam8bit(), optax.scale_by_adam()
    our_state, their_state = ours.init(params), theirs.init(params)
    for _ in range(5):
        gradients = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params)
        our, our_state = ours.update(gradients, our_state, params)
        their, their_state = theirs.update(gradients, their_state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), our, their)
    assert our_state.mu_scales == {}


def test_the_first_update_is_adams_and_the_state_is_a_quarter(rng):
    params = {"w": jnp.zeros((512, 640)), "b": jnp.zeros((640,))}
    gradients = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params)
    ours, theirs = scale_by_adam8bit(), optax.scale_by_adam()
    state = ours.init(params)
    our, after = jax.jit(ours.update)(gradients, state, params)
    their, their_state = theirs.update(gradients, theirs.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), our, their)
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    assert size(after) < 0.29 * size(their_state)
    for name in ("mu", "nu"):
        assert getattr(after, name)["w"].dtype == jnp.uint8
        assert getattr(after, name)["w"].shape == params["w"].shape
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, after)
    assert all(jax.tree.leaves(same))


def noisy_descent(transform, decades, steps=400):
    """Returns the distance to the minimum and the largest update, over badly scaled gradients."""
    shape = (64, 512)
    scale = 10.0 ** (-decades * jax.random.uniform(jax.random.key(0), shape))
    target = 0.2 * jax.random.normal(jax.random.key(1), shape)
    params = {"w": jnp.zeros(shape)}

    def step(carry, index):
        params, state = carry
        key = jax.random.fold_in(jax.random.key(2), index)
        # Mostly nothing, then much: where a second moment taken for zero would let go.
        noise = 3.0 * jax.random.normal(key, shape) * (jax.random.uniform(key, shape) < 0.1)
        updates, state = transform.update({"w": scale * (params["w"] - target + noise)}, state)
        params = {"w": params["w"] - 1e-3 * (1 - index / steps) * updates["w"]}
        return (params, state), jnp.max(jnp.abs(updates["w"]))

    (params, _), largest = jax.jit(
        lambda: jax.lax.scan(step, (params, transform.init(params)), jnp.arange(steps))
    )()
    return float(jnp.mean((params["w"] - target) ** 2)), float(jnp.max(largest[20:]))


@pytest.mark.parametrize("decades", [1, 4])
def test_it_descends_as_adam_does_and_never_jumps(decades):
    distance, _ = noisy_descent(optax.scale_by_adam(), decades)
    our_distance, our_largest = noisy_descent(scale_by_adam8bit(), decades)
    assert distance < 0.035
    assert our_distance < 1.2 * distance
    assert our_largest < 10.0


ON_A_MESH = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from sd_jax.training.adam8bit import scale_by_adam8bit
transform = scale_by_adam8bit()
params = {"w": jnp.zeros((64, 320)), "v": jnp.zeros((48, 96)), "b": jnp.zeros(320)}
mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
specs = {"w": P("x", "y"), "v": P("y", "x"), "b": P()}
put = lambda tree: {name: jax.device_put(leaf, NamedSharding(mesh, specs[name]))
                    for name, leaf in tree.items()}
update = jax.jit(transform.update)
states = [transform.init(params), transform.init(params)]
states[1] = states[1]._replace(mu=put(states[1].mu), nu=put(states[1].nu))
for step in range(4):
    gradients = {name: jax.random.normal(jax.random.key(step), leaf.shape)
                 for name, leaf in params.items()}
    one, states[0] = update(gradients, states[0])
    other, states[1] = update(put(gradients), states[1])
    for name in params:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=1e-7)
for ours, theirs in zip(*map(jax.tree.leaves, states)):
    np.testing.assert_array_equal(ours, theirs)
print("equal", states[1].mu["w"].sharding.spec, states[1].mu["w"].dtype)
"""


def test_a_mesh_changes_nothing():
    result = subprocess.run(
        [sys.executable, "-c", ON_A_MESH],
        env={
            **os.environ,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(Path(__file__).parents[3]),
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.stdout == "equal P('x', 'y') uint8\n", result.stderr
