"""All that can be wrong with a stream before its first batch, told at once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.schema import RecordSource
from input_pipeline.stream.config import StreamConfig
from input_pipeline.stream.helpers import Helpers
from input_pipeline.stream.pack import batch_bytes

if TYPE_CHECKING:
    from jaxtyping import Int

_SHARED_MEMORY = Path("/dev/shm")


def check_stream(
    sources: Sequence[RecordSource],
    config: StreamConfig,
    helpers: Helpers,
    process_index: int,
    process_count: int,
) -> None:
    """Refuses settings that do not fit each other, the sources or the processes.

    Args:
      sources: of the run.
      config: of the run.
      helpers: of the run.
      process_index: of this process.
      process_count: of all.

    Raises:
      ValueError: with all problems.
    """
    problems = [
        *config.problems(),
        *_process_problems(config, process_index, process_count),
        *_source_problems(sources, config),
        *_helper_problems(sources, config, helpers),
    ]
    if problems:
        raise ValueError("the stream cannot start: " + "; ".join(problems))


def check_shared_memory(
    config: StreamConfig, helpers: Helpers, rows: int, num_batches: int
) -> None:
    """Refuses more batches than the memory holds through which workers hand them over.

    Without this check a worker would die of a bus error when it writes the one too many.

    Args:
      config: of the run.
      helpers: of the run.
      rows: of a local batch.
      num_batches: that may be there at once.

    Raises:
      ValueError: they need more than is free.
    """
    if not _SHARED_MEMORY.is_dir():
        return
    needed = batch_bytes(config, helpers, rows) * num_batches
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if needed > free:
        raise ValueError(
            f"worker processes hand batches over in {_SHARED_MEMORY}, which has {free >> 20} MiB "
            f"free, and {num_batches} batches of {rows} examples need about {needed >> 20} MiB; "
            "enlarge it (docker run --shm-size, or --ipc=host), or use fewer workers or less "
            "prefetch"
        )


def record_sizes(source: RecordSource) -> Int[np.ndarray, "n 2"] | None:
    """Returns the heights and widths of a source's records, or None if it does not tell.

    Args:
      source: any.

    Raises:
      ValueError: it tells something else.
    """
    sizes = getattr(source, "sizes", None)
    if sizes is None:
        return None
    array = np.asarray(sizes() if callable(sizes) else sizes)
    if array.shape != (len(source), 2) or array.dtype.kind not in "iu" or array.min() < 1:
        raise ValueError(
            f"source {source.name!r} has sizes of shape {array.shape} and type {array.dtype}, "
            f"expected a positive height and width for each of {len(source)} records"
        )
    return array


def _process_problems(config: StreamConfig, process_index: int, process_count: int) -> list[str]:
    problems = []
    if not 0 <= process_index < process_count:
        problems.append(
            f"process_index is {process_index}, expected 0 to process_count - 1, which is "
            f"{process_count - 1}"
        )
    if process_count >= 1 and config.batch_size % process_count:
        problems.append(
            f"batch_size is {config.batch_size}, expected a multiple of the {process_count} "
            "processes"
        )
    return problems


def _source_problems(sources: Sequence[RecordSource], config: StreamConfig) -> list[str]:
    problems = [] if sources else ["sources is empty, expected at least one"]
    if config.weights is not None and len(config.weights) != len(sources):
        problems.append(
            f"weights has {len(config.weights)} numbers, expected one for each of "
            f"{len(sources)} sources"
        )
    for source in sources:
        if len(source) == 0:
            problems.append(f"source {source.name!r} has no records")
        missing = [field for field in config.required_fields if field not in source.fields]
        if missing:
            problems.append(
                f"source {source.name!r} lacks the fields {', '.join(missing)}, which "
                f"the keys {', '.join(config.keys)} need; prepare it with them or leave keys out"
            )
    for name in config.variables:
        if sources and all(name not in source.fields for source in sources):
            problems.append(
                f"no source has the field {name!r}, so that its key would be empty; prepare it, or "
                "leave the key out (an autoencoder's maps: --config.maps=)"
            )
    return problems


def _helper_problems(
    sources: Sequence[RecordSource], config: StreamConfig, helpers: Helpers
) -> list[str]:
    problems = []
    if "input_ids" in config.keys and helpers.tokenizer is None:
        problems.append("key 'input_ids' needs Helpers(tokenizer=...)")
    size = helpers.exemplar_size
    if "exemplar_images" in config.keys and (size is None or size < 1):
        problems.append(
            f"key 'exemplar_images' needs Helpers(exemplar_size=...), which is {size}, expected "
            "the side of the pictures that CLIP's image tower takes, such as 224"
        )
    drops_text = config.drop.get("caption", 0) != 0
    if "text_embeddings" in config.keys and drops_text and helpers.empty_text_embedding is None:
        problems.append(
            "key 'text_embeddings' with dropped captions needs "
            "Helpers(empty_text_embedding=...), the text encoder's states of ''"
        )
    for source in sources:
        pictured = (*config.keys, *(config.maps if config.map_share else ()))
        if "segmentation" in pictured and "segmentation" in source.fields:
            try:
                helpers.colours(source.palette)
            except ValueError as error:
                problems.append(
                    f"source {source.name!r} has classes of unknown colours ({error}); give "
                    "them as Helpers(palettes=...), or leave it out (maps of a UNet: "
                    "--config.maps=)"
                )
    for name, palette in helpers.palettes.items():
        array = np.asarray(palette)
        if array.shape != (256, 3) or array.dtype != np.uint8:
            problems.append(
                f"palette {name!r} is {array.dtype} of shape {array.shape}, expected uint8 of "
                "(256, 3)"
            )
    return problems
