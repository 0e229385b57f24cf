"""A graph is drawn for many seeds, a batch at a time, each batch by the same programs.

`fgdm_jax.draw` draws one batch on the devices; here arrays come from the host and go back to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fgdm_jax.draw import Drawing, draw
from sd_jax.encoding import decode_images, latents_scale, posterior_of
from sd_jax.model import Model
from sd_jax.typing import Array, Float, KeyArray


class GraphPainter:
    """A model with its texts, given variables and samplers.

    Args:
      model: with all that the graph needs.
      drawing: how it is drawn.
      texts: embeddings of the prompt, and of what guidance leads away from.
      given: pictures of variables that are not drawn, in [-1, 1], of the sizes at which the graph
        would draw them.
      hints: those that a ControlNet sees as pictures, of the image's size; without one it sees
        what the autoencoder makes of them.
      decode_slice: pictures that are decoded at once.
    """

    def __init__(
        self,
        model: Model,
        drawing: Drawing,
        texts: Float[Array, "2 k c"],
        given: Mapping[str, Float[np.ndarray, "_ _ 3"]],
        hints: Mapping[str, Float[np.ndarray, "_ _ 3"]],
        decode_slice: int = 1,
    ) -> None:
        self.model, self.drawing = model, drawing
        self._texts, self._decode_slice = texts, decode_slice
        self._given = {name: self._encode(picture) for name, picture in given.items()}
        self._hints = {name: picture[None] for name, picture in hints.items()}

    def draw(
        self,
        seeds: Sequence[int],
        wanted: Sequence[str],
        drawn: Mapping[str, np.ndarray],
        batch_size: int,
        *,
        keep: Sequence[int] = (),
        report: Callable[[str, int], object] | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Returns clean latents of variables, [seed h w c], and kept predictions, [step seed ...].

        Args:
          seeds: at most `batch_size`.
          wanted: variables to draw.
          drawn: latents that were drawn before, [seed h w c] by variable.
          batch_size: to which everything is filled up, so that nothing recompiles.
          keep: steps whose predictions are kept.
          report: see `fgdm_jax.draw.draw`.
        """
        count = len(seeds)
        given = {name: filled(latents, batch_size) for name, latents in drawn.items()}
        given |= {name: filled(latents, batch_size) for name, latents in self._given.items()}
        state = draw(
            self.model,
            self.drawing,
            self.text(0, batch_size),
            keys_of(seeds, batch_size),
            negative_embeddings=self.text(1, batch_size),
            wanted=wanted,
            given=given,
            pictures={name: filled(hint, batch_size) for name, hint in self._hints.items()},
            keep=keep,
            report=report,
        )
        latents = {name: np.asarray(state.factors[name].latents)[:count] for name in wanted}
        kept = {name: np.asarray(state.kept[name])[:, :count] for name in state.kept}
        return latents, kept

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Returns the pictures of clean latents, [n h w 3] in [-1, 1].

        Args:
          latents: [n h w c].

        Raises:
          FloatingPointError: they are not finite.
        """
        dtype = self.drawing.dtype
        decoded = decode_images(
            self.model, jnp.asarray(latents), dtype=dtype, slice_size=self._decode_slice
        )
        pictures = np.asarray(decoded, np.float32)
        if not np.isfinite(pictures).all():
            raise FloatingPointError(f"what was drawn is not finite in {jnp.dtype(dtype)}")
        return pictures

    def text(self, index: int, batch_size: int) -> Float[Array, "b k c"]:
        """Returns one of the texts, once for each row of a batch.

        Args:
          index: 0 for the prompt, 1 for what guidance leads away from.
          batch_size: number of rows.
        """
        return jnp.repeat(self._texts[index : index + 1], batch_size, axis=0)

    def _encode(self, picture: np.ndarray) -> Array:
        batch = {"given": jnp.asarray(picture)[None]}
        posterior = posterior_of(self.model, batch, "given", self.drawing.dtype)
        return posterior.mean.astype(jnp.float32) * latents_scale(self.model)


def keys_of(seeds: Sequence[int], batch_size: int) -> KeyArray:
    """Returns the keys of a batch: one for each seed, and some that do not matter.

    Args:
      seeds: 0 to 2^32 - 1, at most `batch_size`.
      batch_size: number of keys.
    """
    numbers = (*seeds, *[0] * batch_size)[:batch_size]
    return jax.vmap(jax.random.key)(jnp.asarray(numbers, jnp.uint32))


def filled(rows: Any, batch_size: int) -> Array:
    """Returns `batch_size` rows: those there, and the first one again; of one, copies.

    Args:
      rows: at least one, at most `batch_size`.
      batch_size: number of rows.
    """
    rows = jnp.asarray(rows)
    missing = batch_size - rows.shape[0]
    return jnp.concatenate([rows, jnp.repeat(rows[:1], missing, axis=0)]) if missing else rows
