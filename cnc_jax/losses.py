"""Compose and Conquer's training loss (arXiv:2401.09048, section 3): one for all stages.

    stage    trains                        conditions
    local    local fuser                   text, depth maps (or edges)
    layers   stems, and what joins them    the same: more layers, at little cost
    global   global fuser                  text, exemplars, masks
    joint    both                          all of them
    beside   global fuser                  all of them: the local fuser stays, to the bit
    base     the UNet, without fusers      text: a Stable Diffusion to start from

Dropping conditions is the data's part (`input_pipeline.stream.CNC_DROP`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import jax.numpy as jnp

from cnc_jax.condition import Condition
from cnc_jax.load import CnCConfig
from cnc_jax.networks import Networks, NetworkSettings, make_static
from sd_jax.clip import CLIPVisionModel
from sd_jax.encoding import Batch, latents_scale, posterior_of, text_of
from sd_jax.losses import draw, min_snr_weights, prediction_target, squared_errors
from sd_jax.model import Model
from sd_jax.schedule import add_noise, make_schedule
from sd_jax.training.partition import merge_params
from sd_jax.typing import Array, Float, Int, KeyArray, Params, apply_module

_EXTRACTOR = "local_fuser/feature_extractor"
_SPATIAL = ("edge_maps", "three_depth_maps", "depth_maps")

StageName: TypeAlias = Literal["local", "layers", "global", "joint", "beside", "base"]


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a stage trains and sees.

    Attributes:
      trainable: patterns of the parameters that it trains.
      components: that the model needs, beside those that turn the batch into latents and tokens.
      has_depth: whether depth maps (or edges) condition it.
      has_exemplars: whether exemplars and masks condition it.
    """

    trainable: tuple[str, ...]
    components: tuple[str, ...]
    has_depth: bool = False
    has_exemplars: bool = False


STAGES: Mapping[str, Stage] = {
    "local": Stage(("local_fuser/.*",), ("unet", "local_fuser"), has_depth=True),
    "layers": Stage(
        # Behind the joining convolution nothing depends on the number of layers.
        (f"{_EXTRACTOR}/layers_.*", f"{_EXTRACTOR}/extractors_0/.*"),
        ("unet", "local_fuser"),
        has_depth=True,
    ),
    "global": Stage(("global_fuser/.*",), ("unet", "global_fuser"), has_exemplars=True),
    "joint": Stage(
        ("local_fuser/.*", "global_fuser/.*"), ("unet", "local_fuser", "global_fuser"), True, True
    ),
    "beside": Stage(("global_fuser/.*",), ("unet", "local_fuser", "global_fuser"), True, True),
    "base": Stage(("unet/.*",), ("unet",)),
}


