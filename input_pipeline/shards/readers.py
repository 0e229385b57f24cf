"""Random access to the records of shards: opened when needed, from any process and thread."""

from __future__ import annotations

import collections
import dataclasses
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from input_pipeline.schema import Record, RecordError
from input_pipeline.shards.example_bytes import decode_record
from input_pipeline.shards.shard import info_path, read_shard_info, schema_order

if TYPE_CHECKING:
    from collections.abc import Iterable

# A process may often open 1024 files, and its workers and libraries want some too.
_MAX_OPEN = 256
# No threads and no reading ahead: single records are wanted, and threads do not live through forks.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_READER_BUFFER = 32768


class ShardError(RecordError):
    """A shard that cannot be opened, so that none of its records can be read."""


@dataclasses.dataclass
class _OpenReaders:
    """The readers of one process, the longest unused first."""

    process: int
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    readers: collections.OrderedDict[int, Any] = dataclasses.field(
        default_factory=collections.OrderedDict
    )


class ShardReaders:
    """Reads records of some shards as bytes; may be pickled, forked and shared by threads.

    Attributes:
      paths: of the shards.
      counts: how many records each of them must hold.
    """

    def __init__(self, paths: Sequence[Path], counts: Sequence[int], max_open: int = _MAX_OPEN):
        """Remembers the shards and opens none.

        Args:
          paths: of the shards.
          counts: how many records each of them must hold.
          max_open: how many files a process may have open at once; at least 1.
        """
        self.paths = tuple(paths)
        self.counts = tuple(counts)
        self._max_open = max_open
        self._open = _OpenReaders(os.getpid())

    def read(self, shard: int, position: int) -> bytes:
        """Returns the bytes of a record.

        ArrayRecord compares a checksum of every record that it reads, and of its table of them
        when it opens a file.

        Args:
          shard: number of the shard.
          position: of the record in its shard.

        Raises:
          ShardError: the shard is missing, cut off or of another run.
          RecordError: this record is damaged. The caller names file and record.
        """
        reader = self._reader(shard)
        try:
            (data,) = reader.read([position])
        except (RuntimeError, IndexError, ValueError) as error:
            raise RecordError(f"cannot be read: {error}") from error
        return data

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = _OpenReaders(os.getpid())

    def _reader(self, shard: int) -> Any:
        # A child that was forked gets its own lock, as a thread of its parent may hold the other.
        if self._open.process != os.getpid():
            self._open = _OpenReaders(os.getpid())
        opened = self._open
        with opened.lock:
            reader = opened.readers.get(shard)
            if reader is None:
                reader = _open_reader(self.paths[shard], self.counts[shard])
                opened.readers[shard] = reader
            opened.readers.move_to_end(shard)
            # A thread that still reads from it keeps it open a little longer.
            if len(opened.readers) > self._max_open:
                opened.readers.popitem(last=False)
        return reader


class Shard:
    """A record source: one finished shard, such as a step of preparation has written.

    Attributes:
      path: of the shard.
      info: what is known about it.
      name: its file name.
      fields: that its records get.
      palette: none is known.
    """

    palette: str | None = None

    def __init__(self, path: str | Path, fields: Iterable[str] | None = None):
        """Reads the note beside the shard.

        Args:
          path: of the shard.
          fields: those wanted; all if not given.

        Raises:
          ValueError: the shard is unfinished, or it lacks a field.
        """
        self.path = Path(path)
        try:
            self.info = read_shard_info(self.path)
        except FileNotFoundError as error:
            raise ValueError(
                f"{self.path}: is not a finished shard, as {info_path(self.path).name} is missing; "
                "run the step that writes it"
            ) from error
        self.name = self.path.name
        self.fields = choose_fields(str(self.path), self.info.fields, fields)
        self._readers = ShardReaders([self.path], [self.info.records])

    def __len__(self) -> int:
        return self.info.records

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: holds {len(self)} records, asked for {index}")
        try:
            return decode_record(self._readers.read(0, index), self.fields)
        except RecordError as error:
            name = self.info.ids[index]
            raise type(error)(f"{self.path}: record {index} (id {name!r}): {error}") from error

    def __repr__(self) -> str:
        return f"Shard({str(self.path)!r})"


def choose_fields(
    place: str, present: tuple[str, ...], wanted: Iterable[str] | None
) -> tuple[str, ...]:
    """Returns the wanted fields in the order of the schema, or all.

    Args:
      place: where they are, for the message.
      present: those that there are.
      wanted: or None for all.

    Raises:
      ValueError: not all the wanted ones are there.
    """
    if wanted is None:
        return present
    fields = schema_order(wanted)
    if missing := [name for name in fields if name not in present]:
        raise ValueError(
            f"{place}: has no fields {missing}; it has {list(present)}. Run the steps of "
            "preparation that add them"
        )
    return fields


def _open_reader(path: Path, count: int) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    if not path.is_file():
        raise ShardError("cannot be read: the shard does not exist; copy or prepare it again")
    reader = ArrayRecordReader(str(path), _READER_OPTIONS, file_reader_buffer_size=_READER_BUFFER)
    if not reader.ok():
        raise ShardError(
            f"cannot be read: the shard is cut off or damaged ({_reason(reader)}); copy or "
            "prepare it again"
        )
    if reader.num_records() != count:
        raise ShardError(
            f"cannot be read: the shard holds {reader.num_records()} records where {count} are "
            "expected; it is of another run"
        )
    return reader


def _reason(reader: Any) -> str:
    """Returns why a file could not be opened, which only closing it tells."""
    try:
        reader.close()
    except RuntimeError as error:
        return str(error)
    return "no reason given"
