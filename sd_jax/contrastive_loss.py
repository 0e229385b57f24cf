"""The loss that the two towers are trained with: an image is to know its caption among a batch's.

CLIP's (arXiv:2103.00020, section 2.3), with two differences. Stable Diffusion's text encoder has no
projection, so the image's embedding is projected to the width of the text's last state; and the
temperature is a setting, as neither tower's file would keep a learned one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from sd_jax.clip import CLIPVisionModel
from sd_jax.encoding import Batch, text_of
from sd_jax.model import Model
from sd_jax.network_settings import DEFAULT_SETTINGS, NetworkSettings
from sd_jax.training.partition import merge_params
from sd_jax.typing import Array, Float, Int, KeyArray, Params, apply_module


@dataclasses.dataclass(frozen=True)
class ContrastiveLoss:
    """A loss function of the training loop.

    An example's loss depends on the others of its batch, so that of microbatches (accumulation)
    is another one than that of the whole.

    Attributes:
      config: sizes of the model, of which both towers are trained.
      eos_id: of the token whose state stands for the whole text.
      temperature: that similarities are divided by.
      settings: of the networks.
    """

    config: Any
    eos_id: int
    temperature: float = 0.07
    settings: NetworkSettings = DEFAULT_SETTINGS

    def __call__(
        self,
        params: Params,
        frozen: Params,
        batch: Batch,
        keys: KeyArray,
        step: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Returns the mean loss, and the share of images that find their caption ("accuracy").

        Args:
          params: trainable parameters.
          frozen: the model's other parameters.
          batch: `exemplar_images` [batch, 2, size, size, 3] (image and background, of which the
            image is used) and `input_ids`.
          keys: make no difference here.
          step: makes no difference here.
        """
        del keys, step
        similarities = self._similarities(params, frozen, batch)
        found = jnp.argmax(similarities, axis=1) == jnp.arange(similarities.shape[0])
        return jnp.mean(_both_ways(similarities)), {"accuracy": jnp.mean(found)}

    def per_example(
        self,
        params: Params,
        frozen: Params,
        batch: Batch,
        keys: KeyArray,
        timesteps: Int[Array, " b"] | None = None,
    ) -> Float[Array, " b"]:
        """Returns the loss of each example among the others of its batch.

        Args:
          params: trainable parameters.
          frozen: the model's other parameters.
          batch: as in `__call__`.
          keys: make no difference here.
          timesteps: make no difference here.
        """
        del keys, timesteps
        return _both_ways(self._similarities(params, frozen, batch))

    def _similarities(self, params: Params, frozen: Params, batch: Batch) -> Float[Array, "b b"]:
        """Returns [image caption] cosines over the temperature."""
        model = Model(merge_params(params, frozen), self.config)
        tower = CLIPVisionModel(self.config.image_encoder, self.settings.dtype)
        variables = {"params": model.params["image_encoder"]}
        images = apply_module(tower, variables, batch["exemplar_images"][:, 0])
        texts = text_states(text_of(model, batch, self.settings.dtype), batch, self.eos_id)
        return _unit(images) @ _unit(texts).T / self.temperature


def text_states(
    text_embeddings: Float[Array, "b k c"], batch: Batch, eos_id: int
) -> Float[Array, "b c"]:
    """Returns the state of each text's first EOS, which alone has seen all of it.

    Args:
      text_embeddings: of the texts.
      batch: with their `input_ids`.
      eos_id: of the tokenizer.
    """
    places = jnp.argmax(batch["input_ids"] == eos_id, axis=1)
    return jax.vmap(lambda row, place: row[place])(text_embeddings, places)


def _both_ways(similarities: Float[Array, "b b"]) -> Float[Array, " b"]:
    """Returns the mean cross-entropy of finding the caption of an image and the other way."""
    to_text = jnp.diagonal(jax.nn.log_softmax(similarities, axis=1))
    to_image = jnp.diagonal(jax.nn.log_softmax(similarities, axis=0))
    return -0.5 * (to_text + to_image)


def _unit(vectors: Float[Array, "b c"]) -> Float[Array, "b c"]:
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