@dataclasses.dataclass(frozen=True)
class NoiseLoss:
    """A loss function of the training loop.

    Attributes:
      config: sizes of the model.
      stage: name of the stage.
      settings: of the networks.
      min_snr_gamma: weights the timesteps (`sd_jax.losses.min_snr_weights`); 0 leaves them equal,
        as the paper does.
      dropout: whether the global fuser drops, as in the original training.
    """

    config: CnCConfig
    stage: StageName
    settings: NetworkSettings = NetworkSettings()
    min_snr_gamma: float = 0.0
    dropout: bool = True

    def __call__(
        self,
        params: Params,
        frozen: Params,
        batch: Batch,
        keys: KeyArray,
        step: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Returns the mean loss of a batch, and nothing else worth a metric.

        Args:
          params: trainable parameters.
          frozen: the model's other parameters.
          batch: as the stream makes it (docs/stream.md lists the keys).
          keys: one for each example.
          step: makes no difference here.
        """
        del step
        return jnp.mean(self.per_example(params, frozen, batch, keys)), {}

    def per_example(
        self,
        params: Params,
        frozen: Params,
        batch: Batch,
        keys: KeyArray,
        timesteps: Int[Array, " b"] | None = None,
    ) -> Float[Array, " b"]:
        """Returns the loss of each example.

        Args:
          params: trainable parameters.
          frozen: the model's other parameters.
          batch: as the stream makes it.
          keys: one for each example.
          timesteps: instead of drawn ones; the weights and dropout of training are then left out.
        """
        model = Model(merge_params(params, frozen), self.config)
        size = latents_size(self.config, batch)
        draws = draw(keys, size, self.config.schedule.num_train_timesteps)
        is_training = timesteps is None
        return self.errors(
            model,
            clean_latents(model, batch, draws.latents, self.settings.dtype),
            draws.noise,
            draws.timesteps if timesteps is None else timesteps,
            text_of(model, batch, self.settings.dtype),
            condition_of(model, batch, STAGES[self.stage], self.settings.dtype),
            dropout_keys=draws.dropout if is_training and self.dropout else None,
            gamma=self.min_snr_gamma if is_training else 0.0,
        )

    def errors(
        self,
        model: Model,
        x0: Float[Array, "b h w c"],
        noise: Float[Array, "b h w c"],
        timesteps: Int[Array, " b"],
        text_embeddings: Float[Array, "b k cc"],
        condition: Condition,
        *,
        dropout_keys: KeyArray | None = None,
        gamma: float = 0.0,
    ) -> Float[Array, " b"]:
        """Returns the squared error of each example's prediction.

        Args:
          model: with all that the stage needs.
          x0: clean latents, scaled.
          noise: that is added to them.
          timesteps: how much of it.
          text_embeddings: of the captions.
          condition: of the stage.
          dropout_keys: one for each example; None drops nothing.
          gamma: of the weights; 0 for none.
        """
        schedule, kind = make_schedule(self.config.schedule), self.config.schedule.prediction_type
        static = make_static(
            model, x0.shape, text_embeddings, condition, self.settings.dtype, dropout_keys
        )
        networks = Networks(model, self.settings)
        noisy = add_noise(schedule, x0, noise, timesteps)
        prediction = networks(static, condition, noisy, timesteps, {})
        target = prediction_target(schedule, kind, x0, noise, timesteps)
        losses = squared_errors(prediction, target)
        if gamma:
            losses = losses * min_snr_weights(schedule, kind, timesteps, gamma)
        return losses


def latents_size(config: Any, batch: Batch) -> tuple[int, int, int]:
    """Returns height, width and channels of the latents of a batch."""
    if "latent_mean" in batch:
        height, width = batch["latent_mean"].shape[1:3]
    else:
        height, width = (side // config.vae.downsampling for side in batch["image"].shape[1:3])
    return height, width, config.unet.out_channels


def clean_latents(
    model: Model, batch: Batch, keys: KeyArray, dtype: Any = jnp.float32
) -> Float[Array, "b h w c"]:
    """Returns a draw of the autoencoder's posterior for each example, scaled.

    Args:
      model: with its autoencoder, unless the batch holds `latent_mean` and `latent_logvar`.
      batch: as the stream makes it.
      keys: one for each example.
      dtype: type of the computation.
    """
    return posterior_of(model, batch, dtype=dtype).sample_each(keys) * latents_scale(model)


def condition_of(model: Model, batch: Batch, stage: Stage, dtype: Any = jnp.float32) -> Condition:
    """Returns the condition that a stage sees of a batch.

    Args:
      model: with its image encoder, if the batch holds exemplars as images.
      batch: as the stream makes it.
      stage: which conditions.
      dtype: type of the computation.
    """
    depth_maps = None
    if stage.has_depth:
        depth_maps = next(batch[name] for name in _SPATIAL if name in batch)
    if not stage.has_exemplars:
        return Condition(depth_maps=depth_maps)
    if "exemplar_embeddings" in batch:
        embeddings = batch["exemplar_embeddings"]
    else:
        model.require("image_encoder")
        images = batch["exemplar_images"]
        tower = CLIPVisionModel(model.config.image_encoder, dtype)
        flat = apply_module(
            tower,
            {"params": model.params["image_encoder"]},
            images.reshape(-1, *images.shape[2:]),
        )
        embeddings = flat.reshape(*images.shape[:2], -1) * batch["exemplars_present"][..., None]
    return Condition(depth_maps=depth_maps, exemplar_embeddings=embeddings, masks=batch["masks"])
