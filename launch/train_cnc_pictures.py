"""Pictures of a run of Compose and Conquer: the image of an example's conditions, and them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from cnc_jax.compose import compose_latents
from cnc_jax.condition import Condition
from cnc_jax.losses import STAGES, condition_of
from input_pipeline.contact_sheet import Picture
from launch.train_system import Example, Experiment
from sd_jax.encoding import decode_images, text_of
from sd_jax.model import Model


def pictures(config: Any, experiment: Experiment, model: Model, example: Example) -> list[Picture]:
    """Returns the row of an example: sampled, of the data, and the conditions.

    Args:
      config: of the run.
      experiment: of the run.
      model: as far as it is trained.
      example: of the evaluation set.
    """
    dtype = jnp.dtype(config.dtype)
    batch = example.batch
    condition = condition_of(model, batch, STAGES[config.stage], dtype)
    image = sampled_image(config, model, example, condition)
    row = [Picture.photo(f"sampled: {example.caption}", image)]
    if "image" in batch:
        row.append(Picture.photo("of the data", np.asarray(batch["image"][0])))
    if condition.depth_maps is not None:
        kind = config.local_condition
        maps = np.asarray(condition.depth_maps[0])
        row += [Picture.depth_map(f"{kind} {i}", item) for i, item in enumerate(maps)]
    if condition.masks is not None:
        row.append(Picture.mask("mask", np.asarray(condition.masks[0, 0])))
    return row


def sampled_image(config: Any, model: Model, example: Example, condition: Condition) -> np.ndarray:
    """Returns one image in [-1, 1] of an example's caption under a condition.

    Args:
      config: of the run.
      model: as far as it is trained.
      example: of the evaluation set.
      condition: that the image obeys; may be empty.
    """
    dtype = jnp.dtype(config.dtype)
    latents = compose_latents(
        model,
        text_of(model, example.batch, dtype),
        condition,
        example.table,
        example.keys,
        latents_size=example.latents_size(model),
        negative_embeddings=example.negative_embeddings,
        guidance_scale=None if example.negative_embeddings is None else config.guidance_scale,
        dtype=dtype,
        attention_implementation=config.attention,
    )
    return np.asarray(decode_images(model, latents, dtype=dtype))[0]
