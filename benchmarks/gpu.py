"""First figures of a GPU in one run: attention, sampling, training, and torch beside them.

    python benchmarks/gpu.py --output=gpu.json

Full-size models of random weights; needs jax, flax, orbax and numpy, and compares with diffusers on
the same card where torch and diffusers are installed. Each section stands alone: what fails is
reported and the rest goes on. Times are medians of calls that end in `block_until_ready`; the first
call of each is reported apart, as it compiles.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

import cnc_jax
from cnc_jax.compose import compose_latents, decode_images
from cnc_jax.global_fuser import GlobalFuserConfig
from cnc_jax.load import CnCConfig
from cnc_jax.local_fuser import LocalFuserConfig
from cnc_jax.losses import STAGES, NoiseLoss
from cnc_jax.networks import NetworkSettings
from cnc_jax.testing import random_model
from sd_jax.attention import attention, implementations_used
from sd_jax.clip import CLIPVisionConfig, CLIPVisionModel
from sd_jax.inpaint import inpaint
from sd_jax.load import cast_params
from sd_jax.model import Model, StableDiffusionConfig
from sd_jax.samplers import ddim, dpmpp_2m
from sd_jax.schedule import make_schedule, sampling_timesteps
from sd_jax.training.flops import flops_of
from sd_jax.training.optim import OptimizerConfig, make_optimizer
from sd_jax.training.partition import split_params
from sd_jax.training.state import make_state
from sd_jax.training.step import make_train_step
from sd_jax.training.throughput import peak_flops
from sd_jax.unet import UNetConfig
from sd_jax.vae import AutoencoderKL, VAEConfig

_OUTPUT = flags.DEFINE_string("output", "gpu.json", "Where to write the figures.")
_REPEATS = flags.DEFINE_integer("repeats", 10, "Timed calls.")


@functools.cache
def full_size_model() -> Model:
    """Returns a full-size Compose and Conquer of random weights in bfloat16."""
    config = CnCConfig(
        unet=UNetConfig(),
        vae=VAEConfig(),
        local_fuser=LocalFuserConfig(),
        global_fuser=GlobalFuserConfig(),
    )
    model = random_model(config)
    return cast_params(model.replace(params=jax.tree.map(jnp.asarray, model.params)), jnp.bfloat16)


def condition(batch: int, size: int) -> cnc_jax.Condition:
    """Returns two layers of depth, exemplars and a mask."""
    mask = jnp.zeros((batch, 1, size, size)).at[:, :, size // 4 : -size // 4, size // 4 :].set(1.0)
    return cnc_jax.Condition(
        depth_maps=jnp.full((batch, 2, size, size, 3), 0.5),
        exemplar_embeddings=jnp.ones((batch, 2, 768)),
        masks=mask,
    )


def timed(call: Callable[[], Any]) -> dict[str, float]:
    """Returns the seconds of the first call and the median of the later ones."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    first = time.perf_counter() - start
    later = []
    for _ in range(_REPEATS.value):
        start = time.perf_counter()
        jax.block_until_ready(call())
        later.append(time.perf_counter() - start)
    return {"first_s": round(first, 3), "median_s": round(statistics.median(later), 5)}


def attention_figures() -> dict[str, Any]:
    """Returns time and error of each implementation at SD 1.x's shapes, in bfloat16."""
    figures = {}
    for tokens, width in ((4096, 40), (1024, 80), (256, 160)):
        keys = jax.random.split(jax.random.key(0), 3)
        query, key, value = (
            jax.random.normal(k, (2, tokens, 8, width), jnp.bfloat16) for k in keys
        )
        reference = attention(query, key, value, implementation="einsum").astype(jnp.float32)
        for name in ("xla", "cudnn"):
            run = jax.jit(functools.partial(attention, implementation=name))
            try:
                error = float(jnp.abs(run(query, key, value).astype(jnp.float32) - reference).max())
                seconds = timed(lambda run=run, q=query, k=key, v=value: run(q, k, v))
                figures[f"{tokens}x{width} {name}"] = {"max_error": error, **seconds}
            except Exception as error:
                figures[f"{tokens}x{width} {name}"] = str(error).splitlines()[0]
    return figures


def noise_figures() -> dict[str, Any]:
    """Returns seconds of one noise prediction at 512 x 512, plain and with all conditions."""
    model, figures = full_size_model(), {}
    for batch in (1, 2, 8):
        latents = jnp.ones((batch, 64, 64, 4))
        text = jnp.ones((batch, 77, 768))
        for name, given in (("plain", None), ("cnc", condition(batch, 512))):
            run = jax.jit(functools.partial(cnc_jax.predict_noise, dtype=jnp.bfloat16))
            args = (model, latents, jnp.int32(500), text, given)
            figures[f"{name} batch {batch}"] = timed(lambda run=run, args=args: run(*args))
    return figures


