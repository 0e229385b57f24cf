"""Memory and operations of a full-size training step, from the compiled program; nothing is run.

    python benchmarks/train_memory.py                       # the paper's recipe on 8 devices
    python benchmarks/train_memory.py --stage=joint --scale=single_gpu --devices=1

Two figures: what the compiled program takes, on devices of XLA's CPU backend, which are pretended;
and what the backward pass keeps of the forward pass, counted in the trace, whatever the backend.
The second tells what activation checkpointing saves: XLA's CPU backend merges what is computed
twice again, and computes bfloat16 convolutions in float32. --trace_only leaves the compiling out.
Prints a line of JSON for each case, and what it means for the usual cards.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from types import SimpleNamespace
from typing import Any


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", default="local,global,joint")
    parser.add_argument("--scale", default="paper")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--set", default="", help="NAME=VALUE,... of configs/training.py")
    parser.add_argument("--trace_only", action="store_true")
    return parser.parse_args()


_ARGUMENTS = _arguments()
# Before jax is imported: it reads both once.
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={_ARGUMENTS.devices}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from cnc_jax.convert import COMPONENTS  # noqa: E402
from cnc_jax.global_fuser import GlobalFuserConfig  # noqa: E402
from cnc_jax.local_fuser import LocalFuserConfig  # noqa: E402
from cnc_jax.losses import STAGES  # noqa: E402
from configs import cnc  # noqa: E402
from launch.train_cnc import make_experiment  # noqa: E402
from launch.train_request import parse_request  # noqa: E402
from sd_jax.clip import CLIPTextConfig  # noqa: E402
from sd_jax.schedule import ScheduleConfig  # noqa: E402
from sd_jax.training.flops import flops_of  # noqa: E402
from sd_jax.training.mesh import MeshConfig, make_mesh  # noqa: E402
from sd_jax.training.optim import make_optimizer  # noqa: E402
from sd_jax.training.partition import split_params  # noqa: E402
from sd_jax.training.preflight import memory_of, memory_report, parameter_table  # noqa: E402
from sd_jax.training.programs import Programs  # noqa: E402
from sd_jax.training.sharding import REPLICATED, RULES, shardings  # noqa: E402
from sd_jax.training.state import make_state  # noqa: E402
from sd_jax.training.step import make_train_step  # noqa: E402
from sd_jax.unet import UNetConfig  # noqa: E402
from sd_jax.vae import VAEConfig  # noqa: E402

IMAGES = 302_000
"""Triplets of the paper."""


CONFIGS = {
    "unet": UNetConfig(),
    "vae": VAEConfig(),
    "text_encoder": CLIPTextConfig(),
    "local_fuser": LocalFuserConfig(),
    "global_fuser": GlobalFuserConfig(),
}
"""Sizes of the released model."""


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def abstract_batch(keys: tuple[str, ...], rows: int, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch."""
    small = size // 8
    known = {
        "image": _floats(rows, size, size, 3),
        "latent_mean": _floats(rows, small, small, 4),
        "latent_logvar": _floats(rows, small, small, 4),
        "input_ids": jax.ShapeDtypeStruct((rows, 77), jnp.int32),
        "text_embeddings": _floats(rows, 77, 768),
        "depth_maps": _floats(rows, 2, size, size, 3),
        "exemplar_embeddings": _floats(rows, 2, 768),
        "masks": _floats(rows, 2, size, size),
    }
    return {key: known[key] for key in keys}


def kept_bytes(loss: Any, params: Any, frozen: Any, batch: Any) -> int:
    """Returns the bytes that a backward pass keeps of the forward pass, beside its inputs."""
    rows = next(iter(batch.values())).shape[0]
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))

    def residuals(params: Any, frozen: Any, batch: Any, keys: Any) -> Any:
        return jax.vjp(lambda tree: loss(tree, frozen, batch, keys)[0], params)[1]

    jaxpr = jax.make_jaxpr(residuals)(params, frozen, batch, keys).jaxpr
    inputs = {*jaxpr.invars, *jaxpr.constvars}
    kept = {out for out in jaxpr.outvars if not hasattr(out, "val") and out not in inputs}
    return sum(math.prod(out.aval.shape) * out.aval.dtype.itemsize for out in kept)


