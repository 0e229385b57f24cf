r"""Raw data sets -> verified shards for training: `launch.prepare_data`.

    python -m launch.prepare_data --config=configs/prepare.py:dataset=coco \
        --config.root=data/coco --config.split=train2017 --config.output=shards/coco \
        --config.inpainting=stable-diffusion-inpainting/ --config.depth_estimator=dpt-large/ \
        --config.clip=clip-vit-large-patch14/

`dataset` is one of folder (your own images with captions), coco, pickapic, ade20k, cityscapes,
celebamask, wholebody, upstream (Compose and Conquer's own prepared tree) and scenes (this project's
procedural world, which needs no files).
What is finished is kept: the same command goes on where the last one was stopped. Each data set has
steps and sizes of its own in place of some defaults below (see docs/data.md).
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.common import parse_arg, unknown_name

TRIPLET = "image,mask,background,depth,embeddings"
DATASETS = {
    "folder": {"steps": TRIPLET},
    "coco": {"split": "train2017", "steps": TRIPLET, "mask_classes": "0-90"},
    "pickapic": {"steps": TRIPLET},
    "ade20k": {"split": "training", "steps": "image,depth,edges"},
    "cityscapes": {"split": "train", "steps": "image,depth,edges", "sizes": "512x1024"},
    "celebamask": {"steps": "image"},
    "wholebody": {"split": "train2017", "steps": "image"},
    "upstream": {"split": "train", "steps": ""},
    "scenes": {"steps": "", "limit": 10000, "sizes": "64x64"},
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `arg` is `dataset=`."""
    dataset = parse_arg(arg, dataset="coco")["dataset"]
    if dataset not in DATASETS:
        raise ValueError(unknown_name("dataset", dataset, DATASETS))
    config = ConfigDict()

    # What to read.
    config.dataset = dataset  # set by :dataset=
    config.root = ""  # folder of the raw data set
    config.split = ""  # of the raw data set
    config.captions = ""  # file of captions, where the data set brings none
    config.labels = True  # COCO: label maps too, in stuffthingmaps/
    config.class_captions = False  # else captions that list the classes of an image
    config.limit = 0  # records to take; 0 takes all
    config.tie = "second"  # Pick-a-Pic: which image of a pair without a winner, or drop
    config.min_words = 3  # Pick-a-Pic: of a prompt
    config.stop_words = "upstream"  # Pick-a-Pic: or none, or a file with a word on each line
    config.seed = 0  # of new noise, and of scenes

    # What to write.
    config.name = dataset  # of the data set, in small letters, digits and underscores
    config.output = ""  # folder of the shards
    config.workdir = ""  # folder of what the steps make; OUTPUT.work unless given
    config.num_shards = 0  # 0 makes one for 1000 records, at least one for each task
    config.remake = False  # replace what was made with other settings
    config.max_unreadable = 0  # records that may be left out because they cannot be read

    # Steps, joined by commas: image, mask, background, depth, edges, embeddings, latents, text.
    config.steps = ""  # in order
    config.sizes = "512x512"  # image: HEIGHTxWIDTH, several joined by commas; the nearest is taken
    config.min_side = 0  # image: one with a shorter side is left out
    config.mask_classes = ""  # mask: foreground classes, such as 0-90; empty takes saliency
    config.saliency = ""  # mask: ONNX file of U2-Net
    config.least_foreground = 0.0  # mask: share of the image; no more is left out
    config.most_foreground = 1.0  # mask: no less is left out
    config.inpainting = ""  # background: checkpoint of an inpainting model
    config.dilation = 50  # background: pixels that the mask grows by
    config.prompt = "empty scenery, ultra detailed, no people"  # background
    config.negative_prompt = "low resolution, worst quality, low quality"  # background
    config.guidance_scale = 10.0  # background
    config.num_steps = 25  # background
    config.keep_image = False  # background: paste the image back where nothing is painted
    config.depth_estimator = ""  # depth: folder or hub id of DPT or Depth Anything
    config.normals = True  # depth: normals too
    config.canny_low = 100.0  # edges
    config.canny_high = 200.0  # edges
    config.clip = ""  # embeddings: checkpoint with CLIP's image tower
    config.autoencoder = ""  # latents: checkpoint with the autoencoder
    config.text_encoder = ""  # text: checkpoint with the text encoder
    config.num_captions = 5  # text: captions that are encoded

    # How.
    config.workers = 0  # processes for steps on the CPU
    config.threads = 4  # of each process
    config.batch_size = 8  # of steps on the devices of a process together
    config.dtype = "float32"  # or bfloat16, for steps on the device
    config.task_index = 0  # which part of the shards this task makes
    config.task_count = 1  # parts
    config.beam_options = ""  # options of Apache Beam, joined by spaces; it runs the CPU's steps

    config.update(DATASETS[dataset])
    return config.lock()
