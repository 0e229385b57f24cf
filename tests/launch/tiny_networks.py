"""Tiny networks of the real classes, for data preparation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from cnc_jax.convert import COMPONENTS
from cnc_jax.testing import random_model, tiny_config
from sd_jax.convert.export import export_diffusers, weights_of_model


def write_inpainting(folder: Path) -> Path:
    """Writes a diffusers folder with a UNet of 9 channels and all of CLIP; returns it."""
    config = tiny_config()
    config = dataclasses.replace(config, unet=dataclasses.replace(config.unet, in_channels=9))
    model = random_model(config, only=("unet", "vae", "text_encoder", "image_encoder"))
    configs = {name: getattr(model.config, name) for name in model.params}
    weights = weights_of_model(model.params, configs, model.config.schedule)
    export_diffusers(weights, COMPONENTS, folder)
    return folder


def write_dpt(folder: Path) -> Path:
    """Writes a DPT of random weights as transformers saves it; returns the folder."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    transformers.DPTForDepthEstimation(config).save_pretrained(folder)
    processor = {
        "image_processor_type": "DPTImageProcessor",
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
