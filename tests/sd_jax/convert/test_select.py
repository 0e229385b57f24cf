"""Some components without the others."""

from __future__ import annotations

import numpy as np
import pytest

from sd_jax.clip import CLIPTextConfig
from sd_jax.convert.component import COMPONENTS
from sd_jax.convert.export import export_ldm
from sd_jax.convert.load import plan_loading
from sd_jax.convert.select import join_weights, select_components
from sd_jax.convert.source import open_source
from sd_jax.convert.store import open_converted, save_plans
from sd_jax.convert.weights import ExportError, weights_of_converted, weights_of_model
from sd_jax.load import load
from sd_jax.model import StableDiffusionConfig
from sd_jax.schedule import ScheduleConfig
from sd_jax.testing import random_params
from sd_jax.typing import flat_params
from sd_jax.vae import VAEConfig

CONFIG = StableDiffusionConfig(
    vae=VAEConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4),
    text_encoder=CLIPTextConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1
    ),
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Returns the weights of a file with two components, converted."""
    folder = tmp_path_factory.mktemp("select")
    params, _ = random_params(COMPONENTS, CONFIG, 0, ("vae", "text_encoder"))
    sizes = {name: getattr(CONFIG, name) for name in params}
    both = weights_of_model(params, sizes, ScheduleConfig())
    export_ldm(both, COMPONENTS, folder / "both.safetensors")
    plan = plan_loading(open_source(folder / "both.safetensors"), COMPONENTS)
    save_plans([plan], COMPONENTS, folder / "converted", ScheduleConfig())
    return weights_of_converted(open_converted(folder / "converted", COMPONENTS))


def test_a_component_is_written_alone(weights, tmp_path):
    export_ldm(select_components(weights, ["vae"]), COMPONENTS, tmp_path / "vae.safetensors")
    params = load(tmp_path / "vae.safetensors").params
    assert set(params) == {"vae"}
    for path, value in flat_params(params["vae"]).items():
        np.testing.assert_array_equal(value, weights.read("vae")[path])


def test_all_of_them_keep_what_the_file_looked_like(weights):
    assert select_components(weights, ["text_encoder", "vae"]).origins == weights.origins != ()


def test_a_component_that_is_not_there(weights):
    with pytest.raises(ExportError, match=r"no unet, adapter_depth to write; .* vae, text_encoder"):
        select_components(weights, ["unet", "vae", "adapter_depth"])


def test_checkpoints_complete_one_another(weights, tmp_path):
    params, _ = random_params(COMPONENTS, CONFIG, 1, ("vae",))
    other = weights_of_model(params, {"vae": CONFIG.vae}, ScheduleConfig(), tokenizer=tmp_path)
    joined = join_weights([other, weights])
    assert set(joined.configs) == {"vae", "text_encoder"}
    assert joined.tokenizer == tmp_path
    for name, part in (("vae", other), ("text_encoder", weights)):
        for path, value in part.read(name).items():
            np.testing.assert_array_equal(joined.read(name)[path], value)
    # What one file looked like is not true of several.
    assert joined.origins == ()
    assert join_weights([weights]) is weights
