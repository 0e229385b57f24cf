"""Where training a Stable Diffusion starts: checkpoints, and new weights for what they lack."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs.common import split_list
from input_pipeline.stream import Helpers
from launch.train_data import BatchNeeds, open_data
from launch.train_request import TrainError, TrainRequest
from sd_jax.clip import CLIPTextConfig, CLIPVisionConfig
from sd_jax.convert.component import COMPONENTS, Component
from sd_jax.convert.fresh import fresh_params
from sd_jax.convert.store import save_model
from sd_jax.load import Opened, open_checkpoints
from sd_jax.model import StableDiffusionConfig
from sd_jax.schedule import ScheduleConfig
from sd_jax.tokenizer import load_tokenizer
from sd_jax.typing import Params, nested_params
from sd_jax.unet import UNetConfig
from sd_jax.vae import VAEConfig, encode_images

TRAINED: Mapping[str, tuple[str, ...]] = {
    "autoencoder": ("vae",),
    "decoder": ("vae",),
    "towers": ("text_encoder", "image_encoder"),
    "image_tower": ("image_encoder",),
    "unet": ("unet",),
    "text_and_unet": ("text_encoder", "unet"),
}
"""Components that a stage trains."""

CONTRASTIVE = ("towers", "image_tower")
"""Stages that compare images with captions."""

PATTERNS: Mapping[str, tuple[str, ...]] = {
    **{stage: tuple(f"{name}/.*" for name in names) for stage, names in TRAINED.items()},
    # What encodes stays: latents that a UNet was trained on keep their meaning.
    "decoder": ("vae/post_quant_conv/.*", "vae/decoder/.*"),
}
"""Patterns of the parameters that a stage trains."""

_NEEDED: Mapping[str, tuple[str, ...]] = {
    "decoder": ("vae",),
    "image_tower": ("text_encoder",),
    "unet": ("vae", "text_encoder"),
    "text_and_unet": ("vae", "text_encoder"),
}
_EXAMPLES, _SLICE = 64, 4


@dataclasses.dataclass(frozen=True)
class PriorStart:
    """A starting point, checked, of which no weight has been read.

    Attributes:
      request: of the run.
      opened: the checkpoints, completing one another, and new weights for what they lack.
      new: names of the components that are new.
    """

    request: TrainRequest
    opened: Opened
    new: tuple[str, ...]

    def write(self, folder: Path) -> str:
        """Writes the starting point as a converted directory; returns in words what was done.

        Args:
          folder: to make, or to replace.
        """
        seed, stage = self.request.config.seed, self.request.config.stage
        params, configs = {}, dict(self.opened.configs)
        params.update(self.opened.load(StableDiffusionConfig).params)
        # What is trained is float32 from the start, so that a run's files have one type.
        for name in TRAINED[stage]:
            params[name] = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params[name])
        parts = []
        if "unet" in self.new:
            configs["vae"] = self._scaled(configs["vae"], params["vae"])
            parts.append(f"latents are scaled by {configs['vae'].scaling_factor:.4f}")
        save_model(
            params,
            configs,
            folder,
            self.opened.schedule,
            tokenizer=self.opened.tokenizer,
            overwrite=True,
        )
        if self.new:
            parts.insert(0, f"{', '.join(self.new)} new (seed {seed})")
        if self.request.init:
            names = ", ".join(Path(item).name or item for item in self.request.init)
            parts.insert(0, f"starts from {names}")
        return "; ".join(parts)

    def _scaled(self, config: VAEConfig, params: Any) -> VAEConfig:
        """Returns sizes with the scaling factor that gives latents the variance 1."""
        is_cached = self.request.config.latents == "cached"
        keys = ("latent_mean", "latent_logvar") if is_cached else ("image",)
        examples = open_data(self.request, BatchNeeds(keys, (), Helpers())).examples(_EXAMPLES)
        if is_cached:
            latents = examples["latent_mean"]
        else:
            plain = dataclasses.replace(config, scaling_factor=1.0)
            encode = jax.jit(encode_images, static_argnums=0)
            # A few at a time: the memory of an encoder's first level is many times an image's.
            slices = np.split(examples["image"], range(_SLICE, _EXAMPLES, _SLICE))
            latents = np.concatenate([encode(plain, params, jnp.asarray(item)) for item in slices])
        return dataclasses.replace(config, scaling_factor=float(1.0 / np.std(latents)))


def plan_start(request: TrainRequest) -> PriorStart:
    """Returns the starting point of a run; reads sizes, no weights.

    Args:
      request: of the run.

    Raises:
      TrainError: the checkpoints or sizes cannot be used, or lack what the stage needs.
    """
    config, stage = request.config, request.config.stage
    found = None
    if request.init:
        heads = config.num_heads or None
        found = open_checkpoints(request.init, COMPONENTS, num_heads=heads, use_ema=config.use_ema)
    configs = dict(found.configs) if found is not None else {}
    missing = [name for name in _NEEDED.get(stage, ()) if name not in configs]
    if missing:
        raise TrainError(
            [
                f"init: {', '.join(request.init) or 'nothing'} lacks {', '.join(missing)}, which "
                f"stage {stage} needs; name the workdirs of the stages that train them "
                "(autoencoder, towers)"
            ]
        )
    schedule = ScheduleConfig(prediction_type=config.prediction_type)
    if found is not None and "unet" in configs:
        schedule = found.schedule
    problems = []
    tokenizer = found.tokenizer if found is not None else None
    if config.tokenizer and "text_encoder" in configs:
        problems.append(
            "tokenizer is for a new text encoder, but init holds one, which knows its own; leave "
            "it empty"
        )
    elif config.tokenizer:
        tokenizer = Path(config.tokenizer)
    new = {
        name: _new_sizes(config, name, configs, tokenizer)
        for name in TRAINED[stage]
        if name not in configs
    }
    configs.update(new)
    if stage in CONTRASTIVE:
        width = configs["text_encoder"].hidden_size
        compared = configs["image_encoder"].projection_dim
        if width != compared:
            problems.append(
                f"the text encoder is {width} wide and the image encoder makes embeddings of "
                f"{compared}, which are compared; set text_width to that, or name both or none "
                "in init"
            )
    multiple = configs["vae"].downsampling if "vae" in configs else 1
    if "unet" in TRAINED[stage]:
        multiple *= configs["unet"].size_multiple
    problems += [
        f"sizes: {height}x{width} is no multiple of {multiple} on both sides, to which the levels "
        "of autoencoder and UNet shrink pictures; take larger sizes or fewer levels"
        for height, width in request.sizes
        if stage not in CONTRASTIVE and (height % multiple or width % multiple)
    ]
    if problems:
        raise TrainError(problems)
    known = [item for item in COMPONENTS if item.name in configs]
    readers: dict[str, Callable[[], Params]] = {
        item.name: functools.partial(_new_params, item, configs[item.name], config.seed)
        for item in known
    }
    readers.update({} if found is None else found.readers)
    sizes = {item.name: configs[item.name] for item in known}
    return PriorStart(request, Opened(sizes, schedule, tokenizer, readers), tuple(new))


def _new_params(component: Component, config: Any, seed: int) -> Params:
    return nested_params(fresh_params(component, config, seed))


def _new_sizes(config: Any, name: str, configs: Mapping[str, Any], tokenizer: Path | None) -> Any:
    """Returns the sizes of a new component.

    Args:
      config: of the run.
      name: of the component.
      configs: sizes of the others.
      tokenizer: folder of the tokenizer.
    """
    if name == "vae":
        return VAEConfig(
            latent_channels=config.latent_channels,
            block_out_channels=integers(config, "autoencoder_channels"),
            layers_per_block=config.autoencoder_layers,
            norm_num_groups=config.norm_groups,
            scaling_factor=1.0,
        )
    if name == "text_encoder":
        known = load_tokenizer(tokenizer)
        return CLIPTextConfig(
            vocab_size=known.vocab_size,
            max_position_embeddings=known.model_max_length,
            hidden_size=config.text_width,
            intermediate_size=4 * config.text_width,
            num_layers=config.text_layers,
            num_heads=config.tower_heads,
        )
    if name == "image_encoder":
        text = configs.get("text_encoder")
        return CLIPVisionConfig(
            image_size=config.image_size,
            patch_size=config.image_patch,
            hidden_size=config.image_width,
            intermediate_size=4 * config.image_width,
            num_layers=config.image_layers,
            num_heads=config.tower_heads,
            # The embedding that the two towers share has the text's width.
            projection_dim=config.text_width if text is None else text.hidden_size,
        )
    channels = configs["vae"].latent_channels
    return UNetConfig(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=integers(config, "unet_channels"),
        layers_per_block=config.unet_layers,
        attention_levels=tuple(bool(item) for item in integers(config, "unet_attention")),
        num_heads=config.unet_heads,
        cross_attention_dim=configs["text_encoder"].hidden_size,
        norm_num_groups=config.norm_groups,
    )


def integers(config: Any, name: str) -> tuple[int, ...]:
    """Returns the whole numbers of a setting that lists them.

    Args:
      config: of the run.
      name: of the setting.

    Raises:
      ValueError: they are none.
    """
    try:
        return tuple(int(item) for item in split_list(config[name]))
    except ValueError as error:
        raise ValueError(
            f"{name} must be whole numbers joined by commas, got {config[name]!r}"
        ) from error
