"""A folder of shards as a record source."""

from __future__ import annotations

import functools
import itertools
import operator
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from input_pipeline.schema import Record, RecordError
from input_pipeline.shards.example_bytes import decode_record
from input_pipeline.shards.index import RecordIndex, read_index
from input_pipeline.shards.manifest import ManifestError, read_manifest
from input_pipeline.shards.readers import ShardReaders, choose_fields

if TYPE_CHECKING:
    from jaxtyping import Int32


class ShardedRecords:
    """A record source: the records of all shards of a folder, in order.

    Shards are opened when they are first read from, in each process anew; threads may share it.
    Arrays of records are read-only views of the bytes that were read.

    Attributes:
      folder: of the shards.
      manifest: what it holds.
      name: of the data set.
      fields: that its records get.
      palette: that segmentations are in, or None.
    """

    def __init__(self, folder: str | Path, fields: Iterable[str] | None = None):
        """Reads the manifest and nothing else; `verify` looks at the shards.

        Args:
          folder: that `write_manifest` has written.
          fields: those wanted, which makes reading faster; all if not given.

        Raises:
          ManifestError: the manifest is missing, damaged or of another version.
          ValueError: a field is not there.
        """
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        self.name = self.manifest.name
        self.palette = self.manifest.palette
        self.fields = choose_fields(str(folder), self.manifest.fields, fields)
        counts = [shard.records for shard in self.manifest.shards]
        self._ends = list(itertools.accumulate(counts))
        self._readers = ShardReaders(
            [self.folder / shard.file for shard in self.manifest.shards], counts
        )

    def __len__(self) -> int:
        return self.manifest.records

    def __getitem__(self, index: int) -> Record:
        shard, position = self.locate(index)
        try:
            return decode_record(self._readers.read(shard, position), self.fields)
        except RecordError as error:
            raise type(error)(f"{self.describe(index)}: {error}") from error

    def locate(self, index: int) -> tuple[int, int]:
        """Returns the number of a record's shard, and its position in there.

        Args:
          index: of the record in the data set.
        """
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: holds {len(self)} records, asked for {index}")
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def describe(self, index: int) -> str:
        """Returns where a record is: file, position, id and index, for messages.

        Args:
          index: of the record in the data set.
        """
        shard, position = self.locate(index)
        try:
            name = repr(self.index.ids[index])
        except ManifestError:
            name = "unknown"
        return (
            f"{self._readers.paths[shard]}: record {position} (id {name}, record {index} of "
            f"{self.name!r})"
        )

    @functools.cached_property
    def index(self) -> RecordIndex:
        """Ids and sizes of all records, read when first used."""
        return read_index(self.folder, self.manifest)

    def sizes(self) -> Int32[np.ndarray, "n 2"]:
        """Returns height and width of every image, for aspect-ratio buckets; opens no shard."""
        return np.stack([self.index.heights, self.index.widths], axis=1)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "index"}

    def __repr__(self) -> str:
        return f"ShardedRecords({str(self.folder)!r}, {len(self)} records)"
