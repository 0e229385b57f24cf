"""Tiny networks of the real classes, for data preparation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cnc_jax.convert import COMPONENTS
from cnc_jax.testing import random_model, tiny_config
from sd_jax.convert.export import export_diffusers
from sd_jax.convert.weights import weights_of_model
from tests.input_pipeline.tiny_dpt import write_dpt as write_dpt


def write_inpainting(folder: Path) -> Path:
    """Writes a diffusers folder with a UNet of 9 channels and all of CLIP; returns it."""
    config = tiny_config()
    config = dataclasses.replace(config, unet=dataclasses.replace(config.unet, in_channels=9))
    model = random_model(config, only=("unet", "vae", "text_encoder", "image_encoder"))
    configs = {name: getattr(model.config, name) for name in model.params}
    weights = weights_of_model(model.params, configs, model.config.schedule)
    export_diffusers(weights, COMPONENTS, folder)
    return folder
