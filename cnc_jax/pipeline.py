"""Compose and Conquer in a few lines: prompts and layers in, pictures out.

    pipeline = ComposeAndConquer.load("scenes")
    images = pipeline("a red ball in front of a blue box", [Layer(depth=ball), Layer(depth=box)])

`cnc_jax.compose` has the programs that this is made of, for those who need more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from cnc_jax.compose import compose_latents, decode_images, encode_exemplars, encode_prompts
from cnc_jax.condition import Condition
from cnc_jax.convert import COMPONENTS
from cnc_jax.load import CnCConfig
from cnc_jax.soft_guidance import MaskRule
from sd_jax.load import cast_params, open_checkpoints
from sd_jax.model import Model
from sd_jax.samplers import make_sampler
from sd_jax.schedule import Spacing, make_schedule, sampling_timesteps
from sd_jax.tokenizer import Tokenizer, load_tokenizer
from sd_jax.typing import Array, Float, UInt8

SamplerName = Literal["ddim", "dpmpp_2m", "euler", "euler_ancestral"]

# Of CLIP's training images.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """What is known of one layer of a picture; all of it may be left out.

    Attributes:
      depth: [h w] in [0, 1], near = 1, black where the layer is empty, of the picture's size.
      exemplar: uint8 [h w 3] of any size: a picture whose look the layer takes.
      mask: [h w] in [0, 1], where the layer is seen. The last layer gets what others leave.
      depth_gain: multiplies the depth.
      exemplar_strength: multiplies the exemplar's tokens.
    """

    # Not typed by shape: what does not fit is told for all layers at once.
    depth: np.ndarray | None = None
    exemplar: np.ndarray | None = None
    mask: np.ndarray | None = None
    depth_gain: float = 1.0
    exemplar_strength: float = 1.0


class ComposeAndConquer:
    """A model that composes pictures from layers.

    Args:
      model: with all components that the pictures need.
      tokenizer: of its text encoder.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def load(
        cls, *checkpoints: str | Path, dtype: Any = jnp.float32, num_heads: int | None = None
    ) -> ComposeAndConquer:
        """Returns the pipeline of checkpoints.

        Args:
          *checkpoints: as `cnc_jax.load` takes them; they complete one another.
          dtype: of the parameters and the computation.
          num_heads: attention heads where no config.json tells them; 8 unless given.

        Raises:
          CheckpointError: a checkpoint is not there, damaged, or of another architecture.
        """
        opened = open_checkpoints(checkpoints, COMPONENTS, num_heads=num_heads)
        model = cast_params(opened.load(CnCConfig), dtype)
        return cls(model, load_tokenizer(opened.tokenizer))

    def __call__(
        self,
        prompt: str,
        layers: Sequence[Layer] = (),
        *,
        negative_prompt: str = "",
        size: tuple[int, int] | None = None,
        seeds: Sequence[int] = (0,),
        num_steps: int = 20,
        guidance_scale: float = 7.5,
        image_guidance_scale: float = 0.0,
        sampler: SamplerName = "dpmpp_2m",
        spacing: Spacing = "trailing",
        mask_rule: MaskRule = "upstream",
        report: Callable[[int], object] | None = None,
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns a picture for each seed.

        Args:
          prompt: what to see.
          layers: from front to back; none for a picture from text alone.
          negative_prompt: what guidance leads away from.
          size: (height, width); that of the layers' depth or masks unless given.
          seeds: of the noise; a picture depends on its own seed alone.
          num_steps: denoising steps.
          guidance_scale: of the text; 1 leaves it out.
          image_guidance_scale: of depth and exemplars; 0 does not amplify them, as upstream.
          sampler: see `sd_jax.samplers`.
          spacing: of the timesteps; see `sd_jax.schedule`.
          mask_rule: see `cnc_jax.soft_guidance`.
          report: called with the number of steps done since the last call.

        Raises:
          ValueError: layers contradict each other, the size or the model, or the result is not
            finite.
        """
        height, width = _size_of(layers, size)
        dtype = self._dtype
        table = make_sampler(
            sampler,
            make_schedule(self.model.config.schedule),
            sampling_timesteps(num_steps, self.model.config.schedule.num_train_timesteps, spacing),
        )
        ids = self.tokenizer([prompt, negative_prompt])
        texts = jnp.repeat(encode_prompts(self.model, jnp.asarray(ids), dtype=dtype), len(seeds), 0)
        texts, negatives = texts[: len(seeds)], texts[len(seeds) :]
        guided = guidance_scale != 1 or image_guidance_scale != 0
        scale = self.model.config.vae.downsampling
        latents = compose_latents(
            self.model,
            texts,
            self.condition(layers, (height, width), len(seeds), mask_rule),
            table,
            jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32)),
            latents_size=(height // scale, width // scale),
            negative_embeddings=negatives if guided else None,
            guidance_scale=guidance_scale if guided else None,
            image_guidance_scale=image_guidance_scale or None,
            dtype=dtype,
            report=report,
        )
        images = np.asarray(decode_images(self.model, latents, dtype=dtype), np.float32)
        if not np.isfinite(images).all():
            raise ValueError(f"the pictures of seeds {list(seeds)} are not finite in {dtype}")
        return np.rint((images / 2 + 0.5) * 255).astype(np.uint8)

    def condition(
        self,
        layers: Sequence[Layer],
        size: tuple[int, int],
        batch: int = 1,
        mask_rule: MaskRule = "upstream",
    ) -> Condition:
        """Returns layers as the model takes them, for `cnc_jax.compose`.

        Args:
          layers: from front to back.
          size: (height, width) of the picture.
          batch: number of pictures.
          mask_rule: see `cnc_jax.soft_guidance`.
        """

        def spread(array: Any) -> Any:
            return None if array is None else jnp.repeat(jnp.asarray(array)[None], batch, axis=0)

        depths = _stacked([layer.depth for layer in layers], size)
        # The last mask is what the others leave, and may be left out.
        masks = _stacked([layer.mask for layer in layers[:-1]], size)
        return Condition(
            depth_maps=spread(None if depths is None else np.repeat(depths[..., None], 3, -1)),
            exemplar_embeddings=spread(self._exemplars(layers)),
            masks=spread(masks),
            depth_gains=np.array([layer.depth_gain for layer in layers] or [1.0], np.float32),
            exemplar_strengths=np.array(
                [layer.exemplar_strength for layer in layers] or [1.0], np.float32
            ),
            mask_rule=mask_rule,
        )

    @property
    def _dtype(self) -> Any:
        return jax.tree.leaves(self.model.params["unet"])[0].dtype

    def _exemplars(self, layers: Sequence[Layer]) -> Array | None:
        if all(layer.exemplar is None for layer in layers):
            return None
        self.model.require("image_encoder")
        side = self.model.config.image_encoder.image_size
        black = np.zeros((side, side, 3), np.uint8)
        pixels = [black if layer.exemplar is None else layer.exemplar for layer in layers]
        seen = jnp.stack([clip_pixels(item, side) for item in pixels])
        embeddings = encode_exemplars(self.model, seen[None], dtype=self._dtype)[0]
        # A layer left out has a zero embedding, as in training; that of a black picture is not.
        present = np.array([layer.exemplar is not None for layer in layers], np.float32)
        return embeddings * present[:, None]


def clip_pixels(picture: UInt8[np.ndarray, "h w 3"], side: int) -> Float[Array, "s s 3"]:
    """Returns the middle square of a picture as CLIP's image tower wants it.

    Args:
      picture: of any size.
      side: of the tower's input.
    """
    height, width = picture.shape[:2]
    height, width = (side * item // min(height, width) for item in (height, width))
    scaled = jax.image.resize(jnp.asarray(picture, jnp.float32), (height, width, 3), "cubic")
    top, left = (height - side) // 2, (width - side) // 2
    square = jnp.clip(scaled[top : top + side, left : left + side], 0, 255)
    mean, deviation = (jnp.asarray(item)[None, None] for item in (_CLIP_MEAN, _CLIP_STD))
    return (square / 255 - mean) / deviation


def _size_of(layers: Sequence[Layer], size: tuple[int, int] | None) -> tuple[int, int]:
    """Returns the picture's size.

    Raises:
      ValueError: nothing tells it, or maps have another.
    """
    problems = []
    found = set() if size is None else {size}
    for index, layer in enumerate(layers):
        for name in ("depth", "mask"):
            array = getattr(layer, name)
            if array is not None and np.ndim(array) != 2:
                problems.append(f"layers[{index}].{name}: shape {np.shape(array)}, expected [h w]")
            elif array is not None:
                found.add(np.shape(array))
        if layer.exemplar is not None and np.asarray(layer.exemplar).dtype != np.uint8:
            problems.append(
                f"layers[{index}].exemplar: {np.asarray(layer.exemplar).dtype}, expected uint8 "
                "[h w 3]"
            )
    if not found:
        problems.append("size: no depth or mask tells it; give (height, width)")
    elif len(found) > 1:
        problems.append(f"size: {', '.join(map(str, sorted(found)))} are given; use one")
    if problems:
        raise ValueError("\n".join(problems))
    return found.pop()


def _stacked(
    maps: Sequence[np.ndarray | None], size: tuple[int, int]
) -> Float[np.ndarray, "layer h w"] | None:
    if all(item is None for item in maps):
        return None
    black = np.zeros(size, np.float32)
    return np.stack([black if item is None else np.asarray(item, np.float32) for item in maps])
