"""What graphs of factors cost: prompt compliance, and one factor more.

    python benchmarks/graph_cost.py                    # counted at full size, timed at a small one
    python benchmarks/graph_cost.py --parts=compliance,factors
    python benchmarks/graph_cost.py --parts=compliance_time,factors_time --width=64

    compliance       operations of N maps of 256 x 256 at 10 steps and an image of 512 x 512 at 20,
                     against those of N images: the sizes of Stable Diffusion 1.4, with guidance,
                     decoding and, in one of the graphs, a ControlNet
    factors          operations and bytes of parameters of graphs of 1 to 4 factors, likewise
    compliance_time  seconds of the same with a small model of random weights, in one process
    factors_time     seconds and compiled memory of 1 to 4 factors, likewise

Prints a line of JSON for each. Operations are counted in the traced programs, which are not run.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import time
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from fgdm_jax.convert import COMPONENTS
from fgdm_jax.draw import Drawing, draw
from fgdm_jax.graph import FactorGraph, parse_graph
from fgdm_jax.load import FGDMConfig
from fgdm_jax.testing import random_model, with_adapters
from sd_jax.clip import CLIPTextConfig
from sd_jax.controlnet import ControlNetConfig
from sd_jax.encoding import decode_images
from sd_jax.model import Model
from sd_jax.samplers import make_sampler
from sd_jax.schedule import make_schedule, sampling_timesteps
from sd_jax.training.flops import flops_of
from sd_jax.training.preflight import memory_of
from sd_jax.unet import UNetConfig
from sd_jax.vae import VAEConfig

CONTROLLED = "segmentation, image<segmentation:controlnet"
ADAPTED = "segmentation, image<segmentation"
CHAIN = (
    "segmentation",
    "depth<segmentation",
    "normal<segmentation+depth",
    "image<segmentation+depth+normal",
)
_GUIDANCE_SCALE = 7.5
_REPEATS = 3


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", default="compliance,factors,compliance_time,factors_time")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--width", type=int, default=32, help="of the small model's first level")
    parser.add_argument("--latents", type=int, default=32, help="of the small model's images")
    return parser.parse_args()


def sizes_of(width: int | None, graph: FactorGraph) -> FGDMConfig:
    """Returns Stable Diffusion 1.4's sizes, or those of a narrow one, with adapters for a graph."""
    if width is None:
        config = FGDMConfig(
            unet=UNetConfig(),
            vae=VAEConfig(),
            text_encoder=CLIPTextConfig(),
            controlnet=ControlNetConfig(UNetConfig()),
        )
    else:
        widths = (width, 2 * width, 4 * width, 4 * width)
        unet = UNetConfig(block_out_channels=widths, num_heads=4, cross_attention_dim=64)
        config = FGDMConfig(
            unet=unet,
            vae=VAEConfig(block_out_channels=(32, 32, 32, 32), layers_per_block=1),
            text_encoder=CLIPTextConfig(
                hidden_size=64, intermediate_size=128, num_layers=1, num_heads=1
            ),
            controlnet=ControlNetConfig(unet),
        )
    seen = {f.variable: max(1, len(f.parents)) for f in graph if f.kind == "adapter"}
    return with_adapters(config, seen)


def abstract(config: FGDMConfig) -> Model:
    """Returns a model of shapes."""
    sizes = {item.name: getattr(config, item.name, None) for item in COMPONENTS}
    params = {
        item.name: item.abstract_params(sizes[item.name])
        for item in COMPONENTS
        if sizes[item.name] is not None
    }
    return Model(params, config)


def program(
    config: FGDMConfig,
    graph: FactorGraph,
    wanted: tuple[str, ...],
    sizes: Mapping[str, int],
    steps: Mapping[str, int],
) -> Any:
    """Returns (model, text, keys, given) -> pictures of `wanted`, jitted, with guidance."""
    schedule = make_schedule(config.schedule)
    tables = {
        name: make_sampler("ddim", schedule, sampling_timesteps(number, 1000, "leading"))
        for name, number in steps.items()
    }
    scales = dict.fromkeys(sizes, _GUIDANCE_SCALE)
    latents_sizes = {name: (size, size) for name, size in sizes.items()}
    drawing = Drawing(graph, latents_sizes, tables, scales)

    def run(model: Model, text: Any, keys: Any, given: Any) -> Any:
        state = draw(
            model, drawing, text, keys, negative_embeddings=text, wanted=wanted, given=given
        )
        return {
            name: decode_images(model, state.factors[name].latents, dtype=jnp.float32)
            for name in wanted
        }

    return jax.jit(run)


