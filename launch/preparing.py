"""The work of `launch.prepare_data`: a config -> steps -> shards and a manifest."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from configs.common import split_list
from input_pipeline.palettes import palette
from input_pipeline.prepare.depths import Depths
from input_pipeline.prepare.engine import Engine, run_steps, unfinished
from input_pipeline.prepare.masks import Coverage, LabelMask, SaliencyMask
from input_pipeline.prepare.pipeline import PACK, Pipeline
from input_pipeline.prepare.resize import Resize
from input_pipeline.prepare.sketches import Edges
from input_pipeline.prepare.step import Step
from input_pipeline.schema import RecordSource
from launch.prepare_settings import (
    MODELS,
    PrepareError,
    check_settings,
    parse_classes,
    parse_sizes,
)
from launch.prepare_sources import make_source, source_settings
from launch.prepare_steps import Background, ImageEmbeddings, Latents, TextEmbeddings

_RECORDS_PER_SHARD = 1000
_SPLITS = {"val": "validation", "tes": "test"}


def prepare(config: Any) -> Path | None:
    """Makes this task's shards; returns the data set's folder once all tasks' are there.

    Raises:
      PrepareError: lists what is wrong with the settings; nothing slow has started.
    """
    settings = config.to_dict()
    check_settings(settings)
    if set(split_list(config.steps)) & MODELS.keys():
        # Networks round otherwise on other devices, so results are theirs.
        settings["hardware"] = describe_devices()
    build = functools.partial(build_pipeline, json.dumps(settings))
    pipeline = build()
    if pipeline.is_packed() and not pipeline.has_work():
        print(f"{pipeline.output} is already made with these settings", file=sys.stderr)
        return pipeline.output
    stale = pipeline.stale()
    if stale and not config.remake:
        raise PrepareError(
            "\n- ".join(["finished shards were made with other settings:", *stale])
            + "\nchoose another output, or pass --config.remake=True to make them anew"
        )
    engine = Engine(
        workers=config.workers,
        threads=config.threads,
        task_index=config.task_index,
        task_count=config.task_count,
        beam_options=shlex.split(config.beam_options) if config.beam_options else None,
    )
    for report in run_steps(build, engine, pipeline):
        made = f"{report.records} records, {report.rate:.1f} a second" if report.shards_made else ""
        kept = f"{report.shards_kept} shards were finished" if report.shards_kept else ""
        nothing = (
            "" if made or kept else "no shard for this task, as task_count is above num_shards"
        )
        print(f"{report.step}: {'; '.join(filter(None, (made, kept, nothing)))}", file=sys.stderr)
    for reason, count in getattr(pipeline.source, "left_out", {}).items():
        examples = ", ".join(getattr(pipeline.source, "left_out_examples", {}).get(reason, ()))
        print(f"left out by the reader: {count} ({reason}), such as {examples}", file=sys.stderr)
    for step, reasons in pipeline.summary().items():
        for reason, count in reasons.items():
            print(f"left out by {step}: {count} ({reason})", file=sys.stderr)
    manifest = pipeline.finish()
    if manifest is None:
        left = len(unfinished(pipeline)[PACK])
        print(
            f"this task is done; {left} of {pipeline.num_shards} shards are left to other tasks",
            file=sys.stderr,
        )
        return None
    print(f"{pipeline.workdir} is no longer needed unless settings change", file=sys.stderr)
    return pipeline.output


def build_pipeline(settings: str) -> Pipeline:
    """Returns the pipeline of a config, given as JSON; workers call it too."""
    config: Any = ConfigDict(json.loads(settings))
    source = make_source(config)
    output = Path(config.output).absolute()
    return Pipeline(
        source,
        source_settings(config, source),
        make_steps(config, source),
        Path(config.workdir) if config.workdir else output.with_name(f"{output.name}.work"),
        output,
        _num_shards(config, len(source)),
        config.limit or None,
        config.max_unreadable,
        _SPLITS.get(config.split[:3], "train"),
        _provenance(config),
    )


def _num_shards(config: Any, available: int) -> int:
    records = min(available, config.limit or available)
    return config.num_shards or max(config.task_count, -(-records // _RECORDS_PER_SHARD))


def _provenance(config: Any) -> dict[str, Any]:
    """Returns where the data came from and what made them, for people who find the shards."""
    names = ("root", "split", "limit", "saliency", *MODELS.values())
    versions = {}
    for name in ("cnc-fgdm-jax", "jax", "numpy", "pillow", "torch", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"named": {name: config[name] for name in names if config[name]}, "versions": versions}


def make_steps(config: Any, source: RecordSource) -> tuple[Step, ...]:
    """Returns the steps that a config names, in order."""
    return tuple(_MAKERS[name](config, source) for name in split_list(config.steps))


def _mask(config: Any, source: RecordSource) -> Step:
    coverage = Coverage(config.least_foreground, config.most_foreground)
    if config.mask_classes:
        classes = parse_classes(config.mask_classes)
        known = len(palette(source.palette).classes) if source.palette else 0
        if known and classes[-1] >= known:
            raise PrepareError(
                f"mask_classes: {config.mask_classes} goes beyond the {known} classes of "
                f"{source.palette}"
            )
        return LabelMask(classes, coverage)
    return SaliencyMask(Path(config.saliency), coverage=coverage)


def _depth(config: Any, source: RecordSource) -> Step:
    return Depths(
        config.depth_estimator,
        _has_background(config, source),
        config.normals,
        config.batch_size,
        config.get("hardware", ""),
    )


def _has_background(config: Any, source: RecordSource) -> bool:
    return "background" in source.fields or "background" in split_list(config.steps)


def _network(step: Callable[..., Step], config: Any, checkpoint: str, **settings: Any) -> Step:
    hardware = config.get("hardware", "")
    return step(config[checkpoint], config.batch_size, config.dtype, hardware, **settings)


def _background(config: Any, source: RecordSource) -> Step:
    del source
    return _network(
        Background,
        config,
        "inpainting",
        dilation=config.dilation,
        prompt=config.prompt,
        negative_prompt=config.negative_prompt,
        guidance_scale=config.guidance_scale,
        num_steps=config.num_steps,
        seed=config.seed,
        keep=config.keep_image,
    )


def _embeddings(config: Any, source: RecordSource) -> Step:
    return _network(ImageEmbeddings, config, "clip", background=_has_background(config, source))


_MAKERS: Mapping[str, Callable[[Any, RecordSource], Step]] = {
    "image": lambda config, source: Resize(
        parse_sizes(config.sizes), source.fields, config.min_side
    ),
    "mask": _mask,
    "background": _background,
    "depth": _depth,
    "edges": lambda config, source: Edges(config.canny_low, config.canny_high),
    "embeddings": _embeddings,
    "latents": lambda config, source: _network(Latents, config, "autoencoder"),
    "text": lambda config, source: _network(
        TextEmbeddings, config, "text_encoder", num_captions=config.num_captions
    ),
}


def describe_devices() -> str:
    """Returns kind and number of this process's devices."""
    devices = jax.local_devices()
    return f"{len(devices)} x {devices[0].device_kind}"