def sampling_figures() -> dict[str, Any]:
    """Returns seconds of whole images with guidance, decoding included."""
    model, figures = full_size_model(), {}
    schedule = make_schedule(model.config.schedule)
    for size, steps, sampler in ((512, 50, ddim), (512, 20, dpmpp_2m), (768, 50, ddim)):
        table = sampler(schedule, sampling_timesteps(steps))
        for name, given in (("plain", cnc_jax.Condition()), ("cnc", condition(1, size))):

            def run(given=given, table=table, size=size) -> Any:
                latents = compose_latents(
                    model,
                    jnp.ones((1, 77, 768)),
                    given,
                    table,
                    jax.vmap(jax.random.key)(jnp.arange(1)),
                    latents_size=(size // 8, size // 8),
                    negative_embeddings=jnp.zeros((1, 77, 768)),
                    guidance_scale=7.5,
                    dtype=jnp.bfloat16,
                )
                return decode_images(model, latents, dtype=jnp.bfloat16)

            figures[f"{name} {size} {sampler.__name__} {steps}"] = timed(run)
    return figures


def preparation_figures() -> dict[str, Any]:
    """Returns images a second of the networks that prepare data, at 512 x 512 in batches of 8."""
    batch, size = 8, 512
    config = StableDiffusionConfig(
        unet=UNetConfig(in_channels=9),
        vae=VAEConfig(),
        image_encoder=CLIPVisionConfig(),
    )
    model = random_model(CnCConfig(**vars(config)))
    params = jax.tree.map(jnp.asarray, model.params)
    model = cast_params(model.replace(params=params), jnp.bfloat16)
    table = ddim(make_schedule(model.config.schedule), sampling_timesteps(25))
    text = jnp.ones((batch, 77, 768))
    images = jnp.zeros((batch, size, size, 3))
    masks = condition(batch, size).masks[:, 0]
    keys = jax.random.split(jax.random.key(0), batch)
    vae = AutoencoderKL(model.config.vae, jnp.bfloat16)
    tower = CLIPVisionModel(model.config.image_encoder, jnp.bfloat16)
    encode = jax.jit(lambda p, x: vae.apply({"params": p}, x, method="encode"))
    embed = jax.jit(lambda p, x: tower.apply({"params": p}, x))
    runs = {
        "background": lambda: inpaint(
            model, images, masks, text, text, table, keys, guidance_scale=10.0, dtype=jnp.bfloat16
        ),
        "latents": lambda: encode(model.params["vae"], images),
        "embeddings": lambda: embed(model.params["image_encoder"], jnp.zeros((batch, 224, 224, 3))),
    }
    figures = {}
    for name, run in runs.items():
        seconds = timed(run)
        figures[name] = {**seconds, "images_per_s": round(batch / seconds["median_s"], 2)}
    return figures


def training_figures() -> dict[str, Any]:
    """Returns images a second, MFU and memory of a joint training step at 512 x 512."""
    model = full_size_model()
    params, frozen = split_params(
        {name: model.params[name] for name in ("unet", "local_fuser", "global_fuser")},
        STAGES["joint"].trainable,
    )
    peak = peak_flops(jax.devices()[0].device_kind, jnp.bfloat16)
    figures: dict[str, Any] = {}
    for optimizer_name, remat, batch in (
        ("adamw", "none", 4),
        ("adamw", "dots", 8),
        ("adamw", "layers", 8),
        ("adamw", "layers", 32),
        ("adamw8bit", "layers", 32),
    ):
        settings = NetworkSettings(dtype=jnp.bfloat16, remat=remat)
        loss = NoiseLoss(model.config, "joint", settings)
        optimizer = make_optimizer(OptimizerConfig(optimizer_name))
        step = jax.jit(make_train_step(loss, optimizer), donate_argnums=0)
        examples = {
            "latent_mean": jnp.ones((batch, 64, 64, 4)),
            "latent_logvar": jnp.zeros((batch, 64, 64, 4)),
            "text_embeddings": jnp.ones((batch, 77, 768)),
            "depth_maps": jnp.ones((batch, 2, 512, 512, 3)),
            "exemplar_embeddings": jnp.ones((batch, 2, 768)),
            "masks": jnp.ones((batch, 2, 512, 512)),
        }
        states = [make_state(params, optimizer)]
        key = jax.random.key(0)
        plain = NoiseLoss(model.config, "joint", NetworkSettings(dtype=jnp.bfloat16))
        flops = flops_of(
            jax.jit(make_train_step(plain, optimizer)).trace(states[0], frozen, examples, key)
        )

        def run(step=step, states=states, examples=examples, key=key) -> Any:
            state, metrics = step(states.pop(), frozen, examples, key)
            states.append(state)
            return metrics

        name = f"{optimizer_name} remat={remat} batch {batch}"
        try:
            seconds = timed(run)
        except jax.errors.JaxRuntimeError as error:
            figures[name] = str(error).splitlines()[0]
            continue
        figures[name] = {
            **seconds,
            "images_per_s": round(batch / seconds["median_s"], 2),
            "mfu": round(flops / seconds["median_s"] / peak, 3) if peak else None,
            "peak_gib": round(
                (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30, 1
            ),
        }
    return figures


def torch_figures() -> dict[str, Any]:
    """Returns diffusers' seconds of one plain noise prediction at 512 x 512 on the same card."""
    import torch
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    unet = unet.to("cuda", torch.bfloat16).to(memory_format=torch.channels_last).eval()
    figures = {}
    for mode in ("eager", "compiled"):
        network = torch.compile(unet) if mode == "compiled" else unet
        for batch in (1, 2, 8):
            latents = torch.ones(batch, 4, 64, 64, device="cuda", dtype=torch.bfloat16)
            text = torch.ones(batch, 77, 768, device="cuda", dtype=torch.bfloat16)

            def run(network=network, latents=latents, text=text) -> None:
                with torch.no_grad():
                    network(latents, 500, text)
                torch.cuda.synchronize()

            figures[f"{mode} batch {batch}"] = timed(run)
    return figures


def main(argv: list[str]) -> None:
    """Runs every section and writes the figures after each."""
    del argv
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    for section in (
        attention_figures,
        noise_figures,
        sampling_figures,
        preparation_figures,
        training_figures,
        torch_figures,
    ):
        try:
            report[section.__name__] = section()
        except Exception:
            report[section.__name__] = traceback.format_exc()
        report["attention_used"] = sorted(implementations_used())
        Path(_OUTPUT.value).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(json.dumps({section.__name__: report[section.__name__]}, indent=2), flush=True)


if __name__ == "__main__":
    app.run(main)
