"""Whether a folder of shards is what its manifest says, down to every picture."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from input_pipeline.codecs import decode_field
from input_pipeline.schema import Record, RecordError
from input_pipeline.shards.atomic import is_temporary
from input_pipeline.shards.index import RecordIndex, read_index
from input_pipeline.shards.manifest import (
    FileEntry,
    Manifest,
    ManifestError,
    read_manifest,
)
from input_pipeline.shards.readers import ShardError
from input_pipeline.shards.records import ShardedRecords
from input_pipeline.shards.shard import file_sha256

_REMEDY = "copy it again, or remove it and prepare again"


def verify(
    folder: str | Path,
    progress: Callable[[int, int], None] | None = None,
    quick: bool = False,
    threads: int = 1,
) -> list[str]:
    """Returns all that is wrong with a folder of shards, one text each; none if all is well.

    Args:
      folder: that `write_manifest` has written.
      progress: is told how many records are done, and of how many, after each shard.
      quick: only look for missing and extra files and at their sizes. Otherwise all files are
        read, checksums compared, and all pictures decoded.
      threads: that read and decode.
    """
    folder = Path(folder)
    try:
        manifest = read_manifest(folder)
    except ManifestError as error:
        return [str(error)]
    problems = [f"{path}: is no shard of this data set" for path in _extra(folder, manifest)]
    for file in (*manifest.files, *(manifest.shards if quick else ())):
        problems += _file_problems(folder, file, quick)
    if quick:
        return problems
    try:
        index = read_index(folder, manifest)
    except ManifestError as error:
        return [*problems, str(error)]
    check = functools.partial(_shard_problems, ShardedRecords(folder), index)
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(check, range(len(manifest.shards)))
        for shard, found in zip(manifest.shards, results, strict=True):
            problems += found
            done += shard.records
            if progress is not None:
                progress(done, manifest.records)
    return problems


def _extra(folder: Path, manifest: Manifest) -> list[Path]:
    """Returns the shards that the manifest does not know; the notes about shards may stay."""
    known = {shard.file for shard in manifest.shards}
    return sorted(
        path
        for path in folder.iterdir()
        if ".array_record" in path.name
        and path.name not in known
        and path.suffix != ".json"
        and not is_temporary(path.name)
    )


def _file_problems(folder: Path, entry: FileEntry, quick: bool) -> list[str]:
    path = folder / entry.file
    if not path.is_file():
        return [f"{path}: is missing; copy or prepare it again"]
    size = path.stat().st_size
    if size != entry.bytes:
        return [f"{path}: has {size} bytes, expected {entry.bytes}; {_REMEDY}"]
    if not quick and file_sha256(path) != entry.sha256:
        return [f"{path}: its SHA-256 is not the manifest's; {_REMEDY}"]
    return []


def _shard_problems(source: ShardedRecords, index: RecordIndex, shard: int) -> list[str]:
    """Returns what is wrong with one shard and its records."""
    entry = source.manifest.shards[shard]
    problems = _file_problems(source.folder, entry, quick=False)
    before = sum(earlier.records for earlier in source.manifest.shards[:shard])
    for row in range(before, before + entry.records):
        try:
            record = source[row]
        except ShardError as error:
            # One of all its records is enough.
            return problems or [str(error)]
        except RecordError as error:
            problems.append(str(error))
            continue
        place = source.describe(row)
        problems += [f"{place}: {text}" for text in _index_problems(record, index, row)]
        problems += _decoding_problems(place, record)
    return problems


def _index_problems(record: Record, index: RecordIndex, row: int) -> Iterator[str]:
    expected = (index.ids[row], int(index.heights[row]), int(index.widths[row]))
    found = (record["id"], record["height"], record["width"])
    if found != expected:
        yield f"has id, height and width {found}, the index says {expected}"


def _decoding_problems(place: str, record: Record) -> list[str]:
    problems = []
    for name, stored in record.items():
        try:
            value = decode_field(place, name, stored)
        except RecordError as error:
            problems.append(str(error))
            continue
        size = (record["height"], record["width"])
        if name == "image" and value.shape[:2] != size:
            problems.append(
                f"{place}: field 'image' has height and width {value.shape[:2]}, the record {size}"
            )
    return problems
