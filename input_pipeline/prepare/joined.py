"""Records put together again from the shards in which steps left their fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from input_pipeline.schema import Record
from input_pipeline.shards.readers import Shard


class Joined:
    """Records of one shard, put together from the shards of several steps when asked for.

    Attributes:
      source: name of the data set.
      ids: of the records.
    """

    def __init__(self, source: str, ids: Sequence[str], shards: Sequence[Shard]) -> None:
        """Remembers where every record is.

        Args:
          source: name of the data set.
          ids: of the records, which all shards hold.
          shards: each with the fields to take from it.
        """
        self.source = source
        self.ids = tuple(ids)
        self._shards = [
            (shard, {name: row for row, name in enumerate(shard.info.ids)}) for shard in shards
        ]

    def record(self, name: str) -> Record:
        """Returns a record by its id."""
        record: Record = {}
        for shard, rows in self._shards:
            record |= shard[rows[name]]
        return record

    def __iter__(self) -> Iterator[Record]:
        """Yields the records in order."""
        return (self.record(name) for name in self.ids)
