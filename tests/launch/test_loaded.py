"""Models that stay in memory."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from launch.loaded import LoadedModels
from sd_jax.load import Opened
from sd_jax.model import StableDiffusionConfig
from sd_jax.schedule import ScheduleConfig
from sd_jax.vae import VAEConfig


@pytest.fixture
def reads():
    return []


@pytest.fixture
def opened(reads):
    def read():
        reads.append("vae")
        return {"kernel": jnp.ones(2)}

    return Opened({"vae": VAEConfig()}, ScheduleConfig(), None, {"vae": read})


def load(models, opened, dtype="float32", source=("a",)):
    return models.load(opened, StableDiffusionConfig, ["vae"], dtype, source)


def test_what_is_kept_is_read_once_for_each_source_and_type(opened, reads):
    models = LoadedModels(keep=True)
    first, again = load(models, opened), load(models, opened)
    assert len(reads) == 1
    assert first.params["vae"] is again.params["vae"]
    assert again.config.vae == VAEConfig()
    assert load(models, opened, "bfloat16").params["vae"]["kernel"].dtype == jnp.bfloat16
    load(models, opened, source=("b",))
    assert len(reads) == 3


def test_nothing_is_kept_unasked(opened, reads):
    models = LoadedModels()
    load(models, opened)
    load(models, opened)
    assert len(reads) == 2
