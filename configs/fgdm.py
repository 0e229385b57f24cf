r"""Training of FG-DM: `launch.train`.

    python -m launch.train --config=configs/fgdm.py:factor=segmentation --workdir=runs/seg \
        --config.init=sd-v1-4.ckpt --config.data=shards/coco

    factor              trains                                  sees
    segmentation, pose, depth, normal, sketch, canny, foreground_depth, background_depth
                        the adapter of that variable            text
    image               the adapter of the image                text, segmentation
    chain               three adapters at once                  segmentation -> depth -> image
    layered             two adapters at once                    foreground depth -> background depth
    controlnet          the adapter of the segmentation, and the block that takes the hint of a
                        ControlNet for the image (A.2.4)        segmentation -> image

Other graphs are written out: `--config.graph="depth, image<depth"`. Scales:

    paper       AdamW 1e-6, 256x256, 100 epochs (arXiv:2410.21638, A.2); batch 160 as in its code
    single_gpu  the same steps on one 24 GB card: bfloat16, microbatches
    scenes      1000 steps for a tiny model (init) on the procedural world

docs/factors.md tells the way from one factor to a graph.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import training
from configs.common import SCENES_TRAINING, parse_arg, unknown_name

BASE = "configs.training"
"""Where the settings stand that all training runs share, for --help."""

GRAPHS = {
    **{
        name: name
        for name in (
            *("segmentation", "pose", "depth", "normal", "sketch", "canny"),
            *("foreground_depth", "background_depth"),
        )
    },
    "image": "segmentation, image<segmentation",
    "chain": "segmentation, depth<segmentation, image<segmentation+depth",
    "layered": "foreground_depth, background_depth<foreground_depth",
    "controlnet": "segmentation, image<segmentation:controlnet",
}
"""Graphs by the name that `:factor=` takes."""

SCALES = {
    "paper": {},
    "single_gpu": {
        "accumulation": 20,
        "dtype": "bfloat16",
        "frozen_dtype": "bfloat16",
        "remat": "layers",
        "text": "cached",
        "distill_every": 10,
    },
    "scenes": {
        **SCENES_TRAINING,
        "crop": "centre",
        "flip": 0.0,
        "distill_every": 10,
        "adapter_layers": 1,
        "adapter_text": 64,
        "parent_latents": "clean",
    },
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `arg` is `factor=` and `scale=`."""
    args = parse_arg(arg, factor="segmentation", scale="paper")
    for name, known in (("factor", GRAPHS), ("scale", SCALES)):
        if args[name] not in known:
            raise ValueError(unknown_name(name, args[name], known))
    config = training.get_config()

    # What is trained.
    config.system = "fgdm"  # FG-DM
    config.scale = args["scale"]  # set by :scale=
    config.graph = GRAPHS[args["factor"]]  # VARIABLE<PARENT+PARENT:KIND, ...; set by :factor=
    config.trained = "image" if args["factor"] == "image" else ""  # variables; all unless given
    config.adapter = "time"  # of new adapters: that of the paper, or plain: of the released weights
    config.adapter_layers = 2  # blocks in each level of new adapters; upstream has 2
    config.adapter_text = 0  # width in which new adapters translate the text too; 0 if they do not
    config.adapter_start = "zero"  # new adapters change nothing at first, or random: as upstream
    config.parent_latents = ""  # noisy (of t - 1), or clean; as in init, new adapters noisy
    config.null_parents = 0.2  # probability that a parent is hidden, for each on its own
    config.distill_weight = 0.1  # of the attention distillation (eq. 7); 0 leaves it out
    config.distill_every = 1  # steps from one distillation to the next
    config.distill_layers = "all"  # attentions that are compared: a pattern of their paths

    config.sizes = "256x256"
    config.crop = "random"
    config.flip = 0.5
    config.learning_rate = 1e-6
    config.num_epochs = 100.0
    config.global_batch_size = 160
    config.update(SCALES[config.scale])
    return config.lock()