def inputs_of(config: FGDMConfig, batch: int, given: Mapping[str, int]) -> tuple[Any, ...]:
    """Returns shapes of text, keys and given latents."""
    text = jax.ShapeDtypeStruct((batch, 77, config.unet.cross_attention_dim), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    latents = {
        name: jax.ShapeDtypeStruct((batch, size, size, 4), jnp.float32)
        for name, size in given.items()
    }
    return text, keys, latents


def compliance_programs(
    config: FGDMConfig, graph: FactorGraph, latents: int, draws: int
) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Returns the programs of maps, of an image from a map, and of an image of the text alone."""
    half = latents // 2
    sizes, steps = {"segmentation": half, "image": latents}, {"segmentation": 10, "image": 20}
    plain = parse_graph("image:prior")
    return {
        "maps": (
            program(config, graph, ("segmentation",), sizes, steps),
            inputs_of(config, draws, {}),
        ),
        "image": (
            program(config, graph, ("image",), sizes, steps),
            inputs_of(config, 1, {"segmentation": half}),
        ),
        "plain": (
            program(config, plain, ("image",), {"image": latents}, {"image": 20}),
            inputs_of(config, 1, {}),
        ),
    }


def shares(costs: Mapping[str, float], draws: int) -> dict[str, float]:
    """Returns the cost of N maps and one image as shares of that of N images."""
    total = costs["maps"] + costs["image"]
    return {
        "share_of_images_from_maps": round(total / (draws * costs["image"]), 3),
        "share_of_plain_images": round(total / (draws * costs["plain"]), 3),
    }


def compliance(text: str, draws: int) -> dict[str, Any]:
    """Counts operations at full size."""
    graph = parse_graph(text)
    config = sizes_of(None, graph)
    model = abstract(config)
    programs = compliance_programs(config, graph, 64, draws)
    costs = {
        name: flops_of(run.trace(model, *inputs)) / 1e12 for name, (run, inputs) in programs.items()
    }
    tflop = {f"tflop_{name}": round(cost, 2) for name, cost in costs.items()}
    return {"graph": text, "draws": draws, **tflop, **shares(costs, draws)}


def compliance_time(text: str, draws: int, width: int, latents: int) -> dict[str, Any]:
    """Takes the seconds of a small model: the best of a few runs of each program, in turn."""
    graph = parse_graph(text)
    config = sizes_of(width, graph)
    model = random_model(config)
    programs = compliance_programs(config, graph, latents, draws)
    runs = {name: functools.partial(run, model, *filled(i)) for name, (run, i) in programs.items()}
    seconds = seconds_of(runs)
    told = {f"seconds_{name}": round(second, 3) for name, second in seconds.items()}
    return {"graph": text, "draws": draws, "width": width, **told, **shares(seconds, draws)}


def factors(width: int | None, latents: int) -> list[dict[str, Any]]:
    """Counts operations and parameters of graphs of 1 to 4 factors; of a small model, also times.

    Joint drawing at 10 steps, batch 1.
    """
    found, runs = [], {}
    for number in range(1, len(CHAIN) + 1):
        graph = parse_graph(", ".join(CHAIN[:number]))
        names = tuple(factor.variable for factor in graph)
        config = dataclasses.replace(sizes_of(width, graph), controlnet=None)
        model = abstract(config)
        sizes, steps = dict.fromkeys(names, latents), dict.fromkeys(names, 10)
        run, inputs = program(config, graph, names, sizes, steps), inputs_of(config, 1, {})
        traced = run.trace(model, *inputs)
        adapters = sum(_bytes(tree) for name, tree in model.params.items() if "adapter" in name)
        figures = {
            "factors": number,
            "tflop": round(flops_of(traced) / 1e12, 4),
            "mib_prior": round((_bytes(model.params) - adapters) / 2**20, 1),
            "mib_adapters": round(adapters / 2**20, 1),
        }
        if width is not None:
            memory = memory_of(traced.lower().compile())
            figures["mib_compiled_temporaries"] = round(memory.temporaries / 2**20, 1)
            runs[number] = functools.partial(run, random_model(config), *filled(inputs))
        found.append(figures)
    for number, seconds in seconds_of(runs).items():
        found[number - 1]["seconds"] = round(seconds, 3)
    return found


def filled(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns arrays in the place of shapes."""
    text, keys, given = inputs
    drawn = jax.random.split(jax.random.key(0), keys.shape[0])
    latents = {name: jnp.zeros(leaf.shape) for name, leaf in given.items()}
    return jax.random.normal(jax.random.key(1), text.shape), drawn, latents


def seconds_of(runs: Mapping[Any, Any]) -> dict[Any, float]:
    """Returns the least seconds of each; they take turns, so that noise meets all alike."""
    found: dict[Any, float] = {}
    for run in runs.values():
        jax.block_until_ready(run())
    for _ in range(_REPEATS):
        for name, run in runs.items():
            started = time.perf_counter()
            jax.block_until_ready(run())
            taken = time.perf_counter() - started
            found[name] = min(found.get(name, taken), taken)
    return found


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def main() -> None:
    """Measures the parts that were asked for."""
    arguments = _arguments()
    width, latents, draws = arguments.width, arguments.latents, arguments.draws
    graphs = (CONTROLLED, ADAPTED)
    parts = {
        "compliance": lambda: [compliance(text, draws) for text in graphs],
        "factors": lambda: factors(None, 64),
        "compliance_time": lambda: [compliance_time(t, draws, width, latents) for t in graphs],
        "factors_time": lambda: factors(width, latents),
    }
    wanted = arguments.parts.split(",")
    unknown = [part for part in wanted if part not in parts]
    if unknown:
        raise SystemExit(f"unknown parts {unknown}; choose of {', '.join(parts)}")
    for part in wanted:
        for row in parts[part]():
            print(json.dumps({"part": part, **row}), flush=True)


if __name__ == "__main__":
    main()
