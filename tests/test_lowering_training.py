"""The training step lowers for CUDA and TPU, on meshes larger than any machine that runs tests."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType

from cnc_jax.convert import COMPONENTS
from cnc_jax.losses import STAGES, NoiseLoss
from cnc_jax.networks import NetworkSettings
from cnc_jax.testing import smallest_config
from sd_jax.training.mesh import AXES, replicated
from sd_jax.training.optim import OptimizerConfig, make_optimizer
from sd_jax.training.partition import split_params
from sd_jax.training.programs import Programs
from sd_jax.training.sharding import RULES, shardings
from sd_jax.training.state import make_state
from sd_jax.training.step import make_train_step

pytestmark = pytest.mark.optimized

MESHES = {8: (2, 2, 2), 256: (16, 8, 2)}
PLATFORMS = ("cuda", "tpu")
ROWS_EACH = 2


def spec(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def abstract_batch(config, rows: int) -> dict:
    size = config.image_encoder.image_size
    return {
        "image": spec(rows, 64, 64, 3),
        "input_ids": spec(rows, 77, dtype=jnp.int32),
        "depth_maps": spec(rows, 2, 64, 64, 3),
        "exemplar_images": spec(rows, 2, size, size, 3),
        "exemplars_present": spec(rows, 2),
        "masks": spec(rows, 1, 64, 64),
    }


def traced_step(mesh: AbstractMesh, dtype: str, optimizer: str):
    """Returns the traced step of the joint stage, and how many arrays its state has."""
    config = smallest_config()
    params = {
        component.name: component.abstract_params(getattr(config, component.name))
        for component in COMPONENTS
        if getattr(config, component.name, None) is not None
    }
    trainable, frozen = split_params(params, STAGES["joint"].trainable)
    frozen = jax.tree.map(lambda leaf: spec(*leaf.shape, dtype=dtype), frozen)
    update = make_optimizer(OptimizerConfig(name=optimizer, max_grad_norm=1.0))
    state = jax.eval_shape(lambda params: make_state(params, update, has_ema=True), trainable)
    loss = NoiseLoss(config, "joint", NetworkSettings(dtype=jnp.dtype(dtype), remat="layers"))
    step = make_train_step(loss, update, accumulation=ROWS_EACH, ema_decay=0.9)
    # Arrays of so small a model are too small to be split otherwise.
    split = shardings(state, mesh, RULES, small=0)
    programs = Programs(
        step,
        {0: split, 1: shardings(frozen, mesh, RULES, small=0)},
        (split, replicated(mesh)),
        mesh,
        donate=(0,),
    )
    rows = ROWS_EACH * mesh.shape["data"] * mesh.shape["fsdp"]
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = abstract_batch(config, rows)
    return programs.trace(state, frozen, batch, key), len(jax.tree.leaves(state)), len(batch)


@pytest.mark.parametrize(
    ("devices", "dtype", "optimizer"),
    [
        pytest.param(8, "float32", "adamw8bit", marks=pytest.mark.slow),
        pytest.param(8, "bfloat16", "adamw", marks=pytest.mark.slow),
        pytest.param(256, "float32", "adamw", marks=pytest.mark.slow),
        (256, "bfloat16", "adamw8bit"),
    ],
)
def test_the_training_step_lowers(devices, dtype, optimizer):
    shape = MESHES[devices]
    assert math.prod(shape) == devices
    mesh = AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    traced, num_state, num_batch = traced_step(mesh, dtype, optimizer)
    for platform in PLATFORMS:
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert f"mhlo.num_partitions = {devices} " in text
        signature = text[text.index("@main(") : text.index("->")]
        arguments = re.split(r"(?=%arg\d+: )", signature)[1:]
        # All of the state is given up, and nothing else.
        assert sum("aliasing_output" in argument for argument in arguments) == num_state
        assert all("aliasing_output" in argument for argument in arguments[:num_state])
        rows = [argument for argument in arguments if '[{"data", "fsdp"}' in argument]
        assert len(rows) == num_batch
        split = [argument for argument in arguments if '{"tensor", "fsdp"}' in argument]
        assert len(split) > num_state // 4
        product = r"stablehlo.(?:dot_general|convolution).*-> tensor<[^>]*x(\w+)>"
        products = re.findall(product, text)
        assert products.count({"float32": "f32", "bfloat16": "bf16"}[dtype]) > 0.5 * len(products)
