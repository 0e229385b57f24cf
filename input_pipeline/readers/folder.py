"""A folder of images with captions, as Hugging Face's imagefolder or img2dataset leave it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from input_pipeline.readers.examples import PHOTO_FIELDS, Example, read_example
from input_pipeline.readers.layout import PHOTO_SUFFIXES, Layout, Tally, clean_captions, digest
from input_pipeline.schema import Record

METADATA = "metadata.jsonl"
_CAPTION_KEYS = ("text", "texts", "caption", "captions", "prompt")

_LAYOUT = f"""\
  ROOT/**/<image>.jpg                    or .jpeg, .png, .webp, in any depth of folders
  and captions in one of two ways:
  ROOT/{METADATA}                    a line for each: {{"file_name": "a/b.jpg", "text": "..."}}
  ROOT/**/<image>.txt                    beside each image, one caption on each line"""


class FolderReader:
    """A record source: one record for each captioned image, in the order of paths.

    The id of a record is its image's path in the folder, without suffix.

    Args:
      root: the folder.
      name: of the data set.
      need_captions: whether images without a caption are left out; otherwise they have none.

    Raises:
      LayoutError: the folder cannot be read, its captions are damaged, or no record is left.
    """

    palette = None

    def __init__(
        self, root: str | Path, name: str = "folder", *, need_captions: bool = True
    ) -> None:
        self.name = name
        self.fields = PHOTO_FIELDS
        layout, tally = Layout(name, _LAYOUT), Tally()
        images = _images(Path(root), layout, tally)
        listed = _listed_captions(Path(root), layout)
        for path in sorted(listed.keys() - images.values() if listed is not None else ()):
            tally.add("image file missing", path)
        examples = []
        for key in sorted(images):
            path = images[key]
            captions = (
                _sidecar(Path(root, path), layout) if listed is None else listed.get(path, [])
            )
            if captions or not need_captions:
                examples.append(Example(key, tuple(captions), os.path.join(root, path)))
            else:
                tally.add("no caption", path)
        layout.check()
        layout.check_any(examples, tally)
        self._examples = tuple(examples)
        self.left_out, self.left_out_examples = tally.counts, tally.examples
        self.contents = digest((example.id, example.captions) for example in self._examples)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        return read_example(self.name, self._examples[index])


def _images(root: Path, layout: Layout, tally: Tally) -> dict[str, str]:
    """Returns the paths of images in a folder by their ids, both with forward slashes."""
    found: dict[str, str] = {}

    def unreadable(error: OSError) -> None:
        layout.note(f"folder {error.filename} cannot be read: {error.strerror}")

    for folder, folders, files in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            stem, suffix = os.path.splitext(file)
            if file.startswith(".") or suffix.lower() not in PHOTO_SUFFIXES:
                continue
            inner = Path(folder, file).relative_to(root)
            key = inner.with_name(stem).as_posix()
            if key in found:
                tally.add("another image of the same name", inner.as_posix())
            else:
                found[key] = inner.as_posix()
    return found


def _listed_captions(root: Path, layout: Layout) -> dict[str, list[str]] | None:
    """Returns captions by path from the metadata file; None if there is none."""
    path = root / METADATA
    if not path.is_file():
        return None
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            captions.setdefault(_file_name(row), []).extend(_captions_in(row))
        except (ValueError, RecursionError) as error:
            layout.note(f"file {path}, line {number}: {error}")
    return captions


def _file_name(row: Any) -> str:
    name = row.get("file_name") if isinstance(row, Mapping) else None
    if not isinstance(name, str):
        raise ValueError('has no text "file_name"')
    return Path(name).as_posix()


def _captions_in(row: Mapping[str, Any]) -> list[str]:
    for key in _CAPTION_KEYS:
        value = row.get(key)
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            return clean_captions(texts)
    raise ValueError(f"has no caption under {', '.join(_CAPTION_KEYS)}")


def _sidecar(image: Path, layout: Layout) -> list[str]:
    """Returns the captions in the text file beside an image."""
    path = image.with_suffix(".txt")
    try:
        return clean_captions(path.read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        layout.note(f"file {path} cannot be read as UTF-8 text: {error}")
        return []
