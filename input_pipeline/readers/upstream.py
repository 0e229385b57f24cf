"""The prepared data of Compose and Conquer's own scripts, so that it need not be made again.

Upstream trains on 512 x 512 pixels. Masks, backgrounds and depth maps have that size, while an
image may be the original one: then it is cut here just as upstream cuts it, or its maps would not
lie on it.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from input_pipeline.codecs import encode_picture
from input_pipeline.image_files import mask_values, to_unit_range
from input_pipeline.readers.examples import PHOTO_FIELDS, photo_record, place
from input_pipeline.readers.layout import PHOTO_SUFFIXES, Layout, Tally, clean_caption, digest
from input_pipeline.readers.pictures import (
    Photo,
    open_image,
    photo_pixels,
    read_bytes,
    stored_photo,
)
from input_pipeline.schema import Record, RecordError

if TYPE_CHECKING:
    from jaxtyping import UInt8

    ReadEmbedding = Callable[[Path], np.ndarray]

# JPEG's rounding makes the three equal channels of a depth map differ by a level or two.
_MOST_COLOUR = 8
_LAYOUT = """\
  BASE/<split>_captions.txt                       lines "uid:caption"
  BASE/<split>/<uid>.jpg
  BASE/<split>_mask/<uid>.png                     this and the following are optional
  BASE/<split>_background/<uid>.jpg
  BASE/<split>_foreground_depthmaps/<uid>.jpg
  BASE/<split>_background_depthmaps/<uid>.jpg
  BASE/<split>_foreground_embeddings/<uid>.pt     of the whole image
  BASE/<split>_background_embeddings/<uid>.pt"""


_UID = re.compile(r"(?=.*\d)[0-9A-Fa-f][0-9A-Fa-f_-]*")


@dataclasses.dataclass(frozen=True)
class _Part:
    """Where a field of records is kept: the end of its folder's name and of its files' names."""

    folder: str
    suffixes: tuple[str, ...]


# The folder _foreground is not among them: it is the image times the mask.
PARTS = {
    "mask": _Part("_mask", (".png", ".jpg")),
    "background": _Part("_background", PHOTO_SUFFIXES),
    "foreground_depth": _Part("_foreground_depthmaps", (".jpg", ".png")),
    "background_depth": _Part("_background_depthmaps", (".jpg", ".png")),
    "image_embedding": _Part("_foreground_embeddings", (".pt",)),
    "background_embedding": _Part("_background_embeddings", (".pt",)),
}
_MAPS = ("mask", "foreground_depth", "background_depth")
_EMBEDDINGS = ("image_embedding", "background_embedding")


@dataclasses.dataclass(frozen=True)
class _Example:
    uid: str
    caption: str
    image: str
    parts: dict[str, str]


class UpstreamReader:
    """A record source: one record for each caption all of whose files exist, sorted by uid.

    Captions keep their colons, which upstream's loader drops with the whole record.

    Args:
      base: folder of the tree.
      split: "train", "val", "train2017" or as the tree has it.
      read_embedding: gives the vector in a `.pt` file, and must not run what a pickle says: a
        function on top of `sd_jax.files.open_tensors` does, `torch.load` does not. Needed if
        embeddings are read.
      parts: fields to read, of `PARTS`; None reads those whose folders exist.
      name: of the data set; "cnc-" and the split by default.

    Raises:
      LayoutError: files are missing, or are no such files; or no record is left.
    """

    palette = None

    def __init__(
        self,
        base: str | Path,
        split: str = "train",
        read_embedding: ReadEmbedding | None = None,
        *,
        parts: Sequence[str] | None = None,
        name: str | None = None,
    ) -> None:
        self.name = name or f"cnc-{split}"
        self._read_embedding = read_embedding
        layout, tally = Layout(self.name, _LAYOUT), Tally()
        folders = {part: os.path.join(base, split + where.folder) for part, where in PARTS.items()}
        if parts is None:
            parts = [part for part in PARTS if os.path.isdir(folders[part])]
        for part in parts:
            if part not in PARTS:
                layout.note(f"part {part!r} is unknown, expected some of {list(PARTS)}")
        self._parts = tuple(part for part in PARTS if part in parts)
        if read_embedding is None and (wanted := [p for p in self._parts if p in _EMBEDDINGS]):
            layout.note(
                f"{' and '.join(wanted)} cannot be read without the argument read_embedding; "
                "pass it, or name the parts to read without them"
            )
        self.fields = (*PHOTO_FIELDS, *self._parts)
        images = layout.stems(Path(base) / split, PHOTO_SUFFIXES)
        captions = _read_captions(Path(base) / f"{split}_captions.txt", images, layout, tally)
        files = {part: layout.stems(folders[part], PARTS[part].suffixes) for part in self._parts}
        layout.check()

        self._examples: list[_Example] = []
        for uid, caption in sorted(captions.items()):
            lacking = [part for part in self._parts if uid not in files[part]]
            if uid not in images:
                tally.add("image file missing", uid)
            elif lacking:
                tally.add(f"{' and '.join(lacking)} file missing", uid)
            else:
                paths = {p: os.path.join(folders[p], files[p][uid]) for p in self._parts}
                image = os.path.join(base, split, images[uid])
                self._examples.append(_Example(uid, caption, image, paths))
        layout.check_any(self._examples, tally)
        self.left_out, self.left_out_examples = tally.counts, tally.examples
        self.contents = digest((example.uid, example.caption) for example in self._examples)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        example = self._examples[index]
        maps = {part: self._map(example, part) for part in self._parts if part in _MAPS}
        size = _common_size(maps, f"{self.name}/{example.uid}")
        background = None
        if "background" in self._parts:
            background = self._photo(example, example.parts["background"], size)
            size = background.size
        photo = self._photo(example, example.image, size)
        record = photo_record(self.name, example.uid, (example.caption,), photo)
        if background is not None:
            record["background"] = background.data
        for part, values in maps.items():
            record[part] = encode_picture(values, "grey" if part == "mask" else "deep")
        for part in self._parts:
            if part in _EMBEDDINGS:
                record[part] = self._embedding(example, part)
        return record

    def _photo(self, example: _Example, path: str, size: tuple[int, int] | None) -> Photo:
        """Returns a photo, cut to a size if it has another."""
        where = place(self.name, example.uid, path)
        photo = stored_photo(read_bytes(path, where), where)
        if size is None or photo.size == size:
            return photo
        if size[0] != size[1]:
            raise RecordError(
                f"{where} has {photo.height} x {photo.width} pixels and the rest of the record "
                f"{size[0]} x {size[1]}; expected the same, or squares for which it is to be cut"
            )
        pixels = photo_pixels(open_image(photo.data, where), where)
        return Photo(encode_picture(_cut_square(pixels, size[0]), "photo"), *size)

    def _map(self, example: _Example, part: str) -> np.ndarray:
        path = example.parts[part]
        where = place(self.name, example.uid, path)
        image = open_image(read_bytes(path, where), where)
        if part == "mask":
            try:
                values = to_unit_range(where, mask_values(where, image))
            except ValueError as error:
                raise RecordError(str(error)) from error
            # Upstream's masks have soft rims, as they are resized after they are made.
            return np.where(values >= 0.5, 255, 0).astype(np.uint8)
        if image.mode.startswith("I;16"):
            return np.asarray(image).astype(np.uint16)
        pixels = photo_pixels(image, where)
        colour = int((pixels.max(axis=-1) - pixels.min(axis=-1)).max())
        if colour > _MOST_COLOUR:
            raise RecordError(f"{where} has colours, expected a depth map of three equal channels")
        return np.asarray(Image.fromarray(pixels).convert("L")).astype(np.uint16) * 257

    def _embedding(self, example: _Example, part: str) -> np.ndarray:
        path = example.parts[part]
        where = place(self.name, example.uid, path)
        if self._read_embedding is None:
            raise RecordError(f"{where} cannot be read without the argument read_embedding")
        try:
            embedding = np.asarray(self._read_embedding(Path(path))).astype(np.float32)
        except (OSError, ValueError, TypeError) as error:
            raise RecordError(f"{where} cannot be read: {error}") from error
        if not embedding.ndim or embedding.size != embedding.shape[-1]:
            raise RecordError(f"{where} has shape {embedding.shape}, expected one vector")
        if not np.isfinite(embedding).all():
            raise RecordError(f"{where} has values that are NaN or infinite")
        return embedding.reshape(-1)


def _read_captions(
    path: Path, images: Collection[str], layout: Layout, tally: Tally
) -> dict[str, str]:
    """Returns captions by uid.

    Upstream writes a prompt's line breaks as they are: a line that does not begin with a uid and a
    colon goes on with the caption before, even if it begins with "Style:".
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        layout.note(f"file {path} cannot be read: {error.strerror}")
        return {}
    except UnicodeDecodeError as error:
        layout.note(f"file {path} is no UTF-8 text: {error}")
        return {}
    entries: list[tuple[str, list[str]]] = []
    # splitlines would also break at signs that are part of captions.
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        uid, colon, caption = line.partition(":")
        # Of images that are missing, uids are known by their looks: numbers or hexadecimal.
        if colon and (uid in images or _UID.fullmatch(uid)):
            entries.append((uid, [caption]))
        elif entries:
            entries[-1][1].append(line)
        elif line.strip():
            tally.add("line without uid", line[:40])
    found: dict[str, str] = {}
    for uid, lines in entries:
        caption = clean_caption(" ".join(lines))
        if not caption:
            tally.add("no caption", uid)
        elif uid in found:
            tally.add("duplicate uid", uid)
        else:
            found[uid] = caption
    return found


def _common_size(maps: dict[str, np.ndarray], where: str) -> tuple[int, int] | None:
    sizes = {part: (values.shape[0], values.shape[1]) for part, values in maps.items()}
    if len(set(sizes.values())) > 1:
        raise RecordError(f"{where} has maps of several sizes, expected one: {sizes}")
    return next(iter(sizes.values()), None)


def _cut_square(pixels: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Returns the middle of a photo whose short side is resized, as torchvision rounds it."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    height, width = (size * n // short for n in (height, width))
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.asarray(resized)[top : top + size, left : left + size]
