"""Steps of preparation that run Stable Diffusion's networks in JAX, on all local devices."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.codecs import decode_field, encode_picture
from input_pipeline.images import clip_pixels
from input_pipeline.prepare.dilation import dilate
from input_pipeline.prepare.identity import identity
from input_pipeline.schema import Record
from launch.device_batches import DeviceBatches
from sd_jax.clip import CLIPVisionModel, encode_text
from sd_jax.convert.component import COMPONENTS
from sd_jax.inpaint import inpaint
from sd_jax.load import cast_params, open_checkpoints
from sd_jax.model import Model, StableDiffusionConfig
from sd_jax.samplers import make_sampler
from sd_jax.schedule import make_schedule, sampling_timesteps
from sd_jax.tokenizer import Tokenizer, load_tokenizer
from sd_jax.typing import apply_module
from sd_jax.vae import AutoencoderKL


@dataclasses.dataclass(frozen=True)
class _NetworkStep:
    """What all of them have.

    Attributes:
      checkpoint: that holds the networks, in any layout.
      batch_size: records at once.
      dtype: of parameters and computation.
      hardware: that it runs on, as other devices round otherwise.
    """

    checkpoint: str
    batch_size: int = 8
    dtype: str = "float32"
    hardware: str = ""
    components: ClassVar[tuple[str, ...]] = ()
    drops: bool = dataclasses.field(default=False, init=False)
    on_device: bool = dataclasses.field(default=True, init=False)

    @functools.cached_property
    def batches(self) -> DeviceBatches:
        """Batches over the local devices."""
        return DeviceBatches(self.batch_size)

    def check(self, fields: Sequence[str]) -> list[str]:
        """Returns why the checkpoint does not do, told from its headers."""
        problems = [
            f"it needs the field {name!r}, which step 'image' makes"
            for name in ("height", "width")
            if name not in fields
        ]
        try:
            configs = open_checkpoints([self.checkpoint], COMPONENTS).configs
        except ValueError as error:
            return [*problems, str(error)]
        missing = [name for name in self.components if name not in configs]
        if missing:
            problems.append(
                f"{self.checkpoint} has no {', '.join(missing)}; name another checkpoint"
            )
        return problems

    @functools.cached_property
    def model(self) -> Model:
        """The networks that it needs, on every device."""
        opened = open_checkpoints([self.checkpoint], COMPONENTS)
        model = cast_params(opened.load(StableDiffusionConfig, self.components), self.dtype)
        return self.batches.replicate(model)

    def start(self) -> None:
        """Loads the networks."""
        _ = self.model

    def tokenizer(self) -> Tokenizer:
        """Returns the checkpoint's tokenizer, or CLIP's."""
        return load_tokenizer(open_checkpoints([self.checkpoint], COMPONENTS).tokenizer)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What results depend on: all fields, as rows of other batch sizes round otherwise."""
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("checkpoint", "name", "needs", "adds", "drops", "on_device")
        }
        return {**fields, "checkpoint": identity(Path(self.checkpoint))}


