"""One shard: an ArrayRecord file of records, and beside it what is known about it.

    NAME-SPLIT.array_record-00003-of-00016         the records, as `example_bytes` writes them
    NAME-SPLIT.array_record-00003-of-00016.json    the `ShardInfo`, written after it

The names are those of tensorflow-datasets. A shard without its `ShardInfo` is unfinished and
written anew. Groups of one record let single records be read; nothing is compressed, as pictures
do not shrink (a record of 1.4 MB would become 4% smaller and take 1.0 instead of 0.3 ms to read).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from input_pipeline.schema import BY_NAME, Record, RecordError, check_record
from input_pipeline.shards.atomic import new_file, write_file
from input_pipeline.shards.example_bytes import encode_record

WRITER_OPTIONS = "group_size:1,uncompressed"
SHARD_NAME = re.compile(
    r"(?P<name>[a-z][a-z0-9_]*)-(?P<split>[a-z][a-z0-9_]*)\.array_record"
    r"-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})"
)
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class ShardInfo:
    """What is known about a finished shard.

    Attributes:
      file: its name, without folder.
      bytes: its size.
      sha256: of the whole file, in hexadecimal.
      fields: of its records, in the order of the schema.
      recipe: what `write_shard` was told.
      ids: of its records.
      heights: of its records, or none if they have no such field.
      widths: the same.
      left_out: records that are not in it and why, by id.
      inputs: of what it was made, as `write_shard` was told.
    """

    file: str
    bytes: int
    sha256: str
    fields: tuple[str, ...]
    recipe: str
    ids: tuple[str, ...]
    heights: tuple[int, ...]
    widths: tuple[int, ...]
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    inputs: str = ""

    @property
    def records(self) -> int:
        """Number of records."""
        return len(self.ids)


def shard_name(name: str, number: int, count: int, split: str = "train") -> str:
    """Returns the file name of a shard.

    Args:
      name: of the data set: small letters, digits and underscores, as tensorflow-datasets has it.
      number: of the shard, from 0.
      count: of all shards.
      split: of the data set; the same letters.
    """
    if not _NAME.fullmatch(name) or not _NAME.fullmatch(split):
        raise ValueError(
            f"a data set is called {name!r} and its split {split!r}; expected a small letter, "
            "then small letters, digits and underscores"
        )
    if not 0 <= number < count <= 99_999:
        raise ValueError(f"shard {number} of {count}; expected 0 <= number < count <= 99999")
    return f"{name}-{split}.array_record-{number:05d}-of-{count:05d}"


def shard_rows(records: int, number: int, count: int) -> range:
    """Returns which records of a data set go into a shard: even parts, in order.

    Args:
      records: of the data set.
      number: of the shard, from 0.
      count: of all shards.
    """
    return range(records * number // count, records * (number + 1) // count)


def write_shard(
    path: str | Path,
    records: Iterable[Record],
    fields: Iterable[str],
    recipe: str = "",
    left_out: Mapping[str, str] | None = None,
    inputs: str = "",
) -> ShardInfo:
    """Writes a shard, whole or not at all, and returns what is known about it.

    The same records give the same bytes, whatever machine and process writes them.

    Args:
      path: folder and `shard_name`; a shard that is there is replaced.
      records: any number of them, read once.
      fields: names that each record has, no more and no fewer; `id` is one of them.
      recipe: text that tells what makes the records, such as a hash of the settings: by it
        `finished_shard` knows a shard of other settings.
      left_out: records that are left out and why, by id; read after the last record, so that
        whoever yields the records may fill it.
      inputs: text that tells what the records are made of, such as a hash of other shards.

    Raises:
      RecordError: a record has missing, unknown or wrong values, or an id twice; all problems of
        the first such record.
    """
    path = Path(path)
    names = schema_order(fields)
    if "id" not in names:
        raise ValueError(f"{path}: the fields {names} lack 'id'")
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as temporary:
        rows = _write_records(temporary, _checked(path.name, records, names), names)
        size, sha256 = temporary.stat().st_size, file_sha256(temporary)
        # Never may the old one stand beside the new shard.
        info_path(path).unlink(missing_ok=True)
    columns = {key: tuple(row[name] for row in rows if name in row) for key, name in _COLUMNS}
    left_out = dict(left_out or {})
    info = ShardInfo(
        path.name, size, sha256, names, recipe, **columns, left_out=left_out, inputs=inputs
    )
    write_file(info_path(path), json.dumps(dataclasses.asdict(info)).encode())
    return info


def finished_shard(path: str | Path, recipe: str = "") -> ShardInfo | None:
    """Returns what is known about a shard, or None if it is still to be written.

    Looks at the size of the file but not into it.

    Args:
      path: folder and `shard_name`.
      recipe: as `write_shard` had it; a shard of another recipe is still to be written.
    """
    path = Path(path)
    try:
        info = read_shard_info(path)
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    return info if info.recipe == recipe and info.bytes == size else None


def read_shard_info(path: Path) -> ShardInfo:
    """Returns what `write_shard` noted down about a shard.

    Args:
      path: of the shard.

    Raises:
      FileNotFoundError: the shard is unfinished.
      ValueError: the note is damaged.
    """
    text = info_path(path).read_text()
    try:
        entries = json.loads(text)
        lists = {key: tuple(entries[key]) for key in ("fields", "ids", "heights", "widths")}
        return ShardInfo(**(entries | lists))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{info_path(path)}: is damaged ({error}); remove it, and its shard is written anew"
        ) from error


def info_path(path: Path) -> Path:
    """Returns where the `ShardInfo` of a shard is.

    Args:
      path: of the shard.
    """
    return path.with_name(f"{path.name}.json")


def schema_order(fields: Iterable[str]) -> tuple[str, ...]:
    """Returns names of fields in the order of the schema, which must have them all.

    Args:
      fields: any; twice is as good as once.
    """
    wanted = set(fields)
    if unknown := sorted(wanted - BY_NAME.keys()):
        raise ValueError(f"no fields of a record: {unknown}; there are {list(BY_NAME)}")
    return tuple(name for name in BY_NAME if name in wanted)


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal.

    Args:
      path: of the file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Attributes of `ShardInfo` and the fields that they hold.
_COLUMNS = (("ids", "id"), ("heights", "height"), ("widths", "width"))


def _checked(
    shard: str, records: Iterable[Record], fields: tuple[str, ...]
) -> Iterator[tuple[Record, bytes]]:
    """Yields the records and their bytes; raises on the first record that cannot be stored."""
    seen: set[str] = set()
    for position, record in enumerate(records):
        problems = check_record(record, fields)
        name = record.get("id")
        if not problems and name in seen:
            problems = ["its id is that of an earlier record"]
        data = b""
        if not problems:
            seen.add(record["id"])
            try:
                data = encode_record(record, fields)
            except RecordError as error:
                problems = [str(error)]
        if problems:
            raise RecordError(
                f"{shard}: record {position} (id {name!r}) cannot be stored: {'; '.join(problems)}"
            )
        yield record, data


def _write_records(
    path: Path, checked: Iterable[tuple[Record, bytes]], fields: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Returns the id and, if there are such fields, the height and width of each record."""
    from array_record.python.array_record_module import ArrayRecordWriter

    columns = [name for _, name in _COLUMNS if name in fields]
    rows = []
    with contextlib.closing(ArrayRecordWriter(str(path), WRITER_OPTIONS)) as writer:
        for record, data in checked:
            writer.write(data)
            rows.append({name: record[name] for name in columns})
    return rows
