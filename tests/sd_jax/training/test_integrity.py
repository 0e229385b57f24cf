from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sd_jax.training import integrity
from sd_jax.training.integrity import checksums, differing, health, nonfinite

DTYPES = ["float32", "float16", "bfloat16", "float8_e4m3fn", "complex64", "float64", "bool"] + [
    f"{sign}int{size}" for sign in ("", "u") for size in (8, 16, 32, 64)
]


def array(rng, dtype, shape=(6, 10)):
    """Returns an array of random bits that are finite numbers."""
    values = rng.integers(0, 2 if dtype == "bool" else 100, shape)
    return values.astype(jnp.dtype(dtype))


def one_bit_flipped(array, element, bit):
    raw = array.copy().reshape(-1).view(np.uint8).reshape(array.size, -1)
    raw[element, bit // 8] ^= 1 << (bit % 8)
    return raw.reshape(-1).view(array.dtype).reshape(array.shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_flipped_bit_is_seen(rng, dtype):
    values = array(rng, dtype)
    before = checksums({"a": values})
    assert before == checksums({"a": values.copy()})
    assert 0 <= before["a"] < 2**32
    for bit in range(1 if dtype == "bool" else 8 * values.dtype.itemsize):
        flipped = one_bit_flipped(values, int(rng.integers(values.size)), bit)
        assert differing(before, checksums({"a": flipped})) == ["a"], bit


def test_the_sum_is_the_one_of_the_docstring():
    def mixed(word):
        word = (word ^ (word >> 16)) * 0x85EBCA6B % 2**32
        word = (word ^ (word >> 13)) * 0xC2B2AE35 % 2**32
        return word ^ (word >> 16)

    values = [[1, 2, 3], [4, 5, 2**32 - 1]]
    flat = [word for row in values for word in row]
    total = sum(mixed((word + mixed(index)) % 2**32) for index, word in enumerate(flat))
    assert checksums(np.array(values, np.uint32))[""] == total % 2**32


def test_numpy_and_device_arrays_of_any_place_agree(rng):
    values = array(rng, "bfloat16")
    assert checksums([values]) == checksums([jnp.asarray(values)])
    with jax.enable_x64(True):
        wide = jnp.asarray(array(rng, "float64"))
        assert wide.dtype == jnp.float64
        assert checksums([wide]) == checksums([np.asarray(wide)])


def test_moved_elements_and_equal_changes_are_seen(rng):
    values = rng.normal(size=(32, 32)).astype(np.float32)
    before = checksums({"a": values})
    for changed in (values.T, values[::-1], np.roll(values, 1, axis=1), -values, values + 1.0):
        assert differing(before, checksums({"a": changed})) == ["a"]
    ints = np.arange(64, dtype=np.int32)
    assert checksums(ints) != checksums(ints + 1)
    zeros = np.zeros((64, 64), np.float32)
    sums = {checksums(zeros[: rows + 1, : rows + 2])[""] for rows in range(30)}
    assert len(sums) == 30


def test_typed_keys_scalars_and_empty_arrays():
    tree = {"key": jax.random.key(3), "keys": jax.random.split(jax.random.key(4), 5)}
    other = {"key": jax.random.key(5), "keys": tree["keys"]}
    assert differing(checksums(tree), checksums(other)) == ["key"]
    assert checksums({"none": np.zeros((0, 3))}) == {"none": 0}
    assert checksums(jnp.int32(1)) == checksums(np.int32(1)) != checksums(np.int32(2))
    assert health({"nothing": None}) == ({}, [])


def test_paths_name_fields_keys_and_indices():
    tree = {"b": (jnp.ones(2), {"c": jnp.ones(3)}), "a": jnp.ones(1)}
    assert list(checksums(tree)) == ["a", "b/0", "b/1/c"]
    assert differing({"a": 1, "b": 2}, {"b": 3, "c": 4}) == ["a", "b", "c"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found(rng, dtype, value):
    bad = array(rng, dtype)
    bad[3, 4] = value
    tree = {"good": array(rng, dtype), "bad": bad, "ints": np.full(3, 2**31 - 1, np.int32)}
    assert nonfinite(tree) == ["bad"]
    assert nonfinite({"good": tree["good"], "key": jax.random.key(0)}) == []


def test_the_same_shapes_compile_once():
    tree = {name: jnp.full((7, 11), index) for index, name in enumerate("abc")}
    checksums(tree)
    compiled = integrity._summary_on(None)._cache_size()
    checksums({**tree, "d": jnp.full((7, 11), 9)})
    assert integrity._summary_on(None)._cache_size() == compiled
    checksums({"e": jnp.full((7, 12), 9)})
    assert integrity._summary_on(None)._cache_size() == compiled + 1


ON_MESHES = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from sd_jax.training.integrity import checksums, nonfinite
rng = np.random.default_rng(0)
host = {"a": rng.normal(size=(8, 16)).astype(np.float32), "b": np.arange(24, dtype=np.uint8)}
expected = checksums(host)
specs = [(P(), P()), (P("x"), P("y")), (P("y", "x"), P("x")), (P(None, ("x", "y")), P(("y", "x")))]
for sizes in ((8, 1), (2, 4), (1, 2), (1, 1)):
    mesh = Mesh(np.array(jax.devices()[: sizes[0] * sizes[1]]).reshape(sizes), ("x", "y"))
    for a, b in specs:
        put = lambda name, spec: jax.device_put(host[name], NamedSharding(mesh, spec))
        tree = {"a": put("a", a), "b": put("b", b)}
        assert checksums(tree) == expected, (sizes, a, b)
        tree["a"] = tree["a"].at[7, 15].set(jnp.nan)
        assert nonfinite(tree) == ["a"], (sizes, a, b)
print("same on", len(jax.devices()))
"""


def test_checksums_are_the_same_on_every_mesh():
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    result = subprocess.run(
        [sys.executable, "-c", ON_MESHES],
        env={**env, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.stdout == "same on 8\n", result.stderr
