r"""Training of Compose and Conquer: `launch.train`.

    python -m launch.train --config=configs/cnc.py:stage=local --workdir=runs/local \
        --config.init=uni.ckpt --config.data=shards/coco,shards/pickapic

    stage    trains                starts from (init)                  epochs
    local    the local fuser       Uni-ControlNet, or Stable Diffusion   28
    layers   stems of the maps     a local fuser of fewer layers
    global   the global fuser      Stable Diffusion                      24
    joint    both                  the workdirs of the two                9
    beside   the global fuser      the same: the local fuser stays
    base     the UNet on text      Stable Diffusion

The same command on the same workdir goes on where the last one stopped. Scales:

    paper       batch 32, 512x512, AdamW 1e-5, float32 as published
    single_gpu  the same steps on one 24 GB card: bfloat16, microbatches, 8-bit moments
    scenes      1000 steps for a tiny model (init) on the procedural world

`condition=canny` trains the local fuser on edges instead of depth. docs/training.md has hours and
memory for each stage and card.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import training
from configs.common import SCENES_TRAINING, parse_arg, unknown_name

BASE = "configs.training"
"""Where the settings stand that all training runs share, for --help."""

STAGES = {"local": 28.0, "layers": 1.0, "global": 24.0, "joint": 9.0, "beside": 9.0, "base": 1.0}
"""Epochs of the paper (arXiv:2401.09048, section 4.1), by stage: of local, global and joint."""

SCALES = {
    "paper": {},
    "single_gpu": {
        "accumulation": 8,
        "dtype": "bfloat16",
        "frozen_dtype": "bfloat16",
        "remat": "layers",
        "optimizer": "adamw8bit",
        "latents": "cached",
        "text": "cached",
    },
    "scenes": {
        **SCENES_TRAINING,
        "exemplars": "encode",
        "hidden_multiple": 1,
    },
}

SCENES_STAGES = {
    # Captions of scenes name the colours that the exemplars are to tell, and scenes are too many to
    # be learned by heart.
    "global": {"drop_caption": 0.5, "dropout": False},
    "joint": {"drop_caption": 0.3, "dropout": False},
    "beside": {"drop_caption": 0.3, "dropout": False},
}
"""What `scale=scenes` has besides, by stage."""

CONDITIONS = ("depth", "canny")


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `arg` is `stage=`, `scale=` and `condition=`."""
    args = parse_arg(arg, stage="local", scale="paper", condition="depth")
    for name, known in (("stage", STAGES), ("scale", SCALES), ("condition", CONDITIONS)):
        if args[name] not in known:
            raise ValueError(unknown_name(name, args[name], known))
    config = training.get_config()

    # What is trained.
    config.system = "cnc"  # Compose and Conquer
    config.stage = args["stage"]  # set by :stage=
    config.scale = args["scale"]  # set by :scale=
    config.local_condition = args["condition"]  # set by :condition=
    config.num_layers = 3 if config.stage == "layers" else 2  # of a fuser; 3 if data have so many
    config.hidden_multiple = 2  # width inside a new global fuser, in widths of an embedding
    config.depth_streams = "uni"  # start of the depth stems from Uni-ControlNet, or fresh
    config.exemplars = "cached"  # CLIP embeddings from the shards, or encode: from the images
    config.drop_condition = 0.1  # of nothing in a condition's place, for each on its own
    config.dropout = True  # inside the global fuser
    config.encoder_gradient = True  # False cuts it off at the UNet's encoder, as upstream does

    config.num_epochs = STAGES[config.stage]
    config.update(SCALES[config.scale])
    if config.scale == "scenes":
        config.update(SCENES_STAGES.get(config.stage, {}))
    return config.lock()
