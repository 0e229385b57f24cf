"""What a raw data set should look like on disk, and what was found instead.

A reader notes all that is missing and then fails once, with the whole list. What a data set holds
but cannot be used, such as images without a caption, is no fault: it is left out and counted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

_SHOWN = 10
_EXAMPLES = 5


class LayoutError(ValueError):
    """A raw data set that is not laid out as expected; the message lists all that is wrong."""


class Layout:
    """Looks at the files of a raw data set and collects what is wrong with them.

    Args:
      name: of the data set.
      expected: its layout, for messages; one line for each file or folder.
    """

    def __init__(self, name: str, expected: str) -> None:
        self.name = name
        self.expected = expected
        self.problems: list[str] = []

    def note(self, problem: str) -> None:
        """Keeps a problem for `check`."""
        self.problems.append(problem)

    def file_names(self, folder: str | Path) -> frozenset[str]:
        """Returns the names of all files of a folder, hidden ones left out."""
        return self._names(folder, os.DirEntry.is_file)

    def folder_names(self, folder: str | Path) -> frozenset[str]:
        """Returns the names of all folders in a folder, hidden ones left out."""
        return self._names(folder, os.DirEntry.is_dir)

    def stems(self, folder: str | Path, suffixes: Sequence[str]) -> dict[str, str]:
        """Returns the names of a folder's files by what is before their suffix, in their order.

        Args:
          folder: to look at.
          suffixes: of the files that count, in lower case. Of two files with one stem, that with
            the earlier suffix counts.
        """
        found: dict[str, tuple[int, str]] = {}
        for name in sorted(self.file_names(folder)):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in suffixes:
                candidate = (suffixes.index(suffix.lower()), name)
                found[stem] = min(candidate, found.get(stem, candidate))
        return {stem: name for stem, (_, name) in found.items()}

    def json(self, path: str | Path, keys: Iterable[str] = ()) -> Any:
        """Returns what a JSON file holds, or None if it cannot be used.

        Args:
          path: of the file.
          keys: that must hold lists; if there are any, the file must hold an object.
        """
        try:
            content = json.loads(Path(path).read_bytes())
        except OSError as error:
            self.note(f"file {path} cannot be read: {error.strerror}")
        except (ValueError, RecursionError) as error:
            self.note(f"file {path} is no JSON: {error}")
        else:
            keys = list(keys)
            wrong = [key for key in keys if not isinstance(_item(content, key), list)]
            if not wrong:
                return content
            self.note(f"file {path} has no list {' and no list '.join(map(repr, wrong))}")
        return None

    def caption_lists(self, path: str | Path) -> dict[str, list[str]]:
        """Returns captions by file stem, from a JSON file {stem: [captions]}."""
        content = self.json(path)
        if content is None:
            return {}
        if not isinstance(content, dict):
            self.note(f"file {path} holds no object, expected captions as {{stem: [captions]}}")
            return {}
        wrong = [stem for stem, captions in content.items() if not _is_texts(captions)]
        if wrong:
            shown = ", ".join(map(repr, wrong[:_SHOWN]))
            self.note(f"file {path} holds no list of texts for {len(wrong)} stems, as {shown}")
        return {
            stem: clean_captions(captions)
            for stem, captions in content.items()
            if _is_texts(captions)
        }

    def check(self) -> None:
        """Raises one error with all problems, if there are any.

        Raises:
          LayoutError: there is a problem.
        """
        if self.problems:
            listed = self.problems[:_SHOWN]
            if len(self.problems) > _SHOWN:
                listed.append(f"and {len(self.problems) - _SHOWN} more")
            raise LayoutError(
                f"{self.name}: the raw data set is not as expected:\n  "
                + "\n  ".join(listed)
                + f"\nexpected layout:\n{self.expected}"
            )

    def check_any(self, records: Collection[Any], tally: Tally) -> None:
        """Raises an error if no record is left.

        Args:
          records: of the reader.
          tally: of what it left out.

        Raises:
          LayoutError: there is no record.
        """
        if not records:
            reasons = ", ".join(
                f"{reason}: {count}, as {', '.join(tally.examples[reason])}"
                for reason, count in tally.counts.items()
            )
            self.note(f"no record is left ({reasons or 'nothing was found'})")
            self.check()

    def _names(
        self, folder: str | Path, is_wanted: Callable[[os.DirEntry[str]], bool]
    ) -> frozenset[str]:
        try:
            with os.scandir(folder) as entries:
                # Hidden files are those of the system, as macOS leaves one beside each file.
                return frozenset(
                    entry.name
                    for entry in entries
                    if not entry.name.startswith(".") and is_wanted(entry)
                )
        except OSError as error:
            self.note(f"folder {folder} cannot be read: {error.strerror}")
            return frozenset()


class Tally:
    """Counts what a reader leaves out.

    Attributes:
      counts: by reason.
      examples: by reason, the first few.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, example: str) -> None:
        """Counts one record, or what would have been one."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(example)


def digest(rows: Iterable[object]) -> str:
    """Returns a short text that tells one choice of records and captions from another.

    Args:
      rows: texts, numbers and tuples of them: what the records are made of, beside their files.
    """
    found = hashlib.sha256()
    for row in rows:
        found.update(repr(row).encode("utf-8", "surrogatepass") + b"\n")
    return found.hexdigest()[:16]


def clean_caption(text: str) -> str:
    """Returns a caption on one line, with single spaces; all other signs stay."""
    return " ".join(text.split())


def clean_captions(texts: Iterable[str]) -> list[str]:
    """Returns captions on one line each; those without any sign are left out."""
    return [caption for text in texts if (caption := clean_caption(text))]


def _item(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, Mapping) else None


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
