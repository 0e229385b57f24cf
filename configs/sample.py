r"""Images from text, layered depth maps, exemplars and masks: `launch.sample`.

    python -m launch.sample --config=configs/sample.py \
        --config.checkpoint=cnc_v1.ckpt,clip-vit-large-patch14/ --config.prompt="a fox in snow" \
        --config.depth_maps=fox.png,forest.png --config.exemplars=fox.jpg,forest.jpg \
        --config.masks=fox_mask.png --config.output=outputs/fox

`configs/sample.py:preset=fast` is DPM-Solver++(2M) with 20 steps, `:preset=paper` is the setting
of Compose and Conquer's tables (DDIM, 50 steps, guidance 7, 768x768), `:preset=scenes` takes the
weights that ship with the project, at their size, and
`:record=outputs/fox/record.json` repeats an earlier run. Lists are joined by commas, layers from
front to back; `-` leaves a layer out. Names with commas go into a JSON list: '["a, b.png"]'.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.common import SCENES_SAMPLING, parse_arg, repeat, unknown_name

PRESETS = {
    "default": {},
    "fast": {"sampler": "dpmpp_2m", "num_steps": 20},
    "paper": {"num_steps": 50, "guidance_scale": 7.0, "height": 768, "width": 768},
    "scenes": SCENES_SAMPLING,
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `arg` is `preset=` or `record=`."""
    args = parse_arg(arg, preset="default", record="")
    config = ConfigDict()

    # Files. Several checkpoints complete one another: of what two hold, the first is taken.
    config.system = "cnc"  # Compose and Conquer
    config.checkpoint = ""  # file, folder or converted directory
    config.use_ema = False  # averaged weights, from an original file that has both
    config.num_heads = 0  # attention heads where no config.json tells them; 0 is 8
    config.output = "outputs"  # folder for images, contact sheet and record
    config.overwrite = False  # replace the run that the output folder holds
    config.record = ""  # set by :record=
    config.safety_checker = True  # used where the checkpoint carries one

    # What to compose.
    config.prompt = ""  # what to see
    config.negative_prompt = ""  # what guidance leads away from
    config.long_prompts = "cut"  # or "chunks": prompts of more than 75 tokens
    config.depth_maps = ""  # 8- or 16-bit PNG, or .npy in [0, 1]; near = 1
    config.photos = ""  # instead of depth maps: depth or edges are taken of them
    config.depth_estimator = ""  # folder of a depth estimator's weights (DPT), for photos
    config.local_condition = "depth"  # or "canny": what the local fuser was trained with
    config.exemplars = ""  # pictures whose look the layers take
    config.masks = ""  # where each layer but the last is seen

    # How.
    config.height = 512  # a multiple of 64
    config.width = 512  # a multiple of 64
    config.num_images = 1  # each with a seed of its own
    config.seed = 0  # images take seed, seed + 1, ...
    config.batch_size = 1  # images sampled at once
    config.sampler = "ddim"  # or dpmpp_2m, euler, euler_ancestral
    config.num_steps = 50  # 1 to 1000
    config.spacing = "leading"  # or trailing (for few steps), upstream (upstream's own)
    config.eta = -1.0  # noise of ddim and euler_ancestral, 0 to 1; -1 is the sampler's own default
    config.guidance_scale = 7.5  # 1 leaves guidance out
    config.image_guidance_scale = 0.0  # 0: guidance on the text alone, as upstream
    config.exemplar_strengths = "1"  # one, or one for each layer
    config.depth_gains = "1"  # one, or one for each layer
    config.residual_scales = "1"  # one, or 13: the skips in order, the middle last
    config.depth_interval = "0,1"  # in which depth acts: 0 is noise, 1 the image
    config.exemplar_interval = "0,1"  # in which exemplars act
    config.mask_rule = "upstream"  # or coverage, soft_coverage
    config.dtype = "float32"  # or bfloat16 (GPUs and TPUs), float16
    config.attention = "auto"  # or einsum, xla, cudnn
    config.decode_slice = 1  # images decoded at once

    if args["preset"] not in PRESETS:
        raise ValueError(unknown_name("preset", args["preset"], PRESETS))
    config.update(PRESETS[args["preset"]])
    if args["record"]:
        repeat(config, args["record"])
    return config.lock()
