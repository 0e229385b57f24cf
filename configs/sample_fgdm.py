r"""Maps and images from text, by a graph of factors (FG-DM): `launch.sample`.

    python -m launch.sample --config=configs/sample_fgdm.py \
        --config.checkpoint=segmentation=fgdm_seg.pth,sd-v1-4.ckpt,control_sd15_seg.pth \
        --config.prompt="a dog and a bicycle before a brick wall" --config.num_draws=10 \
        --config.output=outputs/dog

Draws `num_draws` sets of maps at a low resolution, counts which of the objects that the prompt asks
for each segmentation shows, keeps the best, and draws the image from it alone (arXiv:2410.21638).
`:graph=chain` draws segmentation, depth and image together, `:graph=layered` layered depth maps
that Compose and Conquer composes, and `:record=outputs/dog/record.json` repeats an earlier run.
`:graph=chain,preset=scenes` takes the weights that ship with the project, at their size.
`--config.given=segmentation=edited.png` takes a map as it is, and `--config.wanted=depth` draws
that variable and what it needs alone. Lists are joined by commas; names with commas go into a JSON
list: '["a, b.png"]'. docs/drawing.md tells more.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.common import SCENES_SAMPLING, parse_arg, repeat, unknown_name

GRAPHS = {
    "controlnet": "segmentation, image<segmentation:controlnet",
    "image": "segmentation, image<segmentation",
    "chain": "segmentation, depth<segmentation, image<segmentation+depth",
    "layered": "foreground_depth, background_depth<foreground_depth, "
    "image<foreground_depth+background_depth:cnc",
}
"""Graphs by the name that `:graph=` takes."""

PRESETS = {
    "default": {},
    "scenes": {
        **SCENES_SAMPLING,
        "map_height": 64,
        "map_width": 64,
        "map_guidance_scale": 3.0,
    },
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `arg` is `graph=` and `preset=`, or `record=`."""
    args = parse_arg(arg, graph="", preset="default", record="")
    # The weights that ship have no ControlNet.
    args["graph"] = args["graph"] or ("chain" if args["preset"] == "scenes" else "controlnet")
    for kind, known in (("graph", GRAPHS), ("preset", PRESETS)):
        if args[kind] not in known:
            raise ValueError(unknown_name(kind, args[kind], known))
    config = ConfigDict()

    # Files. Several checkpoints complete one another: of what two hold, the first is taken.
    config.system = "fgdm"  # FG-DM
    config.checkpoint = ""  # files, folders, runs; VARIABLE=FILE for an adapter of upstream
    config.use_ema = False  # averaged weights, from an original file that has both
    config.num_heads = 0  # attention heads where no config.json tells them; 0 is 8
    config.output = "outputs"  # folder for maps, images, contact sheet and record
    config.overwrite = False  # replace the run that the output folder holds
    config.record = ""  # set by :record=
    config.safety_checker = True  # used where the checkpoint carries one

    # What to draw.
    config.graph = GRAPHS[args["graph"]]  # VARIABLE<PARENT+PARENT:KIND, ...; set by :graph=
    config.wanted = ""  # variables; all unless given
    config.given = ""  # VARIABLE=FILE: maps that are not drawn
    config.prompt = ""  # what to see
    config.negative_prompt = ""  # what guidance leads away from
    config.long_prompts = "cut"  # or "chunks": prompts of more than 75 tokens
    config.palette = ""  # classes and colours of segmentations: that of the runs, or coco
    config.objects = ""  # classes asked for; those that the prompt names unless given

    # How many.
    config.num_draws = 1  # sets of maps
    config.num_images = 1  # images, from the best of them
    config.seed = 0  # draws take seed, seed + 1, ...
    config.map_batch_size = 10  # sets of maps drawn at once
    config.batch_size = 1  # images drawn at once

    # How.
    config.map_height = 256  # a multiple of 64
    config.map_width = 256  # a multiple of 64
    config.map_steps = 20  # 1 to 1000
    config.map_guidance_scale = 7.5  # of the text; 1 leaves guidance out
    config.height = 512  # of images, a multiple of 64
    config.width = 512  # of images, a multiple of 64
    config.num_steps = 20  # of images, 1 to 1000
    config.guidance_scale = 7.5  # of images; 1 leaves guidance out
    config.conditioning_scale = 1.0  # of what a ControlNet or Compose and Conquer adds
    config.sampler = "ddim"  # or dpmpp_2m, euler, euler_ancestral
    config.spacing = "leading"  # or trailing (for few steps), upstream (upstream's own)
    config.eta = -1.0  # noise of ddim and euler_ancestral, 0 to 1; -1 is the sampler's own default
    config.mode = "joint"  # all factors advance together, or sequential: one after the other
    config.hand_over = "trained"  # of parents: as each adapter was; latents: noisy; x0: predicted
    config.keep_steps = ""  # steps, from 0, whose predictions are shown: 0,5,10
    config.dtype = "float32"  # or bfloat16 (GPUs and TPUs), float16
    config.attention = "auto"  # or einsum, xla, cudnn
    config.decode_slice = 1  # pictures decoded at once

    config.update(PRESETS[args["preset"]])
    if args["record"]:
        repeat(config, args["record"])
    return config.lock()
