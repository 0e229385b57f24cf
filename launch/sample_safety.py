"""Which images the safety checker that a checkpoint carries would black out."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from input_pipeline.images import clip_pixels, to_uint8
from sd_jax.model import Model
from sd_jax.safety_checker import flag_images


def flagged_images(model: Model, images: np.ndarray) -> np.ndarray | None:
    """Returns True where an image is to be black; None for a model without a safety checker.

    Args:
      model: in float32 as far as its safety checker goes, which decides by a rounding.
      images: [n h w 3] in [-1, 1].
    """
    if "safety_checker" not in model.params:
        return None
    config = model.config.safety_checker
    pixels = [clip_pixels(image, config.vision.image_size) for image in to_uint8(images)]
    return np.asarray(
        flag_images(config, model.params["safety_checker"], jnp.asarray(np.stack(pixels)))
    )
