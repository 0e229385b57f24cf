"""Pictures of a run of FG-DM: what the trained factors draw of the same few held-out captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fgdm_jax.draw import Drawing, draw, draw_pictures
from fgdm_jax.examples import posterior_of, text_of
from input_pipeline.contact_sheet import Picture, contact_sheet
from launch.processes import is_main
from launch.train_data import RunData
from launch.train_request import TrainRequest
from launch.train_system import Experiment
from sd_jax.clip import encode_text
from sd_jax.model import Model
from sd_jax.samplers import make_sampler
from sd_jax.schedule import make_schedule, sampling_timesteps
from sd_jax.training.partition import merge_params
from sd_jax.training.together import gathered
from sd_jax.typing import Array, Params

_SAMPLER = "dpmpp_2m"
_LABEL_LETTERS = 120


class Pictures:
    """Draws of the trained factors, each with the same noise every time; other parents are given.

    One example is drawn after another, so that drawing takes less memory than training did.

    Args:
      request: of the run.
      experiment: of the run.
      data: of the run.
    """

    def __init__(self, request: TrainRequest, experiment: Experiment, data: RunData) -> None:
        self._config, self._experiment = request.config, experiment
        self._examples = data.examples(request.config.num_samples)
        self._loss = experiment.loss
        schedule = experiment.config.schedule
        timesteps = sampling_timesteps(
            request.config.sample_steps, schedule.num_train_timesteps, "trailing"
        )
        self._table = make_sampler(_SAMPLER, make_schedule(schedule), timesteps)
        self._negative_ids = np.asarray(data.needs.helpers.token_ids([""]))

    def sheet(self, params: Params, frozen: Params, step: int) -> np.ndarray | None:
        """Returns the pictures beside those of the data on one sheet.

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
        drawn = self._draw(model, batch, index)
        caption = self._examples["captions"][index][:_LABEL_LETTERS]
        row = []
        for name, picture in drawn.items():
            row.append(Picture.photo(f"{name} of: {caption}", picture))
            if name in batch:
                row.append(Picture.photo(f"{name} of the data", np.asarray(batch[name][0])))
        return row

    def _draw(self, model: Model, batch: Mapping[str, Any], index: int) -> dict[str, np.ndarray]:
        """Returns a picture in [-1, 1] of each trained variable."""
        config, dtype = self._config, jnp.dtype(self._config.dtype)
        graph, trained = self._loss.graph, self._loss.trained
        given = {
            name: self._latents(model, batch, name, dtype)
            for factor in graph
            for name in factor.parents
            if factor.variable in trained and name not in trained
        }
        text = text_of(model, batch, dtype)
        negative, scales = None, {}
        if config.guidance_scale != 1 and "text_encoder" in model.params:
            encoder = model.config.text_encoder
            ids = jnp.asarray(self._negative_ids)
            negative = encode_text(encoder, model.params["text_encoder"], ids, dtype=dtype)
            scales = dict.fromkeys(trained, float(config.guidance_scale))
        height, width = self._size(batch)
        downsampling = model.config.vae.downsampling
        drawing = Drawing(
            graph,
            dict.fromkeys(trained, (height // downsampling, width // downsampling)),
            dict.fromkeys(trained, self._table),
            scales,
            dtype=dtype,
            attention_implementation=config.attention,
        )
        keys = jax.vmap(jax.random.key)(jnp.asarray([config.seed + index], jnp.uint32))
        states = draw(
            model, drawing, text, keys, negative_embeddings=negative, wanted=trained, given=given
        ).factors
        return {
            name: np.asarray(draw_pictures(model, states[name].latents, dtype=dtype))[0]
            for name in trained
        }

    def _latents(self, model: Model, batch: Mapping[str, Any], name: str, dtype: Any) -> Array:
        posterior = posterior_of(model, batch, name, dtype)
        return posterior.mean * model.config.vae.scaling_factor

    def _size(self, batch: Mapping[str, Any]) -> tuple[int, int]:
        """Returns (height, width) in pixels; all maps of a batch have one."""
        for name, values in batch.items():
            if values.ndim == 4 and name not in ("latent_mean", "latent_logvar"):
                return values.shape[1], values.shape[2]
        mean = batch["latent_mean"]
        scale = self._experiment.config.vae.downsampling
        return scale * mean.shape[1], scale * mean.shape[2]
