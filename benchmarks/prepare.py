"""Preparation: images a second of every step on the CPU, and the work of those on a device.

    python benchmarks/prepare.py

Steps on the CPU run on photographs of 512 x 512, in one process and one thread. The work of the
networks is counted by XLA at full size, nothing runs; hours are for `--images` on a device of
`--tflops` at `--utilisation`. Prints one JSON line for each step.
"""

from __future__ import annotations

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from skimage import data, transform

from cnc_jax.convert import COMPONENTS
from input_pipeline.codecs import encode_picture
from input_pipeline.prepare.depths import normals_from_depth
from input_pipeline.prepare.dilation import dilate
from input_pipeline.prepare.masks import LabelMask
from input_pipeline.prepare.resize import Resize
from input_pipeline.prepare.sketches import Edges
from sd_jax.clip import CLIPTextConfig, CLIPVisionConfig, CLIPVisionModel
from sd_jax.inpaint import inpaint
from sd_jax.model import Model, StableDiffusionConfig
from sd_jax.samplers import make_sampler
from sd_jax.schedule import ScheduleConfig, make_schedule, sampling_timesteps
from sd_jax.unet import UNetConfig
from sd_jax.vae import AutoencoderKL, VAEConfig

SIZE = 512
FIELDS = ("id", "source", "captions", "height", "width", "image", "segmentation")


def raw_records(count: int) -> list[dict]:
    """Returns records of photographs, larger than what they are resized to."""
    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    records = []
    for index in range(count):
        photo = transform.resize(photos[index % 4], (640, 800), preserve_range=True)
        labels = np.full((640, 800), 150, np.uint8)
        labels[100:400, 200 + index : 500] = index % 90
        records.append(
            {
                "id": str(index),
                "source": "photographs",
                "captions": ["a photograph"],
                "height": 640,
                "width": 800,
                "image": encode_picture(photo.astype(np.uint8), "photo"),
                "segmentation": encode_picture(labels, "grey"),
            }
        )
    return records


def measure_cpu(count: int) -> None:
    """Prints images a second of the steps on the CPU."""
    records = raw_records(count)
    for step in (Resize(((SIZE, SIZE),), FIELDS), LabelMask(), Edges()):
        start = time.perf_counter()
        for record in records:
            record |= step.encode(step.compute([step.decode(record)])[0])
        rate = count / (time.perf_counter() - start)
        print(json.dumps({"step": step.name, "images_per_second_per_core": round(rate, 1)}))
    mask = np.zeros((SIZE, SIZE), bool)
    mask[100:300, 150:400] = True
    depth = np.random.default_rng(0).random((SIZE, SIZE)).astype(np.float32)
    for name, run in (
        ("dilation, part of background", lambda: dilate(mask)),
        ("normals, part of depth", lambda: normals_from_depth(depth)),
        (
            "a 16-bit depth to PNG, part of depth",
            lambda: encode_picture((depth * 65535).astype(np.uint16), "deep"),
        ),
    ):
        start = time.perf_counter()
        for _ in range(count):
            run()
        rate = count / (time.perf_counter() - start)
        print(json.dumps({"step": name, "images_per_second_per_core": round(rate, 1)}))


def measure_networks(images: int, tflops: float, utilisation: float) -> None:
    """Prints the work of the networks for an image, and hours for all."""
    config = StableDiffusionConfig(
        unet=UNetConfig(in_channels=9), vae=VAEConfig(), text_encoder=CLIPTextConfig()
    )
    params = {
        item.name: item.abstract_params(getattr(config, item.name))
        for item in COMPONENTS
        if item.name in ("unet", "vae", "text_encoder")
    }
    picture = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    text = jax.ShapeDtypeStruct((1, 77, 768), jnp.float32)
    # XLA counts the body of a loop once, so one step is counted, and then all of them.
    once, steps = (
        inpaint.lower(
            Model(params, config),
            picture,
            jax.ShapeDtypeStruct((1, SIZE, SIZE), jnp.float32),
            text,
            text,
            make_sampler("ddim", make_schedule(ScheduleConfig()), sampling_timesteps(2)),
            jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
            attention_implementation="einsum",
        ).cost_analysis()["flops"],
        25,
    )
    vae = AutoencoderKL(config.vae)
    encode = _flops(
        lambda p, x: vae.apply({"params": p}, x, method="encode"), params["vae"], picture
    )
    latents = jax.ShapeDtypeStruct((1, SIZE // 8, SIZE // 8, 4), jnp.float32)
    decode = _flops(
        lambda p, x: vae.apply({"params": p}, x, method="decode"), params["vae"], latents
    )
    vision = CLIPVisionConfig()
    tower = CLIPVisionModel(vision)
    (component,) = (item for item in COMPONENTS if item.name == "image_encoder")
    embed = _flops(
        lambda p, x: tower.apply({"params": p}, x),
        component.abstract_params(vision),
        jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32),
    )
    step = once - encode - decode
    work = {
        "background (25 steps with guidance)": encode + decode + steps * step,
        "embeddings (image and background)": 2 * embed,
        "latents": encode,
    }
    for name, flops in work.items():
        hours = images * flops / (tflops * 1e12 * utilisation) / 3600
        print(
            json.dumps(
                {"step": name, "tflop_per_image": round(flops / 1e12, 2), "hours": round(hours, 2)}
            )
        )


def _flops(function, *arguments) -> float:
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def main() -> None:
    """Runs both parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=24, help="photographs for the CPU's steps")
    parser.add_argument("--images", type=int, default=302_000)
    parser.add_argument("--tflops", type=float, default=989, help="of the device, bfloat16")
    parser.add_argument("--utilisation", type=float, default=0.4)
    arguments = parser.parse_args()
    measure_cpu(arguments.count)
    measure_networks(arguments.images, arguments.tflops, arguments.utilisation)


if __name__ == "__main__":
    main()
