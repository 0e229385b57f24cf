"""The work of `launch.sample`: a checked request -> images, a contact sheet and a record."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnc_jax.compose import compose_latents, decode_images, encode_exemplars, encode_prompts
from cnc_jax.condition import Condition
from cnc_jax.convert import COMPONENTS
from cnc_jax.load import CnCConfig
from launch.loaded import LoadedModels
from launch.progress import StepBar
from launch.sample_fit import fit_problems, needed_components
from launch.sample_inputs import (
    LayerInputs,
    doubts,
    exemplar_pixels,
    read_inputs,
    spatial_maps,
)
from launch.sample_outputs import Outputs
from launch.sample_request import SampleRequest, parse_request
from launch.sample_safety import flagged_images
from launch.setting_checks import RequestError, collect
from sd_jax.load import Opened, open_checkpoints
from sd_jax.model import Model
from sd_jax.samplers import make_sampler
from sd_jax.sampling import SamplerTable
from sd_jax.schedule import ScheduleConfig, make_schedule, sampling_timesteps
from sd_jax.tokenizer import Tokenizer, load_tokenizer


def sample_from_config(config: ConfigDict, models: LoadedModels | None = None) -> Path:
    """Writes the images that a config asks for; returns the folder.

    Args:
      config: of `configs/sample.py`.
      models: that stay in memory between requests; loaded for this one alone unless given.

    Raises:
      RequestError: the config, the files and the model do not fit; nothing slow has started.
    """
    checked = _check(config)
    request, inputs, opened, table = checked.request, checked.inputs, checked.opened, checked.table
    maps = spatial_maps(request, inputs)
    outputs = Outputs(request, inputs, maps)
    needed = [name for name in opened.configs if name in needed_components(request, opened)]
    source = (*request.checkpoints, config.num_heads, config.use_ema)
    with outputs.record.timed("load"):
        models = models or LoadedModels()
        model = models.load(opened, CnCConfig, needed, request.config.dtype, source)
    with outputs.record.timed("conditions"):
        prepared = _prepare(request, inputs, maps, model, load_tokenizer(opened.tokenizer))
    for seeds in _batches(request):
        with outputs.record.timed("sample"):
            images = _sample_batch(request, model, prepared, table, seeds)
        flagged = flagged_images(model, images)
        outputs.add_images(seeds, images[: len(seeds)], flagged)
    return outputs.finish()


@dataclasses.dataclass(frozen=True)
class _Checked:
    """A request that can be met."""

    request: SampleRequest
    inputs: LayerInputs
    opened: Opened
    table: SamplerTable


def _check(config: ConfigDict) -> _Checked:
    """Returns the request with its files read and its checkpoints opened, no weight read.

    Raises:
      RequestError: lists what is wrong with the settings, the files and the checkpoints.
    """
    request, problems = parse_request(config)
    sampler_is_known = not problems
    inputs = collect(problems, lambda: read_inputs(request))
    opened: Opened | None = None
    if request.checkpoints:
        opened = collect(
            problems,
            lambda: open_checkpoints(
                request.checkpoints,
                COMPONENTS,
                num_heads=request.config.num_heads or None,
                use_ema=request.config.use_ema,
            ),
        )
    if opened is not None:
        problems += fit_problems(request, opened)
    table = None
    if sampler_is_known:
        schedule = opened.schedule if opened else ScheduleConfig()
        table = collect(problems, lambda: _make_table(request, schedule))
    if problems or opened is None or table is None:
        raise RequestError(problems)
    for text in doubts(request, inputs):
        warnings.warn(text, stacklevel=2)
    return _Checked(request, inputs, opened, table)


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """What all batches share; the arrays have batch 1."""

    text: jax.Array
    negative: jax.Array
    condition: Condition


def _make_table(request: SampleRequest, schedule: ScheduleConfig) -> SamplerTable:
    config = request.config
    timesteps = sampling_timesteps(config.num_steps, schedule.num_train_timesteps, config.spacing)
    eta = None if config.eta == -1 else config.eta
    return make_sampler(config.sampler, make_schedule(schedule), timesteps, eta=eta)


def _prepare(
    request: SampleRequest,
    inputs: LayerInputs,
    maps: np.ndarray | None,
    model: Model,
    tokenizer: Tokenizer,
) -> _Prepared:
    config, dtype = request.config, jnp.dtype(request.config.dtype)
    prompts = [config.prompt, config.negative_prompt]
    ids = tokenizer(prompts, long_prompts=config.long_prompts)
    embeddings = encode_prompts(model, jnp.asarray(ids), dtype=dtype)
    exemplars = None
    pixels = None
    if request.exemplars:
        pixels = exemplar_pixels(inputs, model.config.image_encoder.image_size)
    if pixels is not None:
        present = np.array([path is not None for path in request.exemplars], np.float32)
        # A layer left out has a zero embedding, as in training; that of a black image is not zero.
        exemplars = encode_exemplars(model, jnp.asarray(pixels)[None], dtype=dtype)
        exemplars = exemplars * present[None, :, None]
    condition = Condition(
        depth_maps=None if maps is None else jnp.asarray(maps)[None],
        exemplar_embeddings=exemplars,
        masks=None if inputs.masks is None else jnp.asarray(inputs.masks)[None],
        exemplar_strengths=_spread(request.exemplar_strengths, max(request.num_layers, 1)),
        residual_scales=_spread(request.residual_scales, model.config.unet.num_skips + 1),
        depth_gains=_spread(request.depth_gains, max(request.num_layers, 1)),
        depth_interval=jnp.asarray(request.depth_interval),
        exemplar_interval=jnp.asarray(request.exemplar_interval),
        mask_rule=config.mask_rule,
    )
    return _Prepared(embeddings[:1], embeddings[1:], condition)


def _sample_batch(
    request: SampleRequest,
    model: Model,
    prepared: _Prepared,
    table: SamplerTable,
    seeds: tuple[int, ...],
) -> np.ndarray:
    """Returns the images of these seeds; a short batch is filled up, so that nothing recompiles."""
    config, dtype = request.config, jnp.dtype(request.config.dtype)
    filled = (seeds + (0,) * config.batch_size)[: config.batch_size]

    def repeat(array: Any) -> Any:
        return None if array is None else jnp.repeat(array, config.batch_size, axis=0)

    condition = dataclasses.replace(
        prepared.condition,
        depth_maps=repeat(prepared.condition.depth_maps),
        exemplar_embeddings=repeat(prepared.condition.exemplar_embeddings),
        masks=repeat(prepared.condition.masks),
    )
    guided = config.guidance_scale != 1 or config.image_guidance_scale != 0
    scale = model.config.vae.downsampling
    label = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    with StepBar(table.timesteps.shape[0], label) as bar:
        latents = compose_latents(
            model,
            repeat(prepared.text),
            condition,
            table,
            jax.vmap(jax.random.key)(jnp.asarray(filled, jnp.uint32)),
            latents_size=(config.height // scale, config.width // scale),
            negative_embeddings=repeat(prepared.negative) if guided else None,
            guidance_scale=config.guidance_scale if guided else None,
            image_guidance_scale=config.image_guidance_scale or None,
            dtype=dtype,
            attention_implementation=config.attention,
            report=bar.update,
        )
    images = np.asarray(decode_images(model, latents, dtype=dtype, slice_size=config.decode_slice))
    if not np.isfinite(images).all():
        raise FloatingPointError(
            f"the images of seeds {seeds} are not finite in {config.dtype}; use "
            "--config.dtype=bfloat16 or float32"
        )
    return images


def _batches(request: SampleRequest) -> Iterator[tuple[int, ...]]:
    seeds = iter(request.seeds)
    while batch := tuple(itertools.islice(seeds, request.config.batch_size)):
        yield batch


def _spread(values: tuple[float, ...], count: int) -> np.ndarray:
    """Returns `count` numbers: one shape however many were given, so that nothing recompiles."""
    return np.broadcast_to(np.asarray(values, np.float32), (count,))
