"""Settings of `launch.prepare_data`: what their texts mean, and what is wrong with them."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from configs.common import split_list, unknown_name

STEPS = ("image", "mask", "background", "depth", "edges", "embeddings", "latents", "text")
MODELS = {
    "background": "inpainting",
    "depth": "depth_estimator",
    "embeddings": "clip",
    "latents": "autoencoder",
    "text": "text_encoder",
}
"""Which setting names the network of a step."""

_SIZE = re.compile(r"(\d+)x(\d+)")


class PrepareError(ValueError):
    """A preparation that cannot start; lists every problem."""


def check_settings(config: Mapping[str, Any]) -> None:
    """Checks all settings.

    Raises:
      PrepareError: lists every problem.
    """
    problems = []
    if not config["output"]:
        problems.append("output is empty; name a folder for the shards")
    elif Path(config["output"]).exists() and not Path(config["output"]).is_dir():
        problems.append(f"output: {config['output']} is a file; name a folder")
    problems += _unused(config)
    if not config["root"] and config["dataset"] != "scenes":
        problems.append(f"root is empty; name the folder of {config['dataset']}")
    steps = _tried(split_list, config["steps"])
    for name in steps:
        if name not in STEPS:
            problems.append(unknown_name("step", name, STEPS))
        model = MODELS.get(name)
        if model and not config[model]:
            problems.append(f"step {name!r} needs {model}; name a checkpoint, or leave it out")
        elif model and model != "depth_estimator" and not Path(config[model]).exists():
            problems.append(f"{model}: there is no {config[model]}")
    saliency = bool(config["saliency"]) and Path(config["saliency"]).is_file()
    if "mask" in steps and config["saliency"] and not saliency:
        problems.append(f"saliency: there is no file {config['saliency']}")
    elif "mask" in steps and not config["mask_classes"] and not saliency:
        problems.append("step 'mask' needs mask_classes, or saliency, an ONNX file of U2-Net")
    if config["beam_options"] and importlib.util.find_spec("apache_beam") is None:
        problems.append('beam_options need Apache Beam; install it: pip install ".[beam]"')
    if "background" in steps:
        # What the UNet and the autoencoder halve.
        problems += [
            f"sizes: the inpainting network needs multiples of 64, got {size[0]}x{size[1]}"
            for size in _tried(parse_sizes, config["sizes"])
            if size[0] % 64 or size[1] % 64
        ]
    if not (math.isfinite(config["guidance_scale"]) and config["guidance_scale"] >= 0):
        problems.append(f"guidance_scale must be at least 0, got {config['guidance_scale']}")
    if not 0 <= config["seed"] < 2**32:
        problems.append(f"seed must be from 0 to {2**32 - 1}, got {config['seed']}")
    if config["num_steps"] > 1000:
        problems.append(f"num_steps must be at most 1000, got {config['num_steps']}")
    for parse, name in (
        (parse_sizes, "sizes"),
        (parse_classes, "mask_classes"),
        (split_list, "steps"),
    ):
        try:
            parse(config[name])
        except ValueError as error:
            problems.append(str(error))
    for name, least in (
        ("num_shards", 0), ("min_side", 0), ("batch_size", 1), ("threads", 1), ("workers", 0),
        ("task_count", 1), ("limit", 0), ("max_unreadable", 0), ("num_steps", 1),
        ("num_captions", 1), ("dilation", 0),
    ):  # fmt: skip
        if config[name] < least:
            problems.append(f"{name} must be at least {least}, got {config[name]}")
    if not 0 <= config["task_index"] < max(1, config["task_count"]):
        problems.append(
            f"task_index must be from 0 to {config['task_count'] - 1}, got {config['task_index']}"
        )
    if not 0 <= config["least_foreground"] < config["most_foreground"] <= 1:
        problems.append(
            "least_foreground and most_foreground must be 0 <= least < most <= 1, got "
            f"{config['least_foreground']} and {config['most_foreground']}"
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", config["name"]):
        problems.append(
            f"name must be small letters, digits and underscores, got {config['name']!r}"
        )
    if config["dtype"] not in ("float32", "bfloat16"):
        problems.append(f"dtype must be float32 or bfloat16, got {config['dtype']!r}")
    if problems:
        raise PrepareError("\n- ".join(["the preparation cannot start:", *problems]))


def _unused(config: Mapping[str, Any]) -> list[str]:
    """Returns settings that would do nothing for this data set."""
    dataset = config["dataset"]
    with_captions = ("ade20k", "cityscapes", "celebamask")
    return [
        f"{name} does nothing for {dataset}; leave it out"
        for name, given, users in (
            ("captions", config["captions"], with_captions),
            ("class_captions", config["class_captions"], with_captions),
            ("tie", config["tie"] != "second", ("pickapic",)),
            ("min_words", config["min_words"] != 3, ("pickapic",)),
            ("stop_words", config["stop_words"] != "upstream", ("pickapic",)),
        )
        if given and dataset not in users
    ] + (
        ["scenes have one size; name one in sizes"]
        if dataset == "scenes" and len(_tried(parse_sizes, config["sizes"])) > 1
        else []
    )


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Returns (height, width) of each of "512x512,448x576".

    Raises:
      ValueError: a size is no HEIGHTxWIDTH in multiples of 8.
    """
    sizes = []
    for item in split_list(text):
        match = _SIZE.fullmatch(item)
        size = (int(match[1]), int(match[2])) if match else (0, 0)
        if not all(side > 0 and side % 8 == 0 for side in size):
            raise ValueError(f"sizes: {item!r} is no HEIGHTxWIDTH in multiples of 8")
        sizes.append(size)
    if not sizes:
        raise ValueError("sizes is empty; name at least one, such as 512x512")
    return tuple(sizes)


def parse_classes(text: str) -> tuple[int, ...]:
    """Returns the labels of "0-90,95".

    Raises:
      ValueError: an item is no label from 0 to 254, nor a range of them.
    """
    labels: list[int] = []
    for item in split_list(text):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 0 <= first <= last <= 254:
            raise ValueError(f"mask_classes: {item!r} is no label from 0 to 254, nor a range")
        labels += range(first, last + 1)
    return tuple(sorted(set(labels)))


def _tried(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ValueError:
        return ()
