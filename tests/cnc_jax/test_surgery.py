"""Local fusers start from any UNet that takes its latents alone."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnc_jax.load import CnCConfig
from cnc_jax.local_fuser import FeatureExtractor
from cnc_jax.surgery import extend_local, init_local
from cnc_jax.testing import random_model, smallest_config
from sd_jax.convert.component import COMPONENTS
from sd_jax.load import open_checkpoints
from sd_jax.typing import flat_params


@pytest.fixture(scope="module")
def scenes():
    """Returns the scenes' UNet, whose latents have 16 channels."""
    return open_checkpoints(["scenes-prior"], COMPONENTS).load(CnCConfig, ["unet"])


def test_a_local_fuser_starts_from_latents_of_any_channels(scenes):
    fuser = init_local(scenes).model.params["local_fuser"]
    unet = scenes.params["unet"]
    assert fuser["conv_in"]["kernel"].shape[2] == 16
    np.testing.assert_array_equal(fuser["conv_in"]["kernel"], unet["conv_in"]["kernel"])


def test_a_unet_that_takes_more_than_its_latents_is_refused(scenes):
    sizes = dataclasses.replace(scenes.config.unet, in_channels=33)
    model = dataclasses.replace(scenes, config=dataclasses.replace(scenes.config, unet=sizes))
    with pytest.raises(ValueError, match=r"takes 33 channels .* the 16 of its latents alone"):
        init_local(model)


@pytest.fixture(scope="module")
def two():
    return random_model(smallest_config(), 0, ("local_fuser",))


def features_of(model, params, maps):
    variables = {"params": params["feature_extractor"]}
    return FeatureExtractor(model.config.local_fuser).apply(variables, maps)


@pytest.mark.parametrize("count", [3, 4])
def test_added_layers_change_nothing_at_first_and_learn(two, rng, count):
    operation = extend_local(two, num_layers=count)
    more = operation.model
    assert more.config.local_fuser.num_layers == count
    assert operation.fresh == ()
    maps = jnp.asarray(rng.uniform(size=(1, count, 64, 64, 3)), jnp.float32)
    before = features_of(two, two.params["local_fuser"], maps[:, jnp.array([0, -1])])
    params = more.params["local_fuser"]
    for ours, theirs in zip(features_of(more, params, maps), before, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)

    def loss(params):
        return sum(jnp.sum(jnp.square(part)) for part in features_of(more, params, maps))

    gradient = flat_params(jax.grad(loss)(params))["feature_extractor/extractors_0/kernel"]
    width = more.config.local_fuser.stem_channels[-1]
    for layer in range(count):
        part = np.asarray(gradient)[:, :, layer * width : (layer + 1) * width]
        assert np.abs(part).max() > 0, layer


def test_nothing_but_the_streams_is_another(two):
    more = flat_params(extend_local(two).model.params["local_fuser"])
    old = flat_params(two.params["local_fuser"])
    for path, array in old.items():
        if not path.startswith("feature_extractor/"):
            np.testing.assert_array_equal(more[path], array)
    for mine, of in ((0, 0), (1, 0), (2, 1)):
        stem = "feature_extractor/layers_{}/convs_0/kernel"
        np.testing.assert_array_equal(more[stem.format(mine)], old[stem.format(of)])


def test_a_global_fuser_of_fewer_layers_is_left_out():
    both = random_model(smallest_config(), 0, ("local_fuser", "global_fuser"))
    more = extend_local(both).model
    assert set(more.params) == {"local_fuser"}
    assert more.config.global_fuser is None


@pytest.mark.parametrize("count", [1, 2])
def test_layers_are_not_taken_away(two, count):
    with pytest.raises(ValueError, match=f"has 2 layers and is to have {count}"):
        extend_local(two, num_layers=count)
