"""Memory and operations of FG-DM's distillation at full size, from programs that are not run.

    python benchmarks/distill_memory.py                     # 32 x 32 latents, 8 examples
    python benchmarks/distill_memory.py --size=64x96 --batch=2 --parts=maps

The parts, each a program of its own, of which the two steps take minutes to compile on a CPU:

    maps     the distillation loss and its gradient, from queries and keys
    plain    gradient of the adapter for the noise alone
    distill  the same with the teacher's pass and the distillation loss

Prints a line of JSON for each: what the compiled program takes (XLA's CPU backend), what the
backward pass keeps of the forward pass, and operations, both counted in the trace. --trace_only
leaves the compiling out. Stable Diffusion 1.4's sizes, float32, unless told otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from fgdm_jax.adapter import AdapterConfig
from fgdm_jax.convert import COMPONENTS
from fgdm_jax.denoise import predict_with_attention
from fgdm_jax.distill import distillation_loss
from fgdm_jax.load import FGDMConfig
from fgdm_jax.networks import FactorNetworks
from sd_jax.losses import squared_errors
from sd_jax.model import Model
from sd_jax.network_settings import NetworkSettings
from sd_jax.testing import quick_jit
from sd_jax.training.flops import flops_of
from sd_jax.training.preflight import memory_of
from sd_jax.unet import UNetConfig

_WEIGHT = 0.1
_VARIABLE = "segmentation"
_ADAPTER = f"adapter_{_VARIABLE}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", default="maps,plain,distill")
    parser.add_argument("--size", default="32x32", help="latents' height x width")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--layers", default="all")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--remat", default="none")
    parser.add_argument("--time", action="store_true", help="an adapter that sees the timestep")
    parser.add_argument("--trace_only", action="store_true")
    return parser.parse_args()


def abstract_model(has_time: bool) -> Model:
    """Returns the shapes of the released model's UNet and of an adapter."""
    unet = UNetConfig()
    adapter = AdapterConfig(time_embed_dim=unet.time_embed_dim if has_time else None)
    config = FGDMConfig(unet=unet, vae=None, text_encoder=None, adapter_segmentation=adapter)
    sizes = {"unet": unet, _ADAPTER: adapter}
    params = {
        component.name: component.abstract_params(sizes[component.name])
        for component in COMPONENTS
        if component.name in sizes
    }
    return Model(params, config)


def make_programs(arguments: argparse.Namespace) -> dict[str, tuple[Callable[..., Any], tuple]]:
    """Returns each part's function, of whose first argument the gradient is taken, and inputs."""
    height, width = (int(item) for item in arguments.size.split("x"))
    batch, layers = arguments.batch, arguments.layers
    model = abstract_model(arguments.time)
    frozen = dataclasses.replace(model, params={"unet": model.params["unet"]})
    settings = NetworkSettings(jnp.dtype(arguments.dtype), remat=arguments.remat)
    latents = jax.ShapeDtypeStruct((batch, height, width, 4), jnp.float32)
    timesteps = jax.ShapeDtypeStruct((batch,), jnp.int32)
    text = jax.ShapeDtypeStruct((batch, 77, 768), jnp.float32)

    def joined(adapter: Any, frozen: Model) -> Model:
        return dataclasses.replace(frozen, params={**frozen.params, _ADAPTER: adapter})

    def plain(adapter: Any, frozen: Model, noise: Any, *inputs: Any) -> Any:
        prediction = FactorNetworks(joined(adapter, frozen), _VARIABLE, settings)(*inputs)
        return jnp.mean(squared_errors(prediction, noise))

    def divergence(student: Any, teacher: Any) -> Any:
        return sum(
            jnp.mean(d) for d in distillation_loss(student, teacher, (height, width), layers=layers)
        )

    def distill(adapter: Any, frozen: Model, noise: Any, *inputs: Any) -> Any:
        model = joined(adapter, frozen)
        prediction, student = predict_with_attention(
            model, *inputs, variable=_VARIABLE, settings=settings
        )
        _, teacher = predict_with_attention(model, *inputs, variable=None, settings=settings)
        return jnp.mean(squared_errors(prediction, noise)) + _WEIGHT * divergence(student, teacher)

    step = (model.params[_ADAPTER], frozen, latents, latents, timesteps, text)
    captured = jax.eval_shape(
        lambda *inputs: predict_with_attention(*inputs, variable=None, settings=settings)[1],
        frozen,
        latents,
        timesteps,
        text,
    )
    return {
        "maps": (divergence, (captured, captured)),
        "plain": (plain, step),
        "distill": (distill, step),
    }


def kept_bytes(function: Callable[..., Any], inputs: tuple) -> int:
    """Returns the bytes that a backward pass keeps of the forward pass, beside its inputs."""

    def residuals(first: Any, *rest: Any) -> Any:
        return jax.vjp(lambda tree: function(tree, *rest), first)[1]

    jaxpr = jax.make_jaxpr(residuals)(*inputs).jaxpr
    known = {*jaxpr.invars, *jaxpr.constvars}
    kept = {out for out in jaxpr.outvars if not hasattr(out, "val") and out not in known}
    return sum(math.prod(out.aval.shape) * out.aval.dtype.itemsize for out in kept)


def main() -> None:
    """Measures the parts that were asked for."""
    arguments = _arguments()
    programs = make_programs(arguments)
    for part in arguments.parts.split(","):
        function, inputs = programs[part]
        started = time.perf_counter()
        # Code that nobody runs need not be fast; the memory is planned before it is generated.
        traced = quick_jit(jax.value_and_grad(function)).trace(*inputs)
        figures = {
            "part": part,
            "size": arguments.size,
            "batch": arguments.batch,
            "layers": arguments.layers,
            "dtype": arguments.dtype,
            "remat": arguments.remat,
            "tflop": round(flops_of(traced) / 1e12, 3),
            "gib_kept": round(kept_bytes(function, inputs) / 2**30, 2),
        }
        if not arguments.trace_only:
            memory = memory_of(traced.lower().compile())
            figures["gib_temporaries"] = round(memory.temporaries / 2**30, 2)
            figures["gib_compiled"] = round(memory.total / 2**30, 2)
        figures["seconds"] = round(time.perf_counter() - started)
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
