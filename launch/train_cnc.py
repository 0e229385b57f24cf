"""What a run of Compose and Conquer is: its loss, what it trains, and what it wants in a batch."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from cnc_jax.convert import COMPONENTS
from cnc_jax.load import CnCConfig
from cnc_jax.losses import STAGES, NoiseLoss
from cnc_jax.networks import NetworkSettings
from configs.common import unknown_name
from input_pipeline.stream import Helpers
from launch.train_cnc_pictures import pictures
from launch.train_cnc_start import encoders, plan_start
from launch.train_data import BatchNeeds, keys_of
from launch.train_request import TrainRequest
from launch.train_system import Experiment, Sizes, System
from sd_jax.tokenizer import load_tokenizer

_LOCAL = {
    ("depth", 2): ("depth_maps", ("foreground_depth", "background_depth")),
    ("depth", 3): ("three_depth_maps", ("foreground_depth", "middle_depth", "far_depth")),
    ("canny", 2): ("edge_maps", ("foreground_edges", "background_edges")),
}


def setting_problems(config: Any) -> list[str]:
    """Returns what is wrong with the settings that only this system has."""
    choices = {
        "stage": tuple(STAGES),
        "local_condition": ("depth", "canny"),
        "exemplars": ("encode", "cached"),
        "depth_streams": ("uni", "fresh"),
    }
    problems = [
        f"{name}: {unknown_name('value', config[name], known)}"
        for name, known in choices.items()
        if config[name] not in known
    ]
    if config.hidden_multiple < 1:
        problems.append(f"hidden_multiple must be at least 1, got {config.hidden_multiple}")
    layers = (config.local_condition, config.num_layers)
    if config.num_layers < 1:
        problems.append(f"num_layers must be at least 1, got {config.num_layers}")
    elif config.stage in ("local", "layers") and layers not in _LOCAL:
        problems.append(
            f"num_layers is {config.num_layers}, but data sets have two layers, foreground and "
            "background, or three of depth; models of more layers are for sampling and for streams "
            "of your own"
        )
    elif config.stage in ("global", "joint", "beside") and config.num_layers != 2:
        problems.append(
            f"num_layers is {config.num_layers}, but data sets have masks and exemplars of two "
            "layers; train three layers in stages local and layers"
        )
    return problems


def make_experiment(request: TrainRequest, model: Sizes) -> Experiment:
    """Returns the run that a request asks for.

    Args:
      request: of the run.
      model: that is trained, or that it starts from.
    """
    configs = model.configs
    config, stage = request.config, STAGES[request.config.stage]
    fields = {field.name for field in dataclasses.fields(CnCConfig)}
    sizes = {name: value for name, value in configs.items() if name in fields}
    model_config = CnCConfig(schedule=model.schedule, **sizes)
    settings = NetworkSettings(
        dtype=config.dtype,
        attention_implementation=config.attention,
        remat=config.remat,
        encoder_gradient=config.encoder_gradient,
    )
    loss = NoiseLoss(
        model_config,
        config.stage,
        settings,
        min_snr_gamma=config.min_snr_gamma,
        dropout=config.dropout,
    )
    keys, conditions = list(keys_of(config)), []
    if stage.has_depth:
        key, names = _LOCAL[config.local_condition, config.num_layers]
        keys.append(key)
        conditions += names
    if stage.has_exemplars:
        is_encoded = config.exemplars == "encode"
        keys += ["exemplar_images" if is_encoded else "exemplar_embeddings", "masks"]
        conditions += ["image_embedding", "background_embedding"]
    vision = configs.get("image_encoder")
    helpers = Helpers(
        tokenizer=functools.partial(load_tokenizer(model.tokenizer), warn=False),
        exemplar_size=vision.image_size if vision is not None else None,
    )
    needs = BatchNeeds(tuple(keys), tuple(conditions), helpers)
    components = frozenset((*stage.components, *encoders(request)))
    return Experiment(model_config, loss, stage.trainable, components, needs)


CNC = System(COMPONENTS, list, setting_problems, plan_start, make_experiment, pictures)
"""Compose and Conquer."""
