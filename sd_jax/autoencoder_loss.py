"""The loss that an autoencoder is trained with: pictures come back, and latents stay near a normal.

    picture -> posterior -> a draw of it -> picture again

As Stable Diffusion's autoencoder (arXiv:2112.10752, appendix G), without its perceptual and
adversarial terms, which need networks that were trained on photographs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from sd_jax.encoding import Batch, posterior_of
from sd_jax.losses import Mean
from sd_jax.model import Model
from sd_jax.network_settings import DEFAULT_SETTINGS, NetworkSettings
from sd_jax.training.partition import merge_params
from sd_jax.typing import Array, Float, Int, KeyArray, Params, apply_module
from sd_jax.vae import AutoencoderKL, Posterior

_IMAGE = "image"
_PEAK = 2.0
_CHOICE, _DRAW = range(2)


@dataclasses.dataclass(frozen=True)
class AutoencoderLoss:
    """A loss function of the training loop.

    Attributes:
      config: sizes of the model, of which the autoencoder is trained.
      maps: keys of other pictures in the batch, such as "segmentation": what the autoencoder is to
        take beside images.
      image_share: probability that an example shows its image, and not one of `maps`.
      kl_weight: of the posteriors' divergence from a standard normal, a mean over latents.
      settings: of the network.
    """

    config: Any
    maps: tuple[str, ...] = ()
    image_share: float = 1.0
    kl_weight: float = 1e-6
    settings: NetworkSettings = DEFAULT_SETTINGS

    def __call__(
        self,
        params: Params,
        frozen: Params,
        batch: Batch,
        keys: KeyArray,
        step: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, ""], dict[str, Array | Mean]]:
        """Returns the mean loss of a batch, and its peak signal-to-noise ratio ("psnr", in dB).

        Args:
          params: trainable parameters.
          frozen: the model's other parameters.
          batch: pictures in [-1, 1].
          keys: one for each example.
          step: makes no difference here.
        """
        del step
        choices, draws = _keys(keys, _CHOICE), _keys(keys, _DRAW)
        errors, divergences = self._terms(params, frozen, self._chosen(batch, choices), draws)
        loss = jnp.mean(errors + self.kl_weight * divergences)
        return loss, {"psnr": Mean(jnp.sum(psnr(errors)), jnp.float32(errors.shape[0]))}

    def per_example(
        self,
        params: Params,
        frozen: Params,
        batch: Batch,
        keys: KeyArray,
        timesteps: Int[Array, " b"] | None = None,
    ) -> Float[Array, " b"]:
        """Returns the squared error of each example's image, without the divergence.

        Args:
          params: trainable parameters.
          frozen: the model's other parameters.
          batch: pictures in [-1, 1].
          keys: one for each example.
          timesteps: make no difference here.
        """
        del timesteps
        return self._terms(params, frozen, batch[_IMAGE], _keys(keys, _DRAW))[0]

    def _terms(
        self, params: Params, frozen: Params, pictures: Array, keys: KeyArray
    ) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        """Returns the squared error and the divergence of each picture."""
        model = Model(merge_params(params, frozen), self.config)
        posterior = posterior_of(model, {_IMAGE: pictures}, dtype=self.settings.dtype)
        autoencoder = AutoencoderKL(self.config.vae, self.settings.dtype)
        variables = {"params": model.params["vae"]}
        again = apply_module(autoencoder, variables, posterior.sample_each(keys), method="decode")
        errors = jnp.square(again - pictures).reshape(pictures.shape[0], -1)
        return jnp.mean(errors, axis=1), divergence(posterior)

    def _chosen(self, batch: Batch, keys: KeyArray) -> Float[Array, "b h w 3"]:
        """Returns a picture of each example: its image, or a map."""
        if not self.maps:
            return batch[_IMAGE]
        pictures = jnp.stack([batch[name] for name in (_IMAGE, *self.maps)], axis=1)
        shares = [self.image_share, *[(1.0 - self.image_share) / len(self.maps)] * len(self.maps)]
        logits = jnp.log(jnp.asarray(shares))
        numbers = jax.vmap(lambda key: jax.random.categorical(key, logits))(keys)
        return jax.vmap(lambda row, number: row[number])(pictures, numbers)


def divergence(posterior: Posterior) -> Float[Array, " b"]:
    """Returns the Kullback-Leibler divergence from a standard normal, a mean over latents."""
    mean, log_variance = posterior.mean, posterior.log_variance
    terms = 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance)
    return jnp.mean(terms.reshape(terms.shape[0], -1), axis=1)


def psnr(squared_errors: Float[Array, " b"]) -> Float[Array, " b"]:
    """Returns peak signal-to-noise ratios in dB of pictures in [-1, 1].

    Args:
      squared_errors: mean of each picture.
    """
    return 10.0 * jnp.log10(_PEAK**2 / squared_errors)


def _keys(keys: KeyArray, purpose: int) -> KeyArray:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)
