"""Checkpoints that exist as names and shapes, and tiny ones with weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sd_jax.clip import CLIPTextConfig, CLIPVisionConfig
from sd_jax.controlnet import ControlNetConfig
from sd_jax.convert.component import COMPONENTS
from sd_jax.convert.source import Source
from sd_jax.files import LazyTensor, write_safetensors
from sd_jax.safety_checker import SafetyCheckerConfig
from sd_jax.unet import UNetConfig
from sd_jax.vae import VAEConfig

_UNET = UNetConfig(
    block_out_channels=(32, 64),
    layers_per_block=1,
    attention_levels=(True, False),
    cross_attention_dim=24,
)
_VISION = CLIPVisionConfig(
    image_size=16,
    patch_size=8,
    hidden_size=24,
    intermediate_size=32,
    num_layers=1,
    num_heads=1,
    projection_dim=12,
)


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """Returns sizes by component that can be told from shapes alone in every layout."""
    return {
        "unet": _UNET,
        "vae": VAEConfig(block_out_channels=(32, 64), layers_per_block=1),
        "text_encoder": CLIPTextConfig(
            vocab_size=20,
            max_position_embeddings=7,
            hidden_size=24,
            intermediate_size=32,
            num_layers=2,
            num_heads=1,
        ),
        "image_encoder": _VISION,
        "safety_checker": SafetyCheckerConfig(_VISION, num_concepts=3, num_special_concepts=2),
        "controlnet": ControlNetConfig(_UNET, hint_block_out_channels=(4, 8, 12, 16)),
    }


@pytest.fixture(scope="session")
def state(tiny) -> Callable[..., dict[str, np.ndarray]]:
    """Returns (layout, *components) -> new random tensors by full name."""
    known = {
        (component.name, layout): {
            spec.prefix + entry.name: entry.shape
            for entry in component.table(layout, tiny[component.name])
        }
        for component in COMPONENTS
        for layout, spec in component.layouts.items()
    }

    def make(layout: str, *components: str, dtype: Any = np.float32) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        return {
            name: rng.normal(size=shape).astype(dtype)
            for component in components
            for name, shape in known[component, layout].items()
        }

    return make


@pytest.fixture(scope="session")
def files() -> SimpleNamespace:
    """Returns ways to hand tensors to the code under test."""

    def refuse() -> np.ndarray:
        raise AssertionError("a weight was read where names and shapes are enough")

    def unread(shapes: Mapping[str, tuple[int, ...]], layout: str = "ldm", **kwargs: Any) -> Source:
        """Returns an opened checkpoint whose tensors cannot be read."""
        tensors = {
            name: LazyTensor(
                name,
                tuple(shape),
                np.dtype(np.int64 if name.endswith("position_ids") else np.float32),
                refuse,
            )
            for name, shape in shapes.items()
        }
        return Source(Path("model.safetensors"), layout, tensors, **kwargs)

    def shapes_of(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in tensors.items()}

    def write(path: Path, tensors: Mapping[str, np.ndarray]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = [
            LazyTensor(name, array.shape, array.dtype, lambda array=array: array)
            for name, array in tensors.items()
        ]
        write_safetensors(path, entries)
        return path

    return SimpleNamespace(unread=unread, shapes_of=shapes_of, write=write)