@dataclasses.dataclass(frozen=True)
class Background(_NetworkStep):
    """Paints what is behind the foreground; the defaults are upstream's.

    Attributes:
      dilation: side of the square that the mask grows by, in pixels.
      prompt: what to paint.
      negative_prompt: what not to.
      guidance_scale: of the prompt.
      num_steps: of DDIM.
      seed: of the noise, together with the record's id.
      keep: paste the image back where nothing was to paint (upstream does not).
    """

    dilation: int = 50
    prompt: str = "empty scenery, ultra detailed, no people"
    negative_prompt: str = "low resolution, worst quality, low quality"
    guidance_scale: float = 10.0
    num_steps: int = 25
    seed: int = 0
    keep: bool = False
    components: ClassVar[tuple[str, ...]] = ("unet", "vae", "text_encoder")
    name: str = dataclasses.field(default="background", init=False)
    needs: tuple[str, ...] = dataclasses.field(default=("image", "mask"), init=False)
    adds: tuple[str, ...] = dataclasses.field(default=("background",), init=False)

    def check(self, fields: Sequence[str]) -> list[str]:
        """Returns why the checkpoint does not do: it must be an inpainting one."""
        problems = super().check(fields)
        if not problems:
            configs = open_checkpoints([self.checkpoint], COMPONENTS).configs
            channels, expected = configs["unet"].in_channels, 2 * configs["vae"].latent_channels + 1
            if channels != expected:
                problems.append(
                    f"{self.checkpoint}: the UNet takes {channels} channels, an inpainting one "
                    f"takes {expected}; use an inpainting checkpoint"
                )
        return problems

    @functools.cached_property
    def _paint(self) -> Any:
        model = self.model
        dtype = jnp.dtype(self.dtype)
        ids = self.tokenizer()([self.prompt, self.negative_prompt])
        config = model.config
        text = encode_text(
            config.text_encoder, model.params["text_encoder"], jnp.asarray(ids), dtype=dtype
        )
        timesteps = sampling_timesteps(self.num_steps, config.schedule.num_train_timesteps)
        table = make_sampler("ddim", make_schedule(config.schedule), timesteps)

        def paint(images: jax.Array, masks: jax.Array, numbers: jax.Array) -> jax.Array:
            keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(self.seed), n))(numbers)
            contexts = (jnp.repeat(row[None], len(images), axis=0) for row in text)
            return inpaint(
                model,
                images.astype(jnp.float32) / 127.5 - 1.0,
                masks.astype(jnp.float32),
                *contexts,
                table,
                keys,
                guidance_scale=self.guidance_scale,
                dtype=dtype,
            )

        return paint

    def decode(self, record: Record) -> tuple[np.ndarray, np.ndarray, np.uint32]:
        """Returns image, grown mask and the number of the record's noise."""
        name = f"{record['source']} record {record['id']}"
        image = decode_field(name, "image", record["image"])
        mask = decode_field(name, "mask", record["mask"]) > 127
        return image, dilate(mask, self.dilation), np.uint32(zlib.crc32(record["id"].encode()))

    def compute(self, values: Sequence[tuple[np.ndarray, np.ndarray, np.uint32]]) -> list[Any]:
        """Returns the painted pictures, with what they were made of."""
        painted = self.batches.run(self._paint, *map(list, zip(*values, strict=True)))
        return [(image, *value[:2]) for image, value in zip(painted, values, strict=True)]

    def encode(self, result: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Record:
        """Returns the background."""
        painted, image, mask = result
        if not np.isfinite(painted).all():
            raise ValueError(f"the background is not finite in {self.dtype}; use float32")
        pixels = np.rint(np.clip(painted * 127.5 + 127.5, 0, 255)).astype(np.uint8)
        if self.keep:
            pixels = np.where(mask[..., None], pixels, image)
        return {"background": encode_picture(pixels, "photo")}


@dataclasses.dataclass(frozen=True)
class ImageEmbeddings(_NetworkStep):
    """CLIP image embeddings: of the whole image (the foreground's exemplar) and its background.

    Attributes:
      background: also of the background.
    """

    background: bool = True
    components: ClassVar[tuple[str, ...]] = ("image_encoder",)
    name: str = dataclasses.field(default="embeddings", init=False)

    @property
    def needs(self) -> tuple[str, ...]:
        """The pictures."""
        return ("image", "background") if self.background else ("image",)

    @property
    def adds(self) -> tuple[str, ...]:
        """Their embeddings."""
        return tuple(f"{name}_embedding" for name in self.needs)

    @functools.cached_property
    def _embed(self) -> Any:
        model = self.model
        tower = CLIPVisionModel(model.config.image_encoder, jnp.dtype(self.dtype))
        embed = jax.jit(lambda params, pixels: apply_module(tower, {"params": params}, pixels))
        return functools.partial(embed, model.params["image_encoder"])

    def decode(self, record: Record) -> list[np.ndarray]:
        """Returns the pictures as CLIP sees them."""
        name = f"{record['source']} record {record['id']}"
        size = self.model.config.image_encoder.image_size
        return [clip_pixels(decode_field(name, key, record[key]), size) for key in self.needs]

    def compute(self, values: Sequence[list[np.ndarray]]) -> list[list[np.ndarray]]:
        """Returns the embeddings of each record's pictures."""
        columns = [self.batches.run(self._embed, column) for column in zip(*values, strict=True)]
        return [list(row) for row in zip(*columns, strict=True)]

    def encode(self, result: list[np.ndarray]) -> Record:
        """Returns the fields."""
        return {
            name: _finite(row, "float32", self.dtype)
            for name, row in zip(self.adds, result, strict=True)
        }


@dataclasses.dataclass(frozen=True)
class Latents(_NetworkStep):
    """Moments of the autoencoder's posterior, from which training samples anew each time."""

    components: ClassVar[tuple[str, ...]] = ("vae",)
    name: str = dataclasses.field(default="latents", init=False)
    needs: tuple[str, ...] = dataclasses.field(default=("image",), init=False)
    adds: tuple[str, ...] = dataclasses.field(default=("latent_mean", "latent_logvar"), init=False)

    @functools.cached_property
    def _moments(self) -> Any:
        model = self.model
        module = AutoencoderKL(model.config.vae, jnp.dtype(self.dtype))

        @jax.jit
        def moments(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            pixels = images.astype(jnp.float32) / 127.5 - 1.0
            posterior = apply_module(module, {"params": params}, pixels, method="encode")
            return posterior.mean, posterior.log_variance

        return functools.partial(moments, model.params["vae"])

    def decode(self, record: Record) -> np.ndarray:
        """Returns the image."""
        return decode_field(f"{record['source']} record {record['id']}", "image", record["image"])

    def compute(self, values: Sequence[np.ndarray]) -> list[Any]:
        """Returns the moments."""
        return self.batches.run(self._moments, list(values))

    def encode(self, result: tuple[np.ndarray, np.ndarray]) -> Record:
        """Returns the fields, unscaled, in half precision."""
        mean, logvar = result
        return {
            "latent_mean": _finite(mean, "float16", self.dtype),
            "latent_logvar": _finite(logvar, "float16", self.dtype),
        }


@dataclasses.dataclass(frozen=True)
class TextEmbeddings(_NetworkStep):
    """States of the text encoder for every caption; the stream needs no tokenizer then.

    Attributes:
      num_captions: captions that are encoded; a record with fewer repeats its own in turn, one
        with none gets the empty caption's.
    """

    num_captions: int = 5
    components: ClassVar[tuple[str, ...]] = ("text_encoder",)
    name: str = dataclasses.field(default="text", init=False)
    needs: tuple[str, ...] = dataclasses.field(default=("captions",), init=False)
    adds: tuple[str, ...] = dataclasses.field(default=("text_embeddings",), init=False)

    def start(self) -> None:
        """Loads the network and the tokenizer."""
        super().start()
        _ = self._tokens

    @functools.cached_property
    def _tokens(self) -> Tokenizer:
        return self.tokenizer()

    @functools.cached_property
    def _encode(self) -> Any:
        model = self.model
        encode = functools.partial(
            jax.jit(encode_text, static_argnums=0, static_argnames="dtype"),
            model.config.text_encoder,
            model.params["text_encoder"],
            dtype=jnp.dtype(self.dtype),
        )
        # The captions of a record are rows of one batch.
        return lambda ids: encode(ids.reshape(-1, ids.shape[-1])).reshape(*ids.shape, -1)

    def decode(self, record: Record) -> np.ndarray:
        """Returns the tokens of the captions."""
        captions = record["captions"] or [""]
        chosen = [captions[index % len(captions)] for index in range(self.num_captions)]
        return self._tokens(chosen)

    def compute(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the states."""
        return self.batches.run(self._encode, list(values))

    def encode(self, result: np.ndarray) -> Record:
        """Returns the field."""
        return {"text_embeddings": _finite(result, "float16", self.dtype)}


def _finite(values: np.ndarray, stored: str, computed: str) -> np.ndarray:
    """Returns values in the type that they are stored in.

    Raises:
      ValueError: some are infinite or no numbers then.
    """
    with np.errstate(over="ignore"):
        cast = values.astype(stored)
    if not np.isfinite(cast).all():
        raise ValueError(
            f"the network's output, computed in {computed} and stored in {stored}, is not finite; "
            "use --config.dtype=float32, or another checkpoint"
        )
    return cast
