"""Which reader a config of `launch.prepare_data` asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.schema import RecordSource
from launch.prepare_settings import parse_sizes


def make_source(config: Any) -> RecordSource:
    """Returns the raw records.

    Args:
      config: of `configs/prepare.py`.

    Raises:
      ValueError: lists what is missing from the raw data set, and how it is laid out.
    """
    return _MAKERS[config.dataset](config)


def source_settings(config: Any, source: RecordSource) -> Mapping[str, Any]:
    """Returns what raw records are a function of; where they lie is no part of it.

    Args:
      config: of `configs/prepare.py`.
      source: made of it.
    """
    if config.dataset == "scenes":
        return {
            "dataset": "scenes",
            "seed": config.seed,
            "size": list(parse_sizes(config.sizes)[0]),
        }
    return {
        "dataset": config.dataset,
        "class_captions": config.class_captions,
        "contents": getattr(source, "contents", ""),
    }


def _coco(config: Any) -> RecordSource:
    from input_pipeline.readers.coco import CocoReader

    root, split = Path(config.root), config.split
    return CocoReader(
        root / "annotations" / f"captions_{split}.json",
        root / split,
        root / "stuffthingmaps" / split if config.labels else None,
        name=config.name,
    )


def _wholebody(config: Any) -> RecordSource:
    from input_pipeline.readers.wholebody import WholeBodyReader

    root, split = Path(config.root), config.split
    return WholeBodyReader(
        root / "annotations" / f"coco_wholebody_{split.removesuffix('2017')}_v1.0.json",
        root / "annotations" / f"captions_{split}.json",
        root / split,
        root / "stuffthingmaps" / split if config.labels else None,
        name=config.name,
    )


def _pickapic(config: Any) -> RecordSource:
    from input_pipeline.readers.pickapic import PickAPicReader

    stop_words: list[str] | None = None
    if config.stop_words == "none":
        stop_words = []
    elif config.stop_words != "upstream":
        stop_words = Path(config.stop_words).read_text(encoding="utf-8").split()
    return PickAPicReader(
        config.root,
        stop_words,
        min_words=config.min_words,
        tie=config.tie,
        name=config.name,
    )


def _ade20k(config: Any) -> RecordSource:
    from input_pipeline.readers.ade20k import Ade20kReader

    return Ade20kReader(config.root, config.split, **_captions(config))


def _cityscapes(config: Any) -> RecordSource:
    from input_pipeline.readers.cityscapes import CityscapesReader

    return CityscapesReader(config.root, config.split, **_captions(config))


def _celebamask(config: Any) -> RecordSource:
    from input_pipeline.readers.celebamask import CelebAMaskReader

    return CelebAMaskReader(config.root, **_captions(config))


def _upstream(config: Any) -> RecordSource:
    from input_pipeline.readers.upstream import UpstreamReader

    return UpstreamReader(config.root, config.split, read_embedding, name=config.name)


def _folder(config: Any) -> RecordSource:
    from input_pipeline.readers.folder import FolderReader

    return FolderReader(config.root, config.name)


def _scenes(config: Any) -> RecordSource:
    from input_pipeline.scenes import Scenes

    return Scenes(seed=config.seed, size=parse_sizes(config.sizes)[0])


def _captions(config: Any) -> dict[str, Any]:
    return {
        "captions": config.captions or None,
        "class_captions": config.class_captions,
        "name": config.name,
    }


def read_embedding(path: Path) -> np.ndarray:
    """Returns the one vector in a torch file, without running code that it may hold.

    Args:
      path: `.pt` file of upstream's tree.

    Raises:
      ValueError: the file is unsafe or damaged, or does not hold one tensor.
    """
    from sd_jax.files import open_tensors

    tensors = open_tensors(path)
    if len(tensors) != 1:
        raise ValueError(f"{path}: holds {len(tensors)} tensors, expected one embedding")
    (tensor,) = tensors.values()
    return tensor.read().astype(np.float32).reshape(-1)


_MAKERS: Mapping[str, Callable[[Any], RecordSource]] = {
    "coco": _coco,
    "pickapic": _pickapic,
    "ade20k": _ade20k,
    "cityscapes": _cityscapes,
    "celebamask": _celebamask,
    "wholebody": _wholebody,
    "upstream": _upstream,
    "folder": _folder,
    "scenes": _scenes,
}
