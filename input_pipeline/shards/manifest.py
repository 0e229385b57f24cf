"""What a folder of shards holds, in one file that is written last.

    FOLDER/manifest.json                                   `Manifest`
    FOLDER/index.npz                                       id, height and width of every record
    FOLDER/dataset_info.json features.json                 for tensorflow-datasets
    FOLDER/NAME-SPLIT.array_record-00000-of-00016 ...      the shards
    FOLDER/NAME-SPLIT.array_record-00000-of-00016.json ... `ShardInfo`, for preparation only

A folder is one split of one data set. Nothing in these files depends on the time, the machine or
the number of processes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.schema import BY_NAME
from input_pipeline.shards.shard import SHARD_NAME, schema_order

SCHEMA_VERSION = 1
"""Of the records' fields, their storage and this file; another version is not read."""

MANIFEST = "manifest.json"
INDEX = "index.npz"
REQUIRED_FIELDS = ("id", "height", "width")


class ManifestError(ValueError):
    """A folder of shards that cannot be described or read; the message lists all problems."""


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file of the folder: name, size and SHA-256."""

    file: str
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class ShardEntry(FileEntry):
    """A shard of the folder, and how many records it holds."""

    records: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds.

    Attributes:
      schema_version: `SCHEMA_VERSION` of the code that wrote it.
      name: of the data set.
      split: of the data set.
      palette: that its segmentations are in, or None.
      fields: of all records, in the order of the schema.
      records: number of all.
      shards: in order; the records of the data set are theirs, one shard after the other.
      files: the other files.
      settings: of the steps that made it.
      sources: that it was made from.
    """

    schema_version: int
    name: str
    split: str
    palette: str | None
    fields: tuple[str, ...]
    records: int
    shards: tuple[ShardEntry, ...]
    files: tuple[FileEntry, ...]
    settings: Mapping[str, Any]
    sources: Mapping[str, Any]


def read_manifest(folder: str | Path) -> Manifest:
    """Returns the description of a folder of shards, after checking it; opens no shard.

    Args:
      folder: that `write_manifest` has written.

    Raises:
      ManifestError: there is none, or it is damaged or of another version; all problems.
    """
    folder = Path(folder)
    try:
        entries = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise ManifestError(
            f"{folder}: holds no {MANIFEST}; preparation writes it when all shards are there"
        ) from error
    except ValueError as error:
        raise ManifestError(f"{folder / MANIFEST}: is no JSON ({error}); copy it again") from error
    problems = _entry_problems(entries)
    if problems:
        raise ManifestError(listed_problems(folder / MANIFEST, "cannot be used", problems))
    return Manifest(
        **{
            **entries,
            "fields": tuple(entries["fields"]),
            "shards": tuple(ShardEntry(**shard) for shard in entries["shards"]),
            "files": tuple(FileEntry(**file) for file in entries["files"]),
        }
    )


def name_and_split(file: str) -> tuple[str, str]:
    """Returns which data set and split a shard is of.

    Args:
      file: its name.
    """
    match = SHARD_NAME.fullmatch(file)
    return (match["name"], match["split"]) if match else ("", "")


def name_problems(files: Sequence[str]) -> list[str]:
    """Returns what is wrong with the names of shards, which should be all those of one data set.

    Args:
      files: their names.
    """
    matches = [SHARD_NAME.fullmatch(file) for file in files]
    problems = [
        f"{file!r} is no name of a shard"
        for file, match in zip(files, matches, strict=True)
        if match is None
    ]
    named = [match for match in matches if match]
    kinds = {(match["name"], match["split"], match["count"]) for match in named}
    if len(kinds) > 1:
        problems.append(f"shards of several data sets or runs: {sorted(kinds)}")
    elif kinds:
        count = int(named[0]["count"])
        numbers = {int(match["number"]) for match in named}
        if missing := sorted(set(range(count)) - numbers):
            problems.append(f"of {count} shards, these are missing: {missing}")
        if len(numbers) < len(named):
            problems.append("a shard is there twice")
    return problems


def _entry_problems(entries: Any) -> list[str]:
    """Returns what is wrong with the contents of a manifest."""
    if not isinstance(entries, dict):
        return [f"it is a {type(entries).__name__}, expected names and values"]
    version = entries.get("schema_version")
    if version != SCHEMA_VERSION:
        return [
            f"its schema_version is {version!r}, this program reads {SCHEMA_VERSION}; use the "
            "program that wrote it, or prepare the data again"
        ]
    expected = {field.name for field in dataclasses.fields(Manifest)}
    problems = [f"{name!r} is missing" for name in sorted(expected - entries.keys())]
    problems += [f"{name!r} is unknown" for name in sorted(entries.keys() - expected)]
    for name, kinds in _KINDS.items():
        if name in entries and type(entries[name]) not in kinds:
            problems.append(f"{name!r} is {entries[name]!r:.60}")
    problems += _list_problems("shards", ShardEntry, entries)
    problems += _list_problems("files", FileEntry, entries)
    return problems or _disagreements(entries)


_KINDS: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "split": (str,),
    "palette": (str, type(None)),
    "fields": (list,),
    "records": (int,),
    "shards": (list,),
    "files": (list,),
    "settings": (dict,),
    "sources": (dict,),
}


def _list_problems(name: str, entry: type, entries: Mapping[str, Any]) -> list[str]:
    items = entries.get(name)
    expected = {
        field.name: str if field.name in ("file", "sha256") else int
        for field in dataclasses.fields(entry)
    }
    return [
        f"{name}[{position}] is {item!r:.60}, expected {', '.join(expected)}"
        for position, item in enumerate(items if isinstance(items, list) else ())
        if not isinstance(item, dict)
        or item.keys() != expected.keys()
        or any(type(item[key]) is not kind for key, kind in expected.items())
    ]


def _disagreements(entries: Mapping[str, Any]) -> list[str]:
    """Returns where a manifest of the right form disagrees with itself or with the schema."""
    problems = name_problems([shard["file"] for shard in entries["shards"]])
    unknown = [name for name in entries["fields"] if type(name) is not str or name not in BY_NAME]
    if unknown:
        problems.append(f"fields {unknown} are unknown to this program")
    elif tuple(entries["fields"]) != schema_order(entries["fields"]):
        problems.append(f"fields {entries['fields']} are not in the order of the schema")
    if missing := [name for name in REQUIRED_FIELDS if name not in entries["fields"]]:
        problems.append(f"fields {missing} are missing, which all data sets need")
    total = sum(shard["records"] for shard in entries["shards"])
    if total != entries["records"] or total < 1:
        problems.append(f"it tells of {entries['records']} records, its shards of {total}")
    outside = [file["file"] for file in entries["files"] if Path(file["file"]).name != file["file"]]
    if outside:
        problems.append(f"files {outside} are outside its folder")
    if INDEX not in [file["file"] for file in entries["files"]]:
        problems.append(f"it does not tell of {INDEX}")
    named = {name_and_split(shard["file"]) for shard in entries["shards"]}
    if named != {(entries["name"], entries["split"])}:
        problems.append(
            f"it is called {entries['name']!r}, {entries['split']!r}, its shards {sorted(named)}"
        )
    return problems


def listed_problems(place: Path, what: str, problems: Sequence[str]) -> str:
    """Returns one message about several problems.

    Args:
      place: the file or folder.
      what: is the matter with it.
      problems: at least one.
    """
    return f"{place}: {what}:" + "".join(f"\n  {problem}" for problem in problems)
