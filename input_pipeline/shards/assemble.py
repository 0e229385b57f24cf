"""Finished shards -> a data set: the files that describe them, the manifest last."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.shards.atomic import write_file
from input_pipeline.shards.index import index_file
from input_pipeline.shards.manifest import (
    INDEX,
    MANIFEST,
    REQUIRED_FIELDS,
    SCHEMA_VERSION,
    FileEntry,
    Manifest,
    ManifestError,
    ShardEntry,
    listed_problems,
    name_and_split,
    name_problems,
    read_manifest,
)
from input_pipeline.shards.shard import ShardInfo
from input_pipeline.shards.tfds_builder import tfds_files


def write_manifest(
    folder: str | Path,
    shards: Sequence[ShardInfo],
    palette: str | None = None,
    settings: Mapping[str, Any] | None = None,
    sources: Mapping[str, Any] | None = None,
) -> Manifest:
    """Makes a data set of finished shards, and returns its description.

    Args:
      folder: that the shards are in.
      shards: all of them, in any order; name and split of the data set are in their file names.
      palette: that segmentations are in.
      settings: that made the records; anything JSON has.
      sources: that they were made from, such as paths, versions and checksums; the same.

    Raises:
      ManifestError: shards are missing, do not fit together, or records are there twice.
    """
    folder = Path(folder)
    shards = sorted(shards, key=lambda shard: shard.file)
    problems = _shard_problems(folder, shards)
    if problems:
        raise ManifestError(listed_problems(folder, "shards do not make a data set", problems))
    name, split = name_and_split(shards[0].file)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        split=split,
        palette=palette,
        fields=shards[0].fields,
        records=sum(shard.records for shard in shards),
        shards=tuple(
            ShardEntry(shard.file, shard.bytes, shard.sha256, shard.records) for shard in shards
        ),
        files=(),
        settings=dict(settings or {}),
        sources=dict(sources or {}),
    )
    files = {INDEX: index_file(shards), **tfds_files(manifest)}
    entries = tuple(
        FileEntry(file, len(data), hashlib.sha256(data).hexdigest())
        for file, data in sorted(files.items())
    )
    files[MANIFEST] = _to_json(folder, dataclasses.replace(manifest, files=entries))
    # A data set that is as it should be may be in use.
    if any(not _holds(folder / file, data) for file, data in files.items()):
        # Without its manifest the folder is no data set, until all its files are there.
        (folder / MANIFEST).unlink(missing_ok=True)
        for file, data in files.items():
            write_file(folder / file, data)
    return read_manifest(folder)


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


def _to_json(folder: Path, manifest: Manifest) -> bytes:
    try:
        text = json.dumps(dataclasses.asdict(manifest), indent=1, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ManifestError(
            f"{folder}: settings or sources hold what JSON cannot: {error}"
        ) from error
    return text.encode()


def _shard_problems(folder: Path, shards: Sequence[ShardInfo]) -> list[str]:
    if not sum(shard.records for shard in shards):
        return ["they hold no records"]
    problems = name_problems([shard.file for shard in shards])
    fields = shards[0].fields
    if missing := [name for name in REQUIRED_FIELDS if name not in fields]:
        problems.append(f"{shards[0].file} has no fields {missing}, which all data sets need")
    first: dict[str, str] = {}
    for shard in shards:
        if shard.fields != fields:
            problems.append(
                f"{shard.file} has fields {list(shard.fields)}, {shards[0].file} {list(fields)}"
            )
        path = folder / shard.file
        if not path.is_file():
            problems.append(f"{shard.file} is missing")
        elif path.stat().st_size != shard.bytes:
            problems.append(f"{shard.file} has {path.stat().st_size} bytes, expected {shard.bytes}")
        if min(shard.heights + shard.widths, default=1) < 1:
            problems.append(f"{shard.file} has images without height or width")
        for name in shard.ids:
            if name in first:
                problems.append(f"record {name!r} is in {first[name]} and in {shard.file}")
            first[name] = shard.file
    return problems
