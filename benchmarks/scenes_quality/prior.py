"""How well a Stable Diffusion trained on the scenes draws them, as one line of JSON.

    python benchmarks/scenes_quality.py --checkpoint=scenes --sheet=quality.png

On scenes of a world that no training sees: what the autoencoder keeps (PSNR of pictures), and
whether images from captions show the place and the colour of the foreground object that the caption
names. `other` is the same of the captions of other scenes: what chance reaches. The judge is
`input_pipeline.scenes.judge`; `ceiling` is what it makes of the true scenes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from tqdm import tqdm

from cnc_jax.compose import compose_latents
from cnc_jax.condition import Condition
from input_pipeline.contact_sheet import Picture, contact_sheet
from input_pipeline.images import to_uint8, write_png
from input_pipeline.scenes import Scenes, label_colours
from input_pipeline.scenes.judge import Judge
from sd_jax.convert.component import COMPONENTS
from sd_jax.encoding import decode_images, encode_prompts
from sd_jax.load import open_checkpoints
from sd_jax.model import Model, StableDiffusionConfig
from sd_jax.samplers import make_sampler
from sd_jax.schedule import make_schedule, sampling_timesteps
from sd_jax.tokenizer import load_tokenizer
from sd_jax.vae import encode_images

_CHECKPOINT = flags.DEFINE_list("checkpoint", ["scenes"], "Checkpoints that complete one another.")
_COUNT = flags.DEFINE_integer("count", 512, "Scenes.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 1, "World of the scenes; training sees 0.")
_BATCH = flags.DEFINE_integer("batch_size", 32, "Images at once.", lower_bound=1)
_STEPS = flags.DEFINE_integer("num_steps", 20, "Denoising steps.", lower_bound=1)
_GUIDANCE = flags.DEFINE_list("guidance_scale", ["3"], "Guidance scales to try.")
_SHEET = flags.DEFINE_string("sheet", None, "Picture to write: captions, images and true scenes.")
_MAPS = ("segmentation", "depth", "normal", "sketch")
_SIZE = 64
_SHOWN = 20


def main(arguments: list[str]) -> None:
    """Prints the figures."""
    del arguments
    absl.logging.set_verbosity(absl.logging.WARNING)
    start = time.time()
    opened = open_checkpoints(_CHECKPOINT.value, COMPONENTS)
    model = opened.load(StableDiffusionConfig)
    world = Scenes(_SEED.value, (_SIZE, _SIZE))
    records = [world.arrays(index) for index in range(_COUNT.value)]
    figures: dict[str, Any] = {"count": _COUNT.value, "psnr": psnr_of(model, records)}
    # Every kind of caption, the next of a scene's five for each scene.
    captions = [item["captions"][index % 5] for index, item in enumerate(records)]
    tokenizer = load_tokenizer(opened.tokenizer)
    judge = Judge.of_scenes()
    truth = [world.scene(index) for index in range(_COUNT.value)]
    wanted = [(scene.place, scene.objects[0].colour) for scene in truth]
    figures["ceiling"] = recall_of(judge, [item["image"] for item in records], wanted)
    if "unet" in model.params:
        for scale in _GUIDANCE.value:
            images = draw(model, tokenizer, captions, float(scale))
            figures[f"guidance {scale}"] = recall_of(judge, images, wanted)
            figures[f"guidance {scale}, other"] = recall_of(judge, images, wanted[1:] + wanted[:1])
        if _SHEET.value:
            rows = [
                [Picture(captions[i], images[i]), Picture("true scene", records[i]["image"])]
                for i in range(min(_SHOWN, _COUNT.value))
            ]
            rows = [rows[i] + rows[i + 1] + rows[i + 2] for i in range(0, len(rows) - 2, 3)]
            write_png(_SHEET.value, contact_sheet(rows, title=f"guidance {scale}"))
    figures["seconds"] = round(time.time() - start)
    print(json.dumps(figures))


def psnr_of(model: Model, records: Sequence[Any]) -> dict[str, float]:
    """Returns the mean peak signal-to-noise ratio of pictures that went through the autoencoder.

    Args:
      model: with an autoencoder.
      records: of scenes.
    """
    config = model.config.vae

    @jax.jit
    def again(pictures: jax.Array) -> jax.Array:
        latents = encode_images(config, model.params["vae"], pictures)
        return decode_images(model, latents, dtype=jnp.float32, slice_size=pictures.shape[0])

    found = {}
    for name in ("image", *_MAPS):
        pictures = np.stack([_picture(name, item[name]) for item in records])
        errors = [
            np.mean((np.clip(np.asarray(again(part)), -1, 1) - part) ** 2, axis=(1, 2, 3))
            for part in _batches(pictures)
        ]
        found[name] = round(float(np.mean(10 * np.log10(4 / np.concatenate(errors)))), 2)
    return found


def draw(model: Model, tokenizer: Any, captions: Sequence[str], scale: float) -> np.ndarray:
    """Returns an image for each caption, uint8 [n h w 3].

    Args:
      model: a Stable Diffusion.
      tokenizer: of its text encoder.
      captions: what to see.
      scale: of guidance.
    """
    schedule = make_schedule(model.config.schedule)
    timesteps = sampling_timesteps(
        _STEPS.value, model.config.schedule.num_train_timesteps, "trailing"
    )
    table = make_sampler("dpmpp_2m", schedule, timesteps)
    side = _SIZE // model.config.vae.downsampling
    empty = encode_prompts(model, jnp.asarray(tokenizer([""])))
    parts = []
    for first in tqdm(range(0, len(captions), _BATCH.value), desc=f"guidance {scale}"):
        texts = list(captions[first : first + _BATCH.value])
        filled = (texts + [""] * _BATCH.value)[: _BATCH.value]
        latents = compose_latents(
            model,
            encode_prompts(model, jnp.asarray(tokenizer(filled, warn=False))),
            Condition(),
            table,
            jax.vmap(jax.random.key)(jnp.arange(first, first + _BATCH.value, dtype=jnp.uint32)),
            latents_size=(side, side),
            negative_embeddings=jnp.repeat(empty, _BATCH.value, axis=0),
            guidance_scale=scale,
        )
        images = np.asarray(
            decode_images(model, latents, dtype=jnp.float32, slice_size=_BATCH.value)
        )
        parts.append(to_uint8(images)[: len(texts)])
    return np.concatenate(parts)


def recall_of(
    judge: Judge, images: Sequence[np.ndarray] | np.ndarray, wanted: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """Returns which part of images show the place, the foreground's colour, and both.

    Args:
      judge: of scenes.
      images: uint8 [n h w 3].
      wanted: place and colour of each.
    """
    pairs = list(zip(images, wanted, strict=True))
    places = np.array([judge.place(image) == place for image, (place, _) in pairs])
    colours = np.array([judge.colour(image) == colour for image, (_, colour) in pairs])
    shares = {"place": places, "colour": colours, "both": places & colours}
    return {name: round(float(np.mean(hits)), 3) for name, hits in shares.items()}


def _picture(name: str, values: np.ndarray) -> np.ndarray:
    """Returns a field of a record as a picture in [-1, 1], as training shows it."""
    if name == "segmentation":
        values = label_colours()[values]
    most = np.iinfo(values.dtype).max
    scaled = values.astype(np.float32) / (most / 2) - 1
    return scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, axis=-1)


def _batches(pictures: np.ndarray) -> Sequence[np.ndarray]:
    return np.split(pictures, range(_BATCH.value, len(pictures), _BATCH.value))


if __name__ == "__main__":
    app.run(main)
