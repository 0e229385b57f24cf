"""Ids and sizes of all records of a data set, so that nobody opens shards for them."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.shards.manifest import INDEX, Manifest, ManifestError
from input_pipeline.shards.shard import ShardInfo

if TYPE_CHECKING:
    from jaxtyping import Int32


@dataclasses.dataclass(frozen=True)
class RecordIndex:
    """What is known of every record without opening a shard.

    Attributes:
      ids: in order.
      heights: of the images.
      widths: of the images.
    """

    ids: Sequence[str]
    heights: Int32[np.ndarray, " records"]
    widths: Int32[np.ndarray, " records"]


def read_index(folder: str | Path, manifest: Manifest) -> RecordIndex:
    """Returns ids and sizes of all records.

    Args:
      folder: of the shards.
      manifest: of the folder.

    Raises:
      ManifestError: the index is missing, damaged or of other records.
    """
    path = Path(folder) / INDEX
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            text, ends = arrays["ids"].tobytes().decode(), arrays["id_ends"].tolist()
            heights, widths = arrays["heights"], arrays["widths"]
    # NumPy and its zip reader have many ways to refuse a damaged file.
    except Exception as error:
        raise ManifestError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); copy it again, or write "
            "the manifest anew"
        ) from error
    if not len(ends) == len(heights) == len(widths) == manifest.records:
        raise ManifestError(
            f"{path}: tells of {len(ends)} records, the manifest of {manifest.records}; they are "
            "of two runs, so write the manifest anew"
        )
    ids = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return RecordIndex(ids, heights, widths)


def index_file(shards: Sequence[ShardInfo]) -> bytes:
    """Returns the bytes of the index.

    Args:
      shards: all, in order.
    """
    ids = [name for shard in shards for name in shard.ids]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        # One text, as an array of texts gives each the length of the longest.
        ids=np.frombuffer("".join(ids).encode(), np.uint8),
        id_ends=np.cumsum([len(name) for name in ids], dtype=np.int64),
        heights=np.array([height for shard in shards for height in shard.heights], np.int32),
        widths=np.array([width for shard in shards for width in shard.widths], np.int32),
    )
    return buffer.getvalue()
