"""The work of `launch.prepare_data`: a config -> steps -> shards and a manifest."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs.common import unknown_name
from input_pipeline.prepare.depths import Depths
from input_pipeline.prepare.engine import Engine, run_steps, unfinished
from input_pipeline.prepare.masks import Coverage, LabelMask, SaliencyMask
from input_pipeline.prepare.pipeline import Pipeline, RecordSource
from input_pipeline.prepare.resize import Resize
from input_pipeline.prepare.sketches import Edges
from input_pipeline.prepare.step import Step
from launch.prepare_sources import make_source, source_settings

_SIZE = re.compile(r"(\d+)x(\d+)")


class PrepareError(ValueError):
    """A preparation that cannot start; lists every problem."""


def prepare(config: Any) -> Path | None:
    """Makes this task's shards; returns the data set's folder once all tasks' are there.

    Raises:
      PrepareError: lists what is wrong with the settings; nothing slow has started.
    """
    settings = config.to_dict()
    _check(settings)
    build = functools.partial(build_pipeline, json.dumps(settings))
    engine = Engine(
        workers=config.workers,
        threads=config.threads,
        task_index=config.task_index,
        task_count=config.task_count,
        beam_options=config.beam_options.split() if config.beam_options else None,
    )
    for report in run_steps(build, engine):
        made = f"{report.records} records, {report.rate:.1f} a second" if report.shards_made else ""
        kept = f"{report.shards_kept} shards were finished" if report.shards_kept else ""
        print(f"{report.step}: {'; '.join(filter(None, (made, kept)))}", file=sys.stderr)
    pipeline = build()
    for step, reasons in pipeline.summary().items():
        for reason, count in reasons.items():
            print(f"left out by {step}: {count} ({reason})", file=sys.stderr)
    manifest = pipeline.finish()
    if manifest is None:
        left = sum(map(len, unfinished(pipeline).values()))
        print(f"this task is done; {left} shards are left to other tasks", file=sys.stderr)
        return None
    return pipeline.output


def build_pipeline(settings: str) -> Pipeline:
    """Returns the pipeline of a config, given as JSON; workers call it too."""
    config: Any = ConfigDict(json.loads(settings))
    source = make_source(config)
    output = Path(config.output)
    return Pipeline(
        source,
        source_settings(config, source),
        make_steps(config, source),
        Path(config.workdir) if config.workdir else output.with_name(f"{output.name}.work"),
        output,
        config.num_shards,
        config.limit or None,
        config.max_unreadable,
    )


def make_steps(config: Any, source: RecordSource) -> tuple[Step, ...]:
    """Returns the steps that a config names, in order."""
    return tuple(_MAKERS[name](config, source) for name in split_names(config.steps))


def split_names(text: str) -> list[str]:
    """Returns the items of a list joined by commas."""
    return [item.strip() for item in text.split(",") if item.strip()]


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Returns (height, width) of each of "512x512,448x576".

    Raises:
      ValueError: a size is no HEIGHTxWIDTH in multiples of 8.
    """
    sizes = []
    for item in split_names(text):
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
    for item in split_names(text):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 0 <= first <= last <= 254:
            raise ValueError(f"mask_classes: {item!r} is no label from 0 to 254, nor a range")
        labels += range(first, last + 1)
    return tuple(sorted(set(labels)))


def _mask(config: Any, source: RecordSource) -> Step:
    coverage = Coverage(config.least_foreground, config.most_foreground)
    if config.mask_classes and "segmentation" in source.fields:
        return LabelMask(parse_classes(config.mask_classes), coverage)
    return SaliencyMask(Path(config.saliency), coverage=coverage)


def _depth(config: Any, source: RecordSource) -> Step:
    layers = "background" in source.fields or "background" in split_names(config.steps)
    return Depths(config.depth_estimator, layers, config.normals, batch_size=config.batch_size)


def _device(name: str, checkpoint: str, **options: str) -> Callable[[Any, RecordSource], Step]:
    def make(config: Any, source: RecordSource) -> Step:
        # Imported here, as they bring JAX along, which workers on the CPU need not have.
        from launch import prepare_steps

        settings = {ours: config[theirs] for ours, theirs in options.items()}
        if name == "ImageEmbeddings":
            steps = split_names(config.steps)
            settings["background"] = "background" in source.fields or "background" in steps
        return getattr(prepare_steps, name)(
            config[checkpoint], config.batch_size, config.dtype, **settings
        )

    return make


_MAKERS: Mapping[str, Callable[[Any, RecordSource], Step]] = {
    "image": lambda config, source: Resize(parse_sizes(config.sizes), source.fields),
    "mask": _mask,
    "background": _device(
        "Background",
        "inpainting",
        dilation="dilation",
        prompt="prompt",
        negative_prompt="negative_prompt",
        guidance_scale="guidance_scale",
        num_steps="num_steps",
        seed="seed",
        keep="keep_image",
    ),
    "depth": _depth,
    "edges": lambda config, source: Edges(config.canny_low, config.canny_high),
    "embeddings": _device("ImageEmbeddings", "clip"),
    "latents": _device("Latents", "autoencoder"),
    "text": _device("TextEmbeddings", "text_encoder", num_captions="num_captions"),
}
_MODELS = {
    "background": "inpainting",
    "depth": "depth_estimator",
    "embeddings": "clip",
    "latents": "autoencoder",
    "text": "text_encoder",
}


def _check(config: Mapping[str, Any]) -> None:
    """Checks all settings.

    Raises:
      PrepareError: lists every problem.
    """
    problems = []
    if not config["output"]:
        problems.append("output is empty; name a folder for the shards")
    if not config["root"] and config["dataset"] != "scenes":
        problems.append(f"root is empty; name the folder of {config['dataset']}")
    steps = split_names(config["steps"])
    for name in steps:
        if name not in _MAKERS:
            problems.append(unknown_name("step", name, _MAKERS))
        model = _MODELS.get(name)
        if model and not config[model]:
            problems.append(f"step {name!r} needs {model}; name a checkpoint, or leave it out")
        elif model and model != "depth_estimator" and not Path(config[model]).exists():
            problems.append(f"{model}: there is no {config[model]}")
    if "mask" in steps and not config["mask_classes"] and not Path(config["saliency"]).is_file():
        problems.append("step 'mask' needs mask_classes, or saliency, an ONNX file of U2-Net")
    for parse, name in ((parse_sizes, "sizes"), (parse_classes, "mask_classes")):
        try:
            parse(config[name])
        except ValueError as error:
            problems.append(str(error))
    for name, least in (
        ("num_shards", 1), ("batch_size", 1), ("threads", 1), ("workers", 0), ("task_count", 1),
        ("limit", 0), ("max_unreadable", 0), ("num_steps", 1), ("num_captions", 1), ("dilation", 0),
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
