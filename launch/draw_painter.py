"""Draws what a request asks for, a batch of seeds at a time, each batch by the same programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnc_jax.compose import compose_latents
from cnc_jax.condition import Condition
from fgdm_jax.decode import depth_of
from fgdm_jax.draw import Drawing, drawn_groups
from fgdm_jax.painter import GraphPainter, filled, keys_of
from launch.draw_inputs import Given
from launch.draw_request import DrawRequest
from launch.progress import StepBar
from sd_jax.encoding import encode_prompts
from sd_jax.model import Model
from sd_jax.sampling import SamplerTable
from sd_jax.tokenizer import Tokenizer


class Painter:
    """A model with a request's texts, given variables and samplers.

    Args:
      request: what is drawn.
      model: with all that it needs.
      tables: sampler of each drawn variable.
      tokenizer: of the model.
      given: the given variables.
    """

    def __init__(
        self,
        request: DrawRequest,
        model: Model,
        tables: Mapping[str, SamplerTable],
        tokenizer: Tokenizer,
        given: Given,
    ) -> None:
        self.request, self.model = request, model
        config = request.config
        self._dtype = jnp.dtype(config.dtype)
        prompts = [config.prompt, config.negative_prompt]
        ids = jnp.asarray(tokenizer(prompts, long_prompts=config.long_prompts))
        self._tables = dict(tables)
        self._hints = {name: picture[None] for name, picture in given.hints.items()}
        scale = model.config.vae.downsampling
        names = [factor.variable for factor in request.order]
        sizes = {name: request.size(name) for name in names}
        self._drawing = Drawing(
            request.graph,
            {name: (height // scale, width // scale) for name, (height, width) in sizes.items()},
            self._tables,
            {name: self._guidance_scale(name) for name in names if self._guidance_scale(name) != 1},
            mode=config.mode,
            what=config.hand_over,
            conditioning_scale=config.conditioning_scale,
            dtype=self._dtype,
            attention_implementation=config.attention,
        )
        self._painter = GraphPainter(
            model,
            self._drawing,
            encode_prompts(model, ids, dtype=self._dtype),
            given.maps,
            given.hints,
            config.decode_slice,
        )

    def draw(
        self,
        seeds: Sequence[int],
        wanted: tuple[str, ...],
        maps: Mapping[str, np.ndarray],
        batch_size: int,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Returns clean latents of variables, [seed h w c], and kept predictions, [step seed ...].

        Args:
          seeds: at most `batch_size`.
          wanted: variables to draw.
          maps: latents that were drawn before, [seed h w c] by variable.
          batch_size: to which everything is filled up, so that nothing recompiles.
        """
        label = "+".join(wanted)
        with StepBar(self._num_steps(wanted), f"{label}, {_seeds(seeds)}") as bar:
            return self._painter.draw(
                seeds,
                wanted,
                maps,
                batch_size,
                keep=self.request.keep,
                report=lambda _, done: bar.update(done),
            )

    def compose(
        self,
        seeds: Sequence[int],
        layer_names: Sequence[str],
        maps: Mapping[str, np.ndarray],
        batch_size: int,
    ) -> np.ndarray:
        """Returns clean latents of images that Compose and Conquer composes, [seed h w c].

        Args:
          seeds: at most `batch_size`.
          layer_names: variables of the layers, front to back.
          maps: pictures of layered depth in [-1, 1], [seed h w 3] by variable.
          batch_size: to which everything is filled up.
        """
        config = self.request.config
        height, width = self.request.size("image")
        pictures = {**maps, **self._hints}
        layers = [filled(pictures[name], batch_size) for name in layer_names]
        shape = (batch_size, height, width)
        depths = [jax.image.resize(depth_of(layer), shape, "bilinear") for layer in layers]
        stacked = jnp.repeat(jnp.stack(depths, axis=1)[..., None], 3, axis=-1)
        scales = np.full(
            self.model.config.unet.num_skips + 1, config.conditioning_scale, np.float32
        )
        table = self._tables["image"]
        guided = self._guidance_scale("image") != 1
        with StepBar(table.timesteps.shape[0], f"image, {_seeds(seeds)}") as bar:
            latents = compose_latents(
                self.model,
                self._painter.text(0, batch_size),
                Condition(depth_maps=stacked, residual_scales=scales),
                table,
                keys_of(seeds, batch_size),
                latents_size=self._drawing.sizes["image"],
                negative_embeddings=self._painter.text(1, batch_size) if guided else None,
                guidance_scale=self._guidance_scale("image") if guided else None,
                dtype=self._dtype,
                attention_implementation=config.attention,
                report=bar.update,
            )
        return np.asarray(latents)[: len(seeds)]

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Returns the pictures of clean latents, [n h w 3] in [-1, 1].

        Args:
          latents: [n h w c].

        Raises:
          FloatingPointError: they are not finite.
        """
        try:
            return self._painter.decode(latents)
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; use --config.dtype=bfloat16 or float32") from error

    def _guidance_scale(self, name: str) -> float:
        config = self.request.config
        return config.guidance_scale if name == "image" else config.map_guidance_scale

    def _num_steps(self, wanted: tuple[str, ...]) -> int:
        """Returns how many steps are reported: those of each group that advances together."""
        order = tuple(factor for factor in self.request.order if factor.variable in wanted)
        return sum(
            max(self._tables[factor.variable].timesteps.shape[0] for factor in group)
            for group in drawn_groups(self.model, self._drawing, order)
        )


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
