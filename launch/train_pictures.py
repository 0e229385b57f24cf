"""Pictures of a run: what the model makes of the same few held-out examples as it learns."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.contact_sheet import contact_sheet
from launch.processes import is_main
from launch.train_data import RunData
from launch.train_request import TrainRequest
from launch.train_system import Example, Experiment, System
from sd_jax.encoding import encode_prompts
from sd_jax.model import Model
from sd_jax.samplers import make_sampler
from sd_jax.schedule import make_schedule, sampling_timesteps
from sd_jax.training.partition import merge_params
from sd_jax.training.together import gathered
from sd_jax.typing import Array, Dtype, Params

_SAMPLER = "dpmpp_2m"
_LABEL_LETTERS = 120


class Pictures:
    """Samples of a few examples of the evaluation set, each with the same noise every time.

    One example is sampled after another, so that sampling takes less memory than training did.

    Args:
      request: of the run.
      system: whose run it is.
      experiment: of the run.
      data: of the run.
    """

    def __init__(
        self, request: TrainRequest, system: System, experiment: Experiment, data: RunData
    ) -> None:
        self._config, self._system, self._experiment = request.config, system, experiment
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
        rows = [
            self._system.pictures(self._config, self._experiment, model, self._example(model, i))
            for i in range(len(next(iter(self._examples.values()))))
        ]
        return contact_sheet(rows, title=f"step {step}")

    def _example(self, model: Model, index: int) -> Example:
        captions = self._examples.get("captions")
        batch = {
            name: jnp.asarray(values[index : index + 1])
            for name, values in self._examples.items()
            if name != "captions"
        }
        return Example(
            batch,
            captions[index][:_LABEL_LETTERS] if captions is not None else str(index),
            jax.vmap(jax.random.key)(jnp.asarray([self._config.seed + index], jnp.uint32)),
            self._table,
            self._negative(model, jnp.dtype(self._config.dtype)),
        )

    def _negative(self, model: Model, dtype: Dtype) -> Array | None:
        """Returns the embeddings of no text; None without guidance."""
        if self._config.guidance_scale == 1 or "text_encoder" not in model.params:
            return None
        return encode_prompts(model, jnp.asarray(self._negative_ids), dtype=dtype)
