"""A model that draws many pictures: batches of one size, by programs that are compiled once."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from cnc_jax.compose import compose_latents, encode_exemplars
from cnc_jax.condition import Condition
from fgdm_jax.draw import Drawing, draw
from fgdm_jax.graph import Factor, FactorGraph
from input_pipeline.images import clip_pixels, to_uint8
from launch.components import AnyConfig, components_of
from sd_jax.encoding import decode_images, encode_prompts
from sd_jax.load import open_checkpoints
from sd_jax.model import Model
from sd_jax.samplers import make_sampler
from sd_jax.sampling import SamplerTable
from sd_jax.schedule import make_schedule, sampling_timesteps
from sd_jax.tokenizer import Tokenizer, load_tokenizer
from sd_jax.vae import encode_images

SIZE = 64
"""Height and width of the scenes."""

ConditionOf = Callable[[Sequence[int]], Condition]
"""Numbers of cases -> the condition of a batch of them."""


@dataclasses.dataclass(frozen=True)
class Studio:
    """A model, and how it draws.

    Attributes:
      model: whatever parts there are.
      tokenizer: of its text encoder.
      batch_size: pictures at once.
      num_steps: of the sampler.
      guidance_scale: of the text.
      seed: of the noise; picture i of a measure takes seed + i.
    """

    model: Model
    tokenizer: Tokenizer
    batch_size: int = 32
    num_steps: int = 20
    guidance_scale: float = 3.0
    seed: int = 0

    @classmethod
    def open(cls, checkpoints: Sequence[str], **settings: Any) -> Studio:
        """Returns the studio of checkpoints that complete one another.

        Args:
          checkpoints: as every command takes them.
          **settings: of the drawing.
        """
        opened = open_checkpoints(checkpoints, components_of())
        return cls(opened.load(AnyConfig), load_tokenizer(opened.tokenizer), **settings)

    def lacks(self, *components: str) -> str:
        """Returns which components are missing, in words; empty if none is.

        Args:
          *components: names.
        """
        missing = [name for name in components if name not in self.model.params]
        return f"the checkpoint has no {', '.join(missing)}" if missing else ""

    def encode(self, pictures: np.ndarray) -> np.ndarray:
        """Returns pictures in [-1, 1] as they come out of the autoencoder.

        Args:
          pictures: [n h w 3] in [-1, 1].
        """
        parts = []
        for rows in self._batches(len(pictures), "autoencoder"):
            batch = jnp.asarray(pictures[self._filled(rows)])
            parts.append(np.asarray(_autoencoded(self.model, batch))[: len(rows)])
        return np.clip(np.concatenate(parts), -1, 1)

    def encode_bytes(self, images: np.ndarray) -> np.ndarray:
        """Returns uint8 images as they come out of the autoencoder.

        Args:
          images: uint8 [n h w 3].
        """
        return to_uint8(self.encode(images.astype(np.float32) / 127.5 - 1))

    def compose(
        self,
        captions: Sequence[str],
        label: str,
        condition_of: ConditionOf | None = None,
        image_guidance_scale: float | None = None,
    ) -> np.ndarray:
        """Returns an image for each caption, uint8 [n h w 3].

        Args:
          captions: what to see; without any text there is nothing that guidance could amplify.
          label: of the progress.
          condition_of: what to see besides; nothing unless given.
          image_guidance_scale: of that; see `cnc_jax.compose.compose_latents`.
        """
        is_guided = self.guidance_scale != 1 and any(captions)
        is_guided = is_guided or image_guidance_scale is not None
        parts = []
        for rows in self._batches(len(captions), label):
            filled = self._filled(rows)
            latents = compose_latents(
                self.model,
                self._texts([captions[row] for row in filled]),
                Condition() if condition_of is None else condition_of(filled),
                self._table(),
                self._keys(filled),
                latents_size=self._latents_size,
                negative_embeddings=self._texts([""] * len(filled)) if is_guided else None,
                guidance_scale=self.guidance_scale if is_guided else None,
                image_guidance_scale=image_guidance_scale,
            )
            parts.append(to_uint8(self._decoded(latents)[: len(rows)]))
        return np.concatenate(parts)

    def maps(
        self,
        captions: Sequence[str],
        variable: str,
        num_draws: int,
        graph: FactorGraph | None = None,
        given: Mapping[str, np.ndarray] | None = None,
    ) -> Iterator[np.ndarray]:
        """Yields, draw by draw, a map of each caption as a picture in [-1, 1], [n h w 3].

        Args:
          captions: what to see.
          variable: of the map; "image" for images.
          num_draws: of each caption.
          graph: with the variable; the one factor, without parents, unless given.
          given: pictures in [-1, 1] of variables that are not drawn, [n h w 3] by variable.
        """
        graph = graph or (Factor(variable),)
        names = [factor.variable for factor in graph]
        drawing = Drawing(
            graph,
            dict.fromkeys(names, self._latents_size),
            dict.fromkeys(names, self._table()),
            dict.fromkeys(names, self.guidance_scale) if self.guidance_scale != 1 else {},
        )
        latents = {name: self._latents(pictures) for name, pictures in (given or {}).items()}
        for number in range(num_draws):
            parts = []
            label = f"{variable}, draw {number + 1} of {num_draws}"
            for rows in self._batches(len(captions), label):
                filled = self._filled(rows)
                state = draw(
                    self.model,
                    drawing,
                    self._texts([captions[row] for row in filled]),
                    self._keys([number * len(captions) + row for row in filled]),
                    negative_embeddings=self._texts([""] * len(filled)),
                    wanted=[variable],
                    given={name: jnp.asarray(item[filled]) for name, item in latents.items()},
                )
                parts.append(self._decoded(state.factors[variable].latents)[: len(rows)])
            yield np.concatenate(parts)

    def exemplars(self, pictures: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        """Returns the embeddings of pictures by the model's own tower, [n layers width].

        Args:
          pictures: uint8 [h w 3] of each layer of each case.
        """
        side = self.model.config.image_encoder.image_size
        parts = []
        for rows in self._batches(len(pictures), "exemplars"):
            seen = [[clip_pixels(item, side) for item in pictures[i]] for i in self._filled(rows)]
            embeddings = encode_exemplars(self.model, jnp.asarray(np.array(seen)))
            parts.append(np.asarray(embeddings)[: len(rows)])
        return np.concatenate(parts)

    def _latents(self, pictures: np.ndarray) -> np.ndarray:
        parts = []
        for rows in self._batches(len(pictures), "given maps"):
            batch = jnp.asarray(pictures[self._filled(rows)])
            parts.append(np.asarray(_encoded(self.model, batch))[: len(rows)])
        return np.concatenate(parts)

    @property
    def _latents_size(self) -> tuple[int, int]:
        side = SIZE // self.model.config.vae.downsampling
        return side, side

    def _table(self) -> SamplerTable:
        schedule = self.model.config.schedule
        timesteps = sampling_timesteps(self.num_steps, schedule.num_train_timesteps, "trailing")
        return make_sampler("dpmpp_2m", make_schedule(schedule), timesteps)

    def _texts(self, captions: Sequence[str]) -> jax.Array:
        ids = self.tokenizer(list(captions), warn=False)
        return encode_prompts(self.model, jnp.asarray(ids))

    def _keys(self, numbers: Sequence[int]) -> jax.Array:
        seeds = jnp.asarray([self.seed + number for number in numbers], jnp.uint32)
        return jax.vmap(jax.random.key)(seeds)

    def _decoded(self, latents: jax.Array) -> np.ndarray:
        images = decode_images(self.model, latents, dtype=jnp.float32, slice_size=latents.shape[0])
        return np.clip(np.asarray(images), -1, 1)

    def _batches(self, count: int, label: str) -> Iterator[range]:
        with tqdm(total=count, desc=label, unit="picture", file=sys.stderr) as bar:
            for first in range(0, count, self.batch_size):
                rows = range(first, min(first + self.batch_size, count))
                yield rows
                bar.update(len(rows))

    def _filled(self, rows: Sequence[int]) -> list[int]:
        """Returns as many numbers as a batch has: those there, and the first one again."""
        return [*rows, *[rows[0]] * (self.batch_size - len(rows))]


@jax.jit
def _encoded(model: Model, pictures: jax.Array) -> jax.Array:
    return encode_images(model.config.vae, model.params["vae"], pictures)


@jax.jit
def _autoencoded(model: Model, pictures: jax.Array) -> jax.Array:
    latents = _encoded(model, pictures)
    return decode_images(model, latents, dtype=jnp.float32, slice_size=pictures.shape[0])
