from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from sd_jax.attention import attention
from sd_jax.convert.component import UNET
from sd_jax.training.flops import flops_of
from sd_jax.typing import apply_module
from sd_jax.unet import UNet, UNetConfig


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def count(function, *args) -> float:
    return flops_of(jax.jit(function).trace(*args))


def conv(inputs, kernel, strides=(1, 1)):
    return jax.lax.conv_general_dilated(
        inputs, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_products_and_their_gradients() -> None:
    left, right = floats(5, 6, 7), floats(7, 11)
    once = 2 * 5 * 6 * 7 * 11
    assert count(lambda a, b: a @ b, left, right) == once
    batched = count(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), left, floats(5, 9, 7))
    assert batched == 2 * 5 * 6 * 7 * 9
    grad = jax.grad(lambda a, b: jnp.sin(a @ b).sum(), argnums=(0, 1))
    assert count(grad, left, right) == 3 * once


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_convolutions_and_their_gradients(strides) -> None:
    inputs, kernel = floats(3, 8, 8, 5), floats(3, 3, 5, 7)
    once = 2 * 3 * (8 // strides[0]) ** 2 * 7 * 9 * 5
    assert count(lambda x, k: conv(x, k, strides), inputs, kernel) == once
    grad = jax.grad(lambda x, k: jnp.sin(conv(x, k, strides)).sum(), argnums=(0, 1))
    # The zeros between the inputs of a strided convolution's gradient cost nothing.
    assert count(grad, inputs, kernel) == pytest.approx(3 * once, rel=0.15)


def test_loops_count_every_round() -> None:
    # XLA's own count takes the body of a loop once: accumulation would seem to be free.
    def accumulate(batches, weights):
        def add(total, batch):
            return total + jax.nn.relu(batch @ weights).sum(), None

        return jax.lax.scan(add, 0.0, batches)[0]

    args = floats(6, 4, 8), floats(8, 16)
    once = 6 * 2 * 4 * 8 * 16
    assert count(accumulate, *args) == once
    assert count(jax.grad(accumulate, argnums=1), *args) == 2 * once
    by_xla = jax.jit(accumulate).lower(*args).cost_analysis() or {}
    assert by_xla["flops"] < once


def test_the_longest_branch_counts() -> None:
    def choose(flag, a, b):
        return jax.lax.cond(flag, lambda a, b: a @ b @ b, lambda a, b: a @ b, a, b)

    assert count(choose, jnp.array(True), floats(4, 4), floats(4, 4)) == 2 * 2 * 4**3


def test_recomputing_counts() -> None:
    def loss(a, b):
        return jnp.sin(jax.checkpoint(lambda a: jnp.sin(a @ b))(a)).sum()

    plain = jax.grad(lambda a, b: jnp.sin(jnp.sin(a @ b)).sum())
    assert count(plain, floats(4, 4), floats(4, 4)) == 2 * 2 * 4**3
    assert count(jax.grad(loss), floats(4, 4), floats(4, 4)) == 3 * 2 * 4**3


def test_a_map_over_devices_counts_them_all() -> None:
    mesh = jax.make_mesh((1,), ("x",), (jax.sharding.AxisType.Auto,))
    abstract = jax.sharding.AbstractMesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("x")
    for over, devices in ((mesh, 1), (abstract, 4)):
        mapped = jax.shard_map(lambda a: a @ a.T, mesh=over, in_specs=spec, out_specs=spec)
        assert count(mapped, floats(8, 4)) == devices * 2 * (8 // devices) ** 2 * 4


def test_fused_attention_counts_like_the_plain_one(monkeypatch) -> None:
    fused = "jax._src.cudnn.fused_attention_stablehlo"
    monkeypatch.setattr(f"{fused}.check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(f"{fused}.check_compute_capability", lambda *args, **kwargs: True)

    def loss(implementation):
        def mean(query, key, value):
            outputs = attention(query, key, value, implementation=implementation)
            return jnp.sin(outputs.astype(jnp.float32)).mean()

        return mean

    query, key = (jax.ShapeDtypeStruct((2, n, 8, 40), jnp.bfloat16) for n in (64, 80))
    for change in (lambda f: f, lambda f: jax.grad(f, argnums=(0, 1, 2))):
        plain = count(change(loss("einsum")), query, key, key)
        assert count(change(loss("cudnn")), query, key, key) == plain > 0


def test_stable_diffusions_unet_has_its_known_operations() -> None:
    config = UNetConfig()
    inputs = floats(1, 64, 64, 4), jax.ShapeDtypeStruct((1,), jnp.int32), floats(1, 77, 768)
    unet = UNet(config, attention_implementation="einsum")
    params = UNET.abstract_params(config)
    found = count(
        lambda params, *args: apply_module(unet, {"params": params}, *args), params, *inputs
    )
    # 401.6 billion multiplications at 512 x 512, as counters of PyTorch programs have it.
    assert found == pytest.approx(0.8032e12, rel=0.002)
