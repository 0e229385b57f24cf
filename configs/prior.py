r"""Training of a Stable Diffusion from nothing: `launch.train`.

    python -m launch.train --config=configs/prior.py:stage=autoencoder --workdir=runs/autoencoder
    python -m launch.train --config=configs/prior.py:stage=towers --workdir=runs/towers \
        --config.tokenizer=runs/tokenizer
    python -m launch.train --config=configs/prior.py:stage=unet --workdir=runs/unet \
        --config.init=runs/autoencoder,runs/towers

    stage          trains                               starts from (init)
    autoencoder    images and maps to latents and back  nothing
    towers         CLIP's text and image encoders       nothing
    unet           the noise prediction, from text      the workdirs of the two
    text_and_unet  the same, and the text encoder       the workdirs of the two
    decoder        the way back from latents alone      what holds an autoencoder
    image_tower    the image encoder alone              what holds a text encoder

What `init` holds is trained further, what it lacks is new, of the sizes below. The defaults are
for the scenes, 64 x 64 pictures, and are long: launch/train_scenes.sh has the steps of the weights
that ship, about 8 hours on 2 CPU cores, which give 29.5 dB, and captions with their place in 100 %
and their colour in 96 % of the images. docs/prior.md tells more.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import training
from configs.common import parse_arg, unknown_name

BASE = "configs.training"
"""Where the settings stand that all training runs share, for --help."""

MAPS = "segmentation,depth,normal,sketch,foreground_depth,background_depth"

_CONTRASTIVE = {
    "global_batch_size": 128,
    "learning_rate": 1e-3,
    "num_steps": 4000,
    "schedule": "cosine",
    "sample_every": 0,
    "drop_caption": 0.0,
}

_NOISE = {
    "global_batch_size": 32,
    "optimizer": "muon",
    "learning_rate": 1.5e-3,
    "num_steps": 40000,
    "schedule": "cosine",
    "ema_decay": 0.999,
    "guidance_scale": 3.0,
    "image_share": 0.6,
}

STAGES = {
    "autoencoder": {
        "global_batch_size": 16,
        "optimizer": "muon",
        "learning_rate": 1.5e-3,
        "num_steps": 8000,
        "schedule": "cosine",
        # An autoencoder sees no text, so its pictures are what it makes of examples.
        "guidance_scale": 1.0,
        "drop_caption": 0.0,
    },
    "towers": _CONTRASTIVE,
    "unet": _NOISE,
    "decoder": {
        "global_batch_size": 16,
        "optimizer": "muon",
        "learning_rate": 1e-3,
        "num_steps": 3000,
        "schedule": "cosine",
        "guidance_scale": 1.0,
        "drop_caption": 0.0,
    },
    "text_and_unet": _NOISE,
    "image_tower": _CONTRASTIVE,
}
"""Settings by stage."""


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `arg` is `stage=`."""
    args = parse_arg(arg, stage="unet")
    if args["stage"] not in STAGES:
        raise ValueError(unknown_name("stage", args["stage"], STAGES))
    config = training.get_config()

    # What is trained.
    config.system = "prior"  # a Stable Diffusion
    config.stage = args["stage"]  # set by :stage=
    config.maps = MAPS  # pictures that autoencoder and UNet see beside images; empty for none
    config.image_share = 0.5  # probability of an image, not a map
    config.kl_weight = 1e-5  # of the latents' divergence from a standard normal
    config.temperature = 0.07  # of the similarities of images and texts
    config.tokenizer = ""  # folder (launch.make_tokenizer) for new towers; CLIP's own unless given
    config.prediction_type = "v_prediction"  # or epsilon: of a new UNet

    # Sizes of what is new.
    config.norm_groups = 8  # of the autoencoder's and the UNet's norms
    config.latent_channels = 16  # of the latents
    config.autoencoder_channels = "16,32,64,64"  # by level, from pixels to latents
    config.autoencoder_layers = 1  # ResnetBlocks of a level
    config.unet_channels = "64,120"  # by level
    config.unet_attention = "1,1"  # which levels attend, 0 or 1
    config.unet_layers = 1  # ResnetBlocks of a level
    config.unet_heads = 4  # of every attention
    config.text_width = 128  # of the text tower
    config.text_layers = 2  # of the text tower
    config.image_size = 64  # of the image tower's input
    config.image_patch = 8  # side of its patches
    config.image_width = 96  # of the image tower
    config.image_layers = 3  # of the image tower
    config.tower_heads = 4  # of both towers

    config.data = "scenes"
    config.sizes = "64x64"
    config.warmup_steps = 100
    config.max_grad_norm = 1.0
    config.log_every = 50
    config.eval_every = 1000
    config.sample_every = 1000
    config.save_every = 500
    config.update(STAGES[config.stage])
    return config.lock()
