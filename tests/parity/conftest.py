"""Tiny PyTorch models with random weights, saved as diffusers and transformers save them.

torch, diffusers and transformers are imported by the fixtures, so that a run of other tests does
not wait for them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest


@pytest.fixture(scope="session", autouse=True)
def torch():
    """Returns torch, on few threads: the cores are shared with other workers."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    return torch


@pytest.fixture(scope="session")
def randomise(torch) -> Callable:
    """Returns (model, seed) -> model in evaluation mode, with no weight at 0 or 1.

    A fresh model has norms that do nothing and ControlNet's zero convolutions, which would hide
    swapped tensors.
    """

    def randomise_weights(model, seed=0):
        generator = torch.Generator().manual_seed(seed)
        for _, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(noise * fan_in**-0.5)
            else:
                parameter.add_(0.1 * noise)
        return model.eval()

    return randomise_weights


@pytest.fixture(scope="session")
def diffusers_models(torch, randomise) -> SimpleNamespace:
    """Returns makers of tiny models of diffusers, by name."""
    diffusers = pytest.importorskip("diffusers")
    attention = ("CrossAttnDownBlock2D",) * 2

    def encoder(**sizes):
        return {
            "block_out_channels": (32, 64, 64),
            "down_block_types": (*attention, "DownBlock2D"),
            "layers_per_block": 2,
            "cross_attention_dim": 48,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
            **sizes,
        }

    def unet(seed=0, **sizes):
        up = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
        model = diffusers.UNet2DConditionModel(
            sample_size=16, up_block_types=up, **encoder(**sizes)
        )
        return randomise(model, seed)

    def controlnet(seed=0, **sizes):
        model = diffusers.ControlNetModel(
            conditioning_embedding_out_channels=(4, 8, 12, 16), **encoder(**sizes)
        )
        return randomise(model, seed)

    def vae(seed=0, **sizes):
        widths = sizes.pop("block_out_channels", (16, 32, 48))
        model = diffusers.AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            layers_per_block=2,
            norm_num_groups=8,
            **sizes,
        )
        return randomise(model, seed)

    return SimpleNamespace(unet=unet, controlnet=controlnet, vae=vae)


@pytest.fixture(scope="session")
def clip_models(torch, randomise) -> SimpleNamespace:
    """Returns makers of tiny towers of transformers, by name, and the sizes of the image tower."""
    transformers = pytest.importorskip("transformers")
    layers = {
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    text_sizes = {"vocab_size": 60, "bos_token_id": 58, "eos_token_id": 59, **layers}
    vision_sizes = {"image_size": 32, "patch_size": 8, "projection_dim": 24, **layers}

    def text(seed=0, **sizes):
        config = transformers.CLIPTextConfig(**{**text_sizes, **sizes})
        return randomise(transformers.CLIPTextModel(config), seed)

    def vision(seed=0, **sizes):
        config = transformers.CLIPVisionConfig(**{**vision_sizes, **sizes})
        return randomise(transformers.CLIPVisionModelWithProjection(config), seed)

    def safety_checker(seed=0):
        from diffusers.pipelines.stable_diffusion.safety_checker import (
            StableDiffusionSafetyChecker,
        )

        config = transformers.CLIPConfig(
            text_config=text_sizes, vision_config=vision_sizes, projection_dim=24
        )
        return randomise(StableDiffusionSafetyChecker(config), seed)

    return SimpleNamespace(text=text, vision=vision, safety_checker=safety_checker)


@pytest.fixture(scope="session")
def to_torch(torch) -> Callable:
    """Returns NHWC -> NCHW; other ranks stay as they are."""

    def convert(array):
        array = np.asarray(array)
        return torch.from_numpy(array.transpose(0, 3, 1, 2).copy() if array.ndim == 4 else array)

    return convert


@pytest.fixture(scope="session")
def assert_close() -> Callable:
    """Returns a check of the relative root mean square error against torch's NCHW result."""

    def check(ours, theirs, tolerance=1e-5):
        theirs = theirs.numpy()
        if theirs.ndim == 4:
            theirs = theirs.transpose(0, 2, 3, 1)
        ours = np.asarray(ours)
        assert ours.shape == theirs.shape
        assert np.std(theirs) > 1e-3, "a constant result compares nothing"
        error = np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2))
        assert error <= tolerance, f"relative RMS {error:.2e} is above {tolerance:.0e}"

    return check


@pytest.fixture(scope="session")
def apply() -> Callable:
    """Returns (module, params, *args) -> output, compiled."""

    def run(module, params, *args, **kwargs):
        method = kwargs.pop("method", None)

        @jax.jit
        def call(params, args, kwargs):
            return module.apply({"params": params}, *args, method=method, **kwargs)

        return call(params, args, kwargs)

    return run


@pytest.fixture(scope="session")
def weights_of() -> Callable[[Path], Path]:
    """Returns the one safetensors file in a folder."""

    def find(folder):
        (path,) = Path(folder).glob("*.safetensors")
        return path

    return find
