"""Pictures of a run: what the model makes of the same few held-out conditions as it learns."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnc_jax.compose import compose_latents, decode_images, encode_prompts
from cnc_jax.condition import Condition
from cnc_jax.losses import STAGES, condition_of, text_of
from input_pipeline.contact_sheet import Picture, contact_sheet
from launch.processes import is_main
from launch.train_data import RunData
from launch.train_request import TrainRequest
from launch.train_system import Experiment
from sd_jax.model import Model
from sd_jax.samplers import make_sampler
from sd_jax.schedule import make_schedule, sampling_timesteps
from sd_jax.training.partition import merge_params
from sd_jax.training.together import gathered
from sd_jax.typing import Params

_SAMPLER = "dpmpp_2m"
_LABEL_LETTERS = 120


class Pictures:
    """Samples of a few examples of the evaluation set, each with the same noise every time.

    One example is sampled after another, so that sampling takes less memory than training did.

    Args:
      request: of the run.
      experiment: of the run.
      data: of the run.
    """

    def __init__(self, request: TrainRequest, experiment: Experiment, data: RunData) -> None:
        self._config, self._experiment = request.config, experiment
        self._stage = STAGES[request.config.stage]
        self._examples = data.examples(request.config.num_samples)
        schedule = experiment.config.schedule
        timesteps = sampling_timesteps(
            request.config.sample_steps, schedule.num_train_timesteps, "trailing"
        )
        self._table = make_sampler(_SAMPLER, make_schedule(schedule), timesteps)
        if request.config.guidance_scale != 1 and experiment.config.text_encoder is None:
            warnings.warn(
                "pictures are sampled without guidance, as there is no text encoder", stacklevel=2
            )
        self._negative_ids = np.asarray(data.needs.helpers.token_ids([""]))

    def sheet(self, params: Params, frozen: Params, step: int) -> np.ndarray | None:
        """Returns the pictures with their conditions on one sheet.

        All processes must call it; those that are not the main one get None.

        Args:
          params: trainable parameters, or their average.
          frozen: the others.
          step: number of steps done.
        """
        params, frozen = gathered(params), gathered(frozen)
        if not is_main():
            return None
        model = Model(merge_params(params, frozen), self._experiment.config)
        rows = [self._row(model, index) for index in range(len(self._examples["captions"]))]
        return contact_sheet(rows, title=f"step {step}")

    def _row(self, model: Model, index: int) -> list[Picture]:
        batch = {
            name: jnp.asarray(values[index : index + 1])
            for name, values in self._examples.items()
            if name != "captions"
        }
        dtype = jnp.dtype(self._config.dtype)
        condition = condition_of(model, batch, self._stage, dtype)
        image = self._sample(model, batch, condition, index)
        caption = self._examples["captions"][index]
        row = [Picture.photo(f"sampled: {caption[:_LABEL_LETTERS]}", image)]
        if "image" in batch:
            row.append(Picture.photo("of the data", np.asarray(batch["image"][0])))
        if condition.depth_maps is not None:
            kind = self._config.local_condition
            maps = np.asarray(condition.depth_maps[0])
            row += [Picture.depth_map(f"{kind} {i}", item) for i, item in enumerate(maps)]
        if condition.masks is not None:
            row.append(Picture.mask("mask", np.asarray(condition.masks[0, 0])))
        return row

    def _sample(
        self, model: Model, batch: dict[str, Any], condition: Condition, index: int
    ) -> np.ndarray:
        """Returns one image in [-1, 1]."""
        config, dtype = self._config, jnp.dtype(self._config.dtype)
        negative = None
        if config.guidance_scale != 1 and "text_encoder" in model.params:
            negative = encode_prompts(model, jnp.asarray(self._negative_ids), dtype=dtype)
        example = batch.get("latent_mean")
        if example is not None:
            size = example.shape[1:3]
        else:
            size = [n // model.config.vae.downsampling for n in batch["image"].shape[1:3]]
        latents = compose_latents(
            model,
            text_of(model, batch, dtype),
            condition,
            self._table,
            jax.vmap(jax.random.key)(jnp.asarray([config.seed + index], jnp.uint32)),
            latents_size=(int(size[0]), int(size[1])),
            negative_embeddings=negative,
            guidance_scale=None if negative is None else config.guidance_scale,
            dtype=dtype,
            attention_implementation=config.attention,
        )
        return np.asarray(decode_images(model, latents, dtype=dtype))[0]
