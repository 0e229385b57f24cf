"""What training a Stable Diffusion from nothing is: losses, and what they want in a batch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, get_args

from cnc_jax.load import CnCConfig
from cnc_jax.losses import NoiseLoss
from cnc_jax.networks import NetworkSettings as CnCNetworkSettings
from configs.common import split_list, unknown_name
from fgdm_jax.graph import VARIABLES
from input_pipeline.stream import Helpers
from launch.setting_checks import collect
from launch.train_data import BatchNeeds, keys_of
from launch.train_prior_pictures import pictures
from launch.train_prior_start import CONTRASTIVE, PATTERNS, TRAINED, integers, plan_start
from launch.train_request import TrainRequest
from launch.train_system import Experiment, Sizes, System
from sd_jax.autoencoder_loss import AutoencoderLoss
from sd_jax.contrastive_loss import ContrastiveLoss
from sd_jax.convert.component import COMPONENTS
from sd_jax.network_settings import NetworkSettings
from sd_jax.schedule import PredictionType
from sd_jax.tokenizer import load_tokenizer

_MAPS = tuple(name for name in VARIABLES if name != "image")
_SIZES = (
    *("norm_groups", "latent_channels", "autoencoder_layers", "unet_layers", "unet_heads"),
    *("text_width", "text_layers", "image_size", "image_patch", "image_width", "image_layers"),
    "tower_heads",
)


def setting_problems(config: Any) -> list[str]:
    """Returns what is wrong with the settings that only this system has."""
    choices = {"stage": tuple(TRAINED), "prediction_type": get_args(PredictionType)}
    problems = [
        f"{name}: {unknown_name('value', config[name], known)}"
        for name, known in choices.items()
        if config[name] not in known
    ]
    problems += [
        f"maps: {unknown_name('variable', name, _MAPS)}"
        for name in split_list(config.maps)
        if name not in _MAPS
    ]
    if not 0 < config.image_share <= 1:
        problems.append(f"image_share must be above 0 and at most 1, got {config.image_share}")
    if config.kl_weight < 0:
        problems.append(f"kl_weight must be at least 0, got {config.kl_weight}")
    if config.temperature <= 0:
        problems.append(f"temperature must be above 0, got {config.temperature}")
    if config.tokenizer and not Path(config.tokenizer).is_dir():
        problems.append(
            f"tokenizer: there is no folder {config.tokenizer}; launch.make_tokenizer makes one"
        )
    if config.stage in CONTRASTIVE and config.sample_every and config.num_samples:
        problems.append(f"stage {config.stage} draws no pictures; set sample_every to 0")
    if config.stage in CONTRASTIVE and config.accumulation > 1:
        problems.append(
            f"accumulation is {config.accumulation}, but an image is compared with all captions of "
            f"its batch; stage {config.stage} takes no microbatches"
        )
    if config.stage == "text_and_unet" and config.text == "cached":
        problems.append(
            "text is cached, but stage text_and_unet trains the text encoder, whose states change; "
            "set text to encode"
        )
    return problems + _size_problems(config)


def _size_problems(config: Any) -> list[str]:
    problems = [
        f"{name} must be at least 1, got {config[name]}" for name in _SIZES if config[name] < 1
    ]
    groups, heads = max(config.norm_groups, 1), max(config.tower_heads, 1)
    for name in ("autoencoder_channels", "unet_channels"):
        widths = collect(problems, lambda name=name: integers(config, name))
        if widths == ():
            problems.append(f"{name} is empty; give a width for each level")
        problems += [
            f"{name}: {width} is no multiple of norm_groups, {groups}"
            for width in widths or ()
            if width < 1 or width % groups
        ]
    attention = collect(problems, lambda: integers(config, "unet_attention")) or ()
    levels = len(split_list(config.unet_channels))
    if len(attention) != levels or set(attention) - {0, 1}:
        problems.append(
            f"unet_attention must be 0 or 1 for each of the {levels} unet_channels, got "
            f"{config.unet_attention!r}"
        )
    heads_of_unet = max(config.unet_heads, 1)
    problems += [
        f"unet_channels: {width} is no multiple of unet_heads, {heads_of_unet}"
        for width in collect([], lambda: integers(config, "unet_channels")) or ()
        if width % heads_of_unet
    ]
    problems += [
        f"{name} is {config[name]}, no multiple of tower_heads, {heads}"
        for name in ("text_width", "image_width")
        if config[name] % heads
    ]
    if config.image_size % max(config.image_patch, 1):
        problems.append(
            f"image_size is {config.image_size}, no multiple of image_patch, {config.image_patch}"
        )
    return problems


def make_experiment(request: TrainRequest, model: Sizes) -> Experiment:
    """Returns the run that a request asks for.

    Args:
      request: of the run.
      model: that is trained, or that it starts from.
    """
    config, stage = request.config, request.config.stage
    model_config = CnCConfig(schedule=model.schedule, **model.configs)
    patterns = PATTERNS[stage]
    tokenizer = load_tokenizer(model.tokenizer)
    vision = model.configs.get("image_encoder")
    helpers = Helpers(
        tokenizer=functools.partial(tokenizer, warn=False),
        exemplar_size=None if vision is None else vision.image_size,
    )
    choices = (config.dtype, config.attention, config.remat)
    settings = NetworkSettings(*choices)
    if stage in ("autoencoder", "decoder"):
        maps = tuple(split_list(config.maps))
        loss = AutoencoderLoss(model_config, maps, config.image_share, config.kl_weight, settings)
        needs = BatchNeeds(("image", *maps), (), helpers)
        return Experiment(
            model_config, loss, patterns, frozenset(TRAINED[stage]), needs, has_timesteps=False
        )
    if stage in CONTRASTIVE:
        towers = ContrastiveLoss(model_config, tokenizer.eos_id, config.temperature, settings)
        needs = BatchNeeds(("exemplar_images", "input_ids"), (), helpers)
        both = frozenset(TRAINED["towers"])  # also where one of them stays as it is
        return Experiment(model_config, towers, patterns, both, needs, has_timesteps=False)
    noise = NoiseLoss(
        model_config,
        "base",
        CnCNetworkSettings(*choices),
        min_snr_gamma=config.min_snr_gamma,
    )
    components = {"unet"}
    if config.latents == "encode":
        components.add("vae")
    if config.text == "encode":
        components.add("text_encoder")
    keys, maps = keys_of(config), tuple(split_list(config.maps))
    # What is cached is of images.
    share = 1.0 - config.image_share if {"image", "input_ids"} <= set(keys) else 0.0
    needs = BatchNeeds(keys, (), helpers, maps if share else (), share if maps else 0.0)
    return Experiment(model_config, noise, patterns, frozenset(components), needs)


PRIOR = System(
    COMPONENTS,
    list,
    setting_problems,
    plan_start,
    make_experiment,
    pictures,
    needs_init=False,
)
"""A Stable Diffusion of one's own."""