def _rows(batch: dict[str, jax.ShapeDtypeStruct], rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in batch.items()
    }


def _bytes_on_one(tree: Any, of_tree: Any) -> int:
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(of_tree), strict=True)
    )


def measure(stage: str) -> None:
    """Compiles one stage's step and prints what it needs."""
    config = cnc.get_config(f"stage={stage},scale={_ARGUMENTS.scale}")
    with config.unlocked():
        for item in filter(None, _ARGUMENTS.set.split(",")):
            name, _, text = item.partition("=")
            config[name] = type(config[name])(text)
    request, _ = parse_request(config, "unused")
    experiment = make_experiment(
        request, SimpleNamespace(configs=CONFIGS, schedule=ScheduleConfig(), tokenizer=None)
    )
    mesh = make_mesh(MeshConfig(config.data_parallel, config.fsdp, config.tensor))
    needed = {*STAGES[stage].components, "vae", "text_encoder"}
    if config.latents == "cached":
        needed.discard("vae")
    if config.text == "cached":
        needed.discard("text_encoder")
    params = {
        component.name: component.abstract_params(CONFIGS[component.name])
        for component in COMPONENTS
        if component.name in needed
    }
    trainable, frozen = split_params(params, experiment.trainable)
    dtype = jnp.dtype(config.frozen_dtype)
    frozen = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), frozen)
    optimizer = make_optimizer(request.optimizer(1))
    state = jax.eval_shape(
        lambda tree: make_state(tree, optimizer, has_ema=config.ema_decay > 0), trainable
    )
    of_state = shardings(state, mesh)
    of_frozen = shardings(frozen, mesh, RULES if config.frozen == "sharded" else REPLICATED)
    step = make_train_step(
        experiment.loss, optimizer, accumulation=config.accumulation, ema_decay=config.ema_decay
    )
    programs = Programs(step, {0: of_state, 1: of_frozen}, (of_state, None), mesh, donate=(0,))
    batch = abstract_batch(experiment.needs.keys, config.global_batch_size, request.sizes[0][0])
    key = jax.eval_shape(lambda: jax.random.key(0))
    started = time.perf_counter()
    flops = flops_of(programs.trace(state, frozen, batch, key))
    steps = config.num_steps or round(config.num_epochs * IMAGES / config.global_batch_size)
    rows = config.global_batch_size // config.accumulation
    kept = kept_bytes(experiment.loss, trainable, frozen, _rows(batch, rows))
    figures = {
        "stage": stage,
        "scale": _ARGUMENTS.scale,
        "devices": _ARGUMENTS.devices,
        "settings": _ARGUMENTS.set,
        "gib_kept": round(kept / mesh.shape["data"] / mesh.shape["fsdp"] / 2**30, 2),
        "gib_state": round(_bytes_on_one(state, of_state) / 2**30, 2),
        "gib_frozen": round(_bytes_on_one(frozen, of_frozen) / 2**30, 2),
        "tflop_per_step": round(flops / 1e12, 1),
        "steps": steps,
        "exaflop": round(flops * steps / 1e18, 1),
    }
    if _ARGUMENTS.trace_only:
        print(json.dumps(figures), flush=True)
        return
    memory = memory_of(programs.program(state, frozen, batch, key).compiled)
    figures["gib_compiled"] = round(memory.total / 2**30, 2)
    figures["gib_compiled_fixed"] = round((memory.total - memory.temporaries) / 2**30, 2)
    figures["seconds"] = round(time.perf_counter() - started)
    print(json.dumps(figures), flush=True)
    print(parameter_table(trainable, frozen))
    print(memory_report(memory), flush=True)


if __name__ == "__main__":
    for name in _ARGUMENTS.stage.split(","):
        measure(name)
