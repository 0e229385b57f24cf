"""Weights in another type: the values, the types in the files, and what does not fit."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from sd_jax.clip import CLIPTextConfig
from sd_jax.convert.cast import cast_weights
from sd_jax.convert.component import COMPONENTS
from sd_jax.convert.export import export_ldm, tensors_in_layout
from sd_jax.convert.ldm_buffers import ldm_buffers
from sd_jax.convert.weights import ExportError, weights_of_model
from sd_jax.files import open_tensors
from sd_jax.load import load
from sd_jax.model import StableDiffusionConfig
from sd_jax.schedule import ScheduleConfig
from sd_jax.testing import random_params
from sd_jax.typing import flat_params

CONFIG = StableDiffusionConfig(
    text_encoder=CLIPTextConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1
    )
)


@pytest.fixture(scope="module")
def weights():
    params, _ = random_params(COMPONENTS, CONFIG, 0, ("text_encoder",))
    sizes = {"text_encoder": CONFIG.text_encoder}
    return weights_of_model(params, sizes, ScheduleConfig())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_parameter_is_written_in_the_type(weights, dtype, tmp_path):
    export_ldm(cast_weights(weights, dtype), COMPONENTS, tmp_path / "file.safetensors")
    tensors = open_tensors(tmp_path / "file.safetensors")
    # Positions, which the layout has beside the weights, are whole numbers and stay so.
    buffers = {item.name for item in ldm_buffers(weights.configs, weights.schedule)}
    kinds = {np.dtype(item.dtype).name for name, item in tensors.items() if name not in buffers}
    assert kinds == {dtype}
    positions = [item for name, item in tensors.items() if name.endswith("position_ids")]
    assert [item.dtype.kind for item in positions] == ["i"]
    loaded = flat_params(load(tmp_path / "file.safetensors").params["text_encoder"])
    for path, value in weights.read("text_encoder").items():
        assert loaded[path].dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(loaded[path], np.asarray(value).astype(jnp.dtype(dtype)))


def test_a_component_is_read_once(weights):
    reads = []

    def read(name):
        reads.append(name)
        return weights.read(name)

    counted = dataclasses.replace(weights, read=read)
    for tensor in tensors_in_layout(cast_weights(counted, "float16"), COMPONENTS, "ldm"):
        tensor.read()
    assert reads == ["text_encoder"]


def test_numbers_too_large_are_not_written_as_infinite(weights, tmp_path):
    params = {"text_encoder": dict(weights.read("text_encoder"))}
    path = next(name for name in params["text_encoder"] if name.endswith("fc1/kernel"))
    params["text_encoder"][path] = np.full((8, 8), 1e6, np.float32)
    large = weights_of_model(params, weights.configs, ScheduleConfig())
    with pytest.raises(ExportError, match=f"text_encoder: 1 tensors .* float16, among .*{path}"):
        export_ldm(cast_weights(large, "float16"), COMPONENTS, tmp_path / "file.safetensors")
    assert not (tmp_path / "file.safetensors").exists()
    export_ldm(cast_weights(large, "bfloat16"), COMPONENTS, tmp_path / "file.safetensors")
