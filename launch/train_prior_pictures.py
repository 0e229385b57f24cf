"""Pictures of the training of a Stable Diffusion: reconstructions, then samples of captions."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from cnc_jax.condition import Condition
from input_pipeline.contact_sheet import Picture
from launch.train_cnc_pictures import sampled_image
from launch.train_system import Example, Experiment
from sd_jax.autoencoder_loss import AutoencoderLoss
from sd_jax.encoding import decode_images, latents_scale, posterior_of
from sd_jax.model import Model


def pictures(config: Any, experiment: Experiment, model: Model, example: Example) -> list[Picture]:
    """Returns the row of an example.

    Args:
      config: of the run.
      experiment: of the run.
      model: as far as it is trained.
      example: of the evaluation set.
    """
    loss = experiment.loss
    if isinstance(loss, AutoencoderLoss):
        row = []
        for name in ("image", *loss.maps):
            row.append(Picture.photo(name, np.asarray(example.batch[name][0])))
            row.append(Picture.photo(f"{name} again", _again(config, model, example, name)))
        return row
    image = sampled_image(config, model, example, Condition())
    row = [Picture.photo(f"sampled: {example.caption}", image)]
    if "image" in example.batch:
        row.append(Picture.photo("of the data", np.asarray(example.batch["image"][0])))
    return row


def _again(config: Any, model: Model, example: Example, name: str) -> np.ndarray:
    """Returns a picture in [-1, 1] after encoding and decoding."""
    dtype = jnp.dtype(config.dtype)
    mean = posterior_of(model, {"image": example.batch[name]}, dtype=dtype).mean
    return np.asarray(decode_images(model, mean * latents_scale(model), dtype=dtype))[0]
